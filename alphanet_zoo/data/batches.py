"""Batches of images: for training, a function of (seed, step); for evaluation, the source in order.

An epoch's order is drawn from (seed, epoch), and what happens to an image from (seed, epoch, index). So no training
batch depends on the ones before it, on the number of workers, or on the number of processes that share it.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alphanet_zoo.data.augment import constant, normalise, warp
from alphanet_zoo.data.broken import BrokenImages
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.reader import Batch, BatchReader, RawBatch, Windows
from alphanet_zoo.data.sources import ImageSource, open_source
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.units import counted

_CPU = torch.device("cpu")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOG = logging.getLogger(__name__)


class TrainingBatches:
    """Augmented batches, each a function of (seed, step).

    All batches are whole; the images that remain at the end of an epoch are not shown in it.

    Args:
        config: Source, transform, batch size over all processes, workers.
        preprocessing: Mean and deviation, and the geometry of the `affine` transform's centre crop.
        seed: The run's seed.
        rank: This process, from 0: it gets the ``rank``-th slice of every batch.
        world_size: Number of processes.

    Attributes:
        source: The training images.
        classes: Names of the classes.
        labels: Labels of all images, as in the source.
        steps_per_epoch: Number of whole batches of all images.
        broken: The broken images found so far; each is replaced by another image.

    Raises:
        UsageError: There is no such data, fewer images than one batch, or a batch that cannot be divided equally.
    """

    def __init__(
        self, config: DataConfig, preprocessing: Preprocessing, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Opens the training images."""
        if not 0 <= rank < world_size or config.batch_size % world_size:
            raise UsageError(
                f"data.batch_size is {config.batch_size} over all processes; use a multiple of their {world_size}"
            )
        source = open_source(config)
        if len(source) < config.batch_size:
            raise UsageError(
                f"{source.name} has {counted(len(source), 'image')}, fewer than data.batch_size {config.batch_size}; "
                f"use more images, or a smaller batch, such as data.batch_size={1 << (len(source).bit_length() - 1)}"
            )
        self.source, self.classes, self.labels = source, source.classes, source.labels
        self.broken = BrokenImages(source.name, len(source), "another image takes its place")
        self._reader = BatchReader(config, source, preprocessing, seed, rank, world_size)
        self.steps_per_epoch = self._reader.steps_per_epoch
        self._resident = self._reader.resident()
        self._workers, self._mean, self._std = config.workers, preprocessing.mean, preprocessing.std

    def batch(self, step: int, device: torch.device = _CPU) -> Batch:
        """The batch of one step, from 0, made in this process.

        Raises:
            AlphaNetError: Too many images are broken, see `BrokenImages`.
        """
        return self._finish(self._reader[step], device)

    def stream(self, start: int, end: int, device: torch.device = _CPU) -> Generator[Batch]:
        """The batches of the steps from ``start`` up to ``end``, made ahead by the config's workers.

        Close it (`contextlib.closing`) to end the workers. Raises as `batch`, and AlphaNetError if a worker dies.
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
            self._reader, batch_size=None, sampler=range(start, end), num_workers=self._workers, collate_fn=_sent,
            pin_memory=device.type == "cuda", worker_init_fn=_set_signals, generator=torch.Generator(),
        )  # fmt: skip
        with worker_errors():
            for raw in _received(loader):
                yield self._finish(raw, device)

    def _finish(self, raw: RawBatch | AlphaNetError, device: torch.device) -> Batch:
        """Moves, varies and normalises a whole batch, on the training device."""
        if isinstance(raw, AlphaNetError):
            raise raw
        for index, message in raw.broken:
            self.broken.add(index, message)
        labels = raw.labels.to(device, non_blocking=True)
        if isinstance(raw.images, Windows):
            assert self._resident is not None
            images = self._resident.take(raw.images, device)
        else:
            images = raw.images.to(device, non_blocking=True)
        if raw.thetas is None:
            images = normalise(images, self._mean, self._std)
        else:
            moved = warp(images.contiguous().float() / 255.0, raw.thetas.to(device, non_blocking=True))
            mean, std = (constant(tuple(v), device).view(3, 1, 1) for v in (self._mean, self._std))
            images = ((moved - mean) / std).contiguous(memory_format=torch.channels_last)
        return Batch(raw.epoch, tuple(raw.indices), images, labels)


def evaluation_batches(
    source: ImageSource, preprocessing: Preprocessing, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `evaluation_pixels`, normalised: images ``(N, 3, S, S)`` float32 and labels, as in the source."""
    for pixels, labels in evaluation_pixels(source, preprocessing, batch_size, rank=rank, world_size=world_size):
        yield preprocessing.normalise(pixels), labels


