"""Training batches as a function of the step, whoever makes them and in whatever order.

An epoch's order is drawn from (seed, epoch) and an image's variation from (seed, epoch, index). So no batch depends on
the ones before it, on the number of workers, or on the number of processes that share it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alphanet_zoo.data.augment import CentreCrop, normalise, warp
from alphanet_zoo.data.batch import Batch, RawBatch
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.reader import BatchReader
from alphanet_zoo.data.resident import Windows
from alphanet_zoo.data.sources import ImageSource, open_source
from alphanet_zoo.errors import AlphaNetError, UsageError

BROKEN_SHARE = 1e-4
"""A run goes on with one broken image, or with this share of its images broken; beyond both it stops."""

_CPU = torch.device("cpu")
_LOG = logging.getLogger(__name__)


class TrainingBatches:
    """Augmented batches, each a function of (seed, step); whole ones only: what is left waits for another epoch.

    Args:
        config: Source, transform, batch size over all processes, workers.
        preprocessing: Mean and deviation, and the geometry of the `affine` transform's centre crop.
        seed: The run's seed.
        rank: This process, from 0: it gets the ``rank``-th slice of every batch.
        world_size: The number of processes.

    Attributes:
        classes: Names of the classes.
        labels: Those of all images, as in the source.
        steps_per_epoch: Whole batches that the images give.
        broken: Complaint of each broken image met so far, by index.

    Raises:
        UsageError: No such data, fewer images than a batch, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self, config: DataConfig, preprocessing: Preprocessing, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Opens the training images."""
        if not 0 <= rank < world_size or config.batch_size % world_size:
            raise UsageError(
                f"data.batch_size is {config.batch_size} over all processes; give a multiple of their {world_size}"
            )
        source = open_source(config)
        if len(source.labels) < config.batch_size:
            raise UsageError(
                f"{source.name} has {len(source.labels)} images, fewer than data.batch_size {config.batch_size}; "
                "give more images or a smaller batch"
            )
        self.classes, self.labels = source.classes, source.labels
        self.broken: dict[int, str] = {}
        self._reader = BatchReader(config, source, preprocessing, seed, rank, world_size)
        self.steps_per_epoch = self._reader.steps_per_epoch
        self._resident = self._reader.resident()
        self._workers, self._mean, self._std = config.workers, preprocessing.mean, preprocessing.std

    def batch(self, step: int, device: torch.device = _CPU) -> Batch:
        """The batch of one step, from 0, made in this process.

        Raises:
            AlphaNetError: More images are broken than `BROKEN_SHARE` allows.
        """
        return self._finish(self._reader[step], device)

    def stream(self, start: int, end: int, device: torch.device = _CPU) -> Generator[Batch]:
        """The batches of the steps from ``start`` up to ``end``, made ahead by the config's workers.

        Close it (`contextlib.closing`) to end the workers. Raises as `batch`.
        """
        if self._reader.config.engine == "dali":
            from alphanet_zoo.data.dali import dali_batches

            yield from dali_batches(self._reader, self._mean, self._std, start, end, device)
            return
        if self._workers == 0:
            for step in range(start, end):
                yield self.batch(step, device)
            return
        loader: DataLoader[RawBatch | AlphaNetError] = DataLoader(
            self._reader, batch_size=None, sampler=range(start, end), num_workers=self._workers, collate_fn=_as_it_is,
            pin_memory=device.type == "cuda", worker_init_fn=_leave_signals, generator=torch.Generator(),
        )  # fmt: skip
        for raw in loader:
            yield self._finish(raw, device)

    def _finish(self, raw: RawBatch | AlphaNetError, device: torch.device) -> Batch:
        """Moves, varies and normalises a whole batch, on the device where it is learnt from."""
        if isinstance(raw, AlphaNetError):
            raise raw
        self._count_broken(raw)
        labels = raw.labels.to(device, non_blocking=True)
        if isinstance(raw.images, Windows):
            assert self._resident is not None
            images = self._resident.take(raw.images, device)
        else:
            images = raw.images.to(device, non_blocking=True)
        if raw.thetas is None:
            images = normalise(images, self._mean, self._std)
        else:
            moved = warp(images.contiguous().float() / 255.0, raw.thetas.to(device))
            mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (self._mean, self._std))
            images = ((moved - mean) / std).contiguous(memory_format=torch.channels_last)
        return Batch(raw.epoch, tuple(raw.indices), images, labels)

    def _count_broken(self, raw: RawBatch) -> None:
        """Logs each broken image once; raises where they are too many."""
        for index, complaint in raw.broken:
            if index not in self.broken:
                self.broken[index] = complaint
                _LOG.warning("%s; another image takes its place (broken so far: %d)", complaint, len(self.broken))
        total = len(self._reader)
        if len(self.broken) > max(1, BROKEN_SHARE * total):
            listed = "; ".join(complaint for _, complaint in sorted(self.broken.items()))
            raise AlphaNetError(
                f"{len(self.broken)} of {total} training images are broken, more than {BROKEN_SHARE:.2%}: {listed}"
            )


def evaluation_batches(
    source: ImageSource, preprocessing: Preprocessing, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images ``(N, 3, S, S)``, as the evaluation sees them, and labels ``(N,)``: every ``world_size``-th one, in order.

    Raises:
        AlphaNetError: An image is broken: an accuracy over other images than named is none.
    """
    crop = CentreCrop(preprocessing)
    own = range(rank, len(source.labels), world_size)
    for start in range(0, len(own), batch_size):
        chosen = own[start : start + batch_size]
        images = torch.stack([crop.fixed(source.load(index)) for index in chosen])
        yield normalise(images, preprocessing.mean, preprocessing.std), source.labels[list(chosen)]


def _as_it_is(item: Any) -> Any:
    """No collation: a worker makes whole batches."""
    return item


def _leave_signals(_: int) -> None:
    """Leaves SIGINT and SIGTERM to the main process, which ends the step, saves, and ends the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
