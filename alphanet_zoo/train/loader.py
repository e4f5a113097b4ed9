"""Training batches as a function of the step, whoever makes them and in whatever order.

An epoch's order is drawn from (seed, epoch) and an image's variation from (seed, epoch, index). So no batch depends on
the ones before it, on the number of workers, or on the number of processes that share it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.train.augment import CentreCrop, draw_affine, make_transform, normalise, warp
from alphanet_zoo.train.config import DataConfig
from alphanet_zoo.train.draws import generator
from alphanet_zoo.train.sources import ImageSource, open_source
from alphanet_zoo.zoo.preprocess import Preprocessing

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which prepared images are kept in memory."""

BROKEN_SHARE = 1e-4
"""A run goes on with one broken image, or with this share of its images broken; beyond both it stops."""

_SUBSTITUTES = 16
_CPU = torch.device("cpu")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What one process learns from in one step.

    Attributes:
        epoch: The epoch, from 0.
        indices: ``(N,)`` which images of the source.
        images: ``(N, 3, S, S)`` float32, varied and normalised, channels-last in memory.
        labels: ``(N,)`` class indices.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor
    labels: Tensor

    def split(self, parts: int) -> list[Batch]:
        """Equal parts in order, to accumulate gradients over: those that as many processes would get.

        Raises:
            ValueError: They would not be equal.
        """
        if parts < 1 or len(self.indices) % parts:
            raise ValueError(f"a batch of {len(self.indices)} images does not make {parts} equal parts")
        size = len(self.indices) // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        return [Batch(self.epoch, self.indices[cut], self.images[cut], self.labels[cut]) for cut in cuts]


class RawBatch(NamedTuple):
    """What a worker hands over: a quarter of a `Batch`'s bytes.

    Attributes:
        epoch: The epoch, from 0.
        indices: Which images were asked for.
        images: ``(N, 3, S, S)`` uint8, channels-last in memory.
        labels: ``(N,)``; a substitute's where an image is broken.
        thetas: ``(N, 2, 3)`` affine moves still to be made, or None.
        broken: Index and complaint of each broken image that was met.
    """

    epoch: int
    indices: tuple[int, ...]
    images: Tensor
    labels: Tensor
    thetas: Tensor | None
    broken: tuple[tuple[int, str], ...]


class BatchReader(Dataset["RawBatch | AlphaNetError"]):
    """Makes the raw batch of any step, in this process or in a worker.

    Args:
        config: Batch size and transform.
        source: The images.
        preprocessing: Geometry of the centre crop that the `affine` transform starts from.
        seed: The run's seed.
        rank: Which slice of every global batch is made, from 0.
        world: How many equal slices there are.
    """

    def __init__(
        self, config: DataConfig, source: ImageSource, preprocessing: Preprocessing, seed: int, rank: int, world: int
    ) -> None:
        """Prepares all images at once where that can be done once for all epochs and they fit in memory."""
        self.config, self.source, self.seed, self.rank = config, source, seed, rank
        self.batch_size = config.batch_size // world
        self.steps_per_epoch = len(source.labels) // config.batch_size
        self._transform = make_transform(config, preprocessing)
        self._kept: Tensor | None = None
        self._kept_broken: dict[int, str] = {}
        self._order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None
        if self._transform.fixed is not None and len(source.labels) * 3 * config.image_size**2 <= MEMORY_LIMIT:
            self._keep()

    def __getitem__(self, step: int) -> RawBatch | AlphaNetError:
        """The raw batch of one step, or what went wrong (a worker's exception would arrive as a traceback's text)."""
        epoch, indices = self.indices(step)
        size, side, broken = self.batch_size, self.config.image_size, dict[int, str]()
        images = torch.empty((size, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        shown, moves = [], []
        try:
            for i, index in enumerate(indices):
                image, used = self._load(epoch, index, broken)
                rng = generator(self.seed, "augment", epoch, index)
                images[i] = self._transform(image, rng)
                shown.append(used)
                if self.config.transform == "affine":
                    moves.append(draw_affine(self.config, rng))
        except AlphaNetError as error:
            return error
        thetas = torch.tensor(np.stack(moves), dtype=torch.float32) if moves else None
        return RawBatch(epoch, indices, images, self.source.labels[shown], thetas, tuple(broken.items()))

    def indices(self, step: int) -> tuple[int, tuple[int, ...]]:
        """The epoch of a step, from 0, and which images it shows here."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, generator(self.seed, "order", epoch).permutation(len(self))
        first = position * self.config.batch_size + self.rank * self.batch_size
        return epoch, tuple(map(int, self._order[1][first : first + self.batch_size]))

    def _load(self, epoch: int, index: int, broken: dict[int, str]) -> tuple[Tensor, int]:
        """A prepared image and its index; where it is broken, a substitute's, drawn from (seed, epoch, index)."""
        try:
            return self._prepared(index), index
        except AlphaNetError as error:
            broken[index] = str(error)
            first = error
        for substitute in generator(self.seed, "substitute", epoch, index).integers(0, len(self), _SUBSTITUTES):
            try:
                return self._prepared(int(substitute)), int(substitute)
            except AlphaNetError as error:
                broken[int(substitute)] = str(error)
        raise AlphaNetError(f"{first} (and {_SUBSTITUTES} others drawn in its place are broken too)")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.source.labels)

    def _prepared(self, index: int) -> Tensor:
        """An image after the part of its transform that is the same in every epoch."""
        if self._kept is None:
            image = self.source.load(index)
            return image if self._transform.fixed is None else self._transform.fixed(image)
        if index in self._kept_broken:
            raise AlphaNetError(self._kept_broken[index])
        return self._kept[index]

    def _keep(self) -> None:
        """Prepares every image, and remembers which are broken."""
        side = self.config.image_size
        kept = torch.zeros((len(self), 3, side, side), dtype=torch.uint8)
        for index in range(len(self)):
            try:
                kept[index] = self._prepared(index)
            except AlphaNetError as error:
                self._kept_broken[index] = str(error)
        self._kept = kept


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
        self.classes = source.classes
        self.broken: dict[int, str] = {}
        self._reader = BatchReader(config, source, preprocessing, seed, rank, world_size)
        self.steps_per_epoch = self._reader.steps_per_epoch
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
            from alphanet_zoo.train.dali import dali_batches

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
        images, labels = raw.images.to(device, non_blocking=True), raw.labels.to(device, non_blocking=True)
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