def evaluation_pixels(
    source: ImageSource, preprocessing: Preprocessing, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every ``world_size``-th image of a source, from ``rank`` on, in order, with its label, before normalisation.

    Broken images are left out, so that a batch may have fewer images.

    Args:
        source: The images.
        preprocessing: How an image becomes an input of the network.
        batch_size: Images per batch; the last one may have fewer.
        rank: This process, from 0.
        world_size: Number of processes that share the images.

    Yields:
        Images ``(N, 3, S, S)`` uint8 and labels, as in the source.

    Raises:
        AlphaNetError: Too many images are broken, see `BrokenImages`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    own = range(rank, len(source), world_size)
    broken = BrokenImages(source.name, len(source), "it is left out of the evaluation")
    for start in range(0, len(own), batch_size):
        loaded = _loaded(source, own[start : start + batch_size], broken)
        read = [(index, preprocessing.pixels(image)) for index, image in loaded]
        if read:
            indices, pixels = zip(*read, strict=True)
            yield torch.stack(pixels), source.labels[list(indices)]
    broken.check_some_left()


def decoded_images(source: ImageSource, *, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Every ``world_size``-th image of a source as it was decoded, from ``rank`` on, in order, with its label.

    Yields:
        An image ``(1, H, W, 3)`` uint8 and its label ``(1,)``.

    Broken images are left out.

    Raises:
        AlphaNetError: Too many images are broken, see `BrokenImages`.
    """
    broken = BrokenImages(source.name, len(source), "it is left out of the evaluation")
    for index, image in _loaded(source, range(rank, len(source), world_size), broken):
        yield image.permute(1, 2, 0)[None].contiguous(), source.labels[[index]]
    broken.check_some_left()


def _loaded(source: ImageSource, indices: Iterable[int], broken: BrokenImages) -> Iterator[tuple[int, Tensor]]:
    """Indices and images, without the broken ones, which are added to ``broken``."""
    for index in indices:
        try:
            image = source.load(index)
        except AlphaNetError as error:
            broken.add(index, str(error))
        else:
            yield index, image


class _Copied(NamedTuple):
    """A raw batch whose arrays a worker sends as bytes, without shared memory."""

    images: npt.NDArray[np.uint8] | tuple[npt.NDArray[Any], ...]
    labels: npt.NDArray[Any]
    thetas: npt.NDArray[np.float32] | None
    rest: tuple[int, tuple[int, ...], tuple[tuple[int, str], ...]]


def _sent(raw: Any) -> Any:
    """What a worker sends for a raw batch: its tensors in shared memory or, if that is full, copies of them.

    Without this the queue's own thread would put them into shared memory, where an error loses the batch and the run
    waits for it for ever.
    """
    if not isinstance(raw, RawBatch):
        return raw
    tensors = [*(raw.images if isinstance(raw.images, Windows) else (raw.images,)), raw.labels]
    try:
        for tensor in tensors if raw.thetas is None else (*tensors, raw.thetas):
            tensor.share_memory_()
        return raw
    except RuntimeError:  # "unable to allocate shared memory": Docker's /dev/shm has 64 MB.
        images: npt.NDArray[np.uint8] | tuple[npt.NDArray[Any], ...]
        if isinstance(raw.images, Windows):
            images = tuple(part.numpy() for part in raw.images)
        else:
            images = raw.images.permute(0, 2, 3, 1).numpy()
        thetas = None if raw.thetas is None else raw.thetas.numpy()
        return _Copied(images, raw.labels.numpy(), thetas, (raw.epoch, raw.indices, raw.broken))


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raises AlphaNetError if a data worker dies during the block: PyTorch raises a RuntimeError at any line of it."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _worker_died(error) from error


def _worker_died(error: Exception) -> AlphaNetError:
    """The error that names the remedies."""
    return AlphaNetError(
        f"a data worker died ({error}); use fewer data.workers, or more memory or shared memory (/dev/shm)"
    )


def _received(loader: DataLoader[Any]) -> Iterator[RawBatch | AlphaNetError]:
    """The raw batches that workers send. The workers end with it or, at the latest, when the process exits.

    They ignore SIGTERM, which Python sends to them at exit before it waits for them.
    """
    with _signals_blocked():
        iterator, warned = iter(loader), False
    end = iterator._shutdown_workers  # type: ignore[attr-defined]
    atexit.register(end)
    try:
        for sent in iterator:
            if isinstance(sent, _Copied):
                if not warned:
                    _LOG.warning(
                        "shared memory (/dev/shm) is too small for the batches of the data workers, so they are "
                        "copied, which is slower; enlarge it (docker run --shm-size=1g) or use fewer data.workers"
                    )
                warned = True
                yield _restored(sent)
            else:
                yield sent
    except (ConnectionError, EOFError) as error:  # The worker sent a batch, and died before its memory was opened.
        raise _worker_died(error) from error
    finally:
        atexit.unregister(end)
        end()


def _restored(copied: _Copied) -> RawBatch:
    """The raw batch that was sent as bytes."""
    images: Tensor | Windows
    if isinstance(copied.images, tuple):
        images = Windows(*map(torch.from_numpy, copied.images))
    else:
        images = torch.from_numpy(copied.images).permute(0, 3, 1, 2)
    thetas = None if copied.thetas is None else torch.from_numpy(copied.thetas)
    epoch, indices, broken = copied.rest
    return RawBatch(epoch, tuple(indices), images, torch.from_numpy(copied.labels), thetas, broken)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Workers that are started in this block receive SIGINT and SIGTERM only after `_set_signals`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_signals(_: int) -> None:
    """Leaves SIGINT and SIGTERM to the main process, which ends the step, saves, and ends the workers.

    A worker whose main process is dead ends at SIGTERM.
    """
    parent = os.getppid()

    def end_if_orphaned(number: int, _: object) -> None:
        if os.getppid() != parent:
            os._exit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_if_orphaned)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
