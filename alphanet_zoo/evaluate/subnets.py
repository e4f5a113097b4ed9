"""How good a subnet is: extracted, calibrated on training images, run on others."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alphanet_zoo.data.preprocess import ImageFolder, Preprocessing
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec

CACHE_LIMIT = 512 * 2**20
"""Bytes of preprocessed images that an evaluator keeps between subnets."""

CALIBRATION_BATCH = 256
"""Images of a calibration batch. Source: docs/specification.md, section 3."""

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Hits:
    """How many of how many images were classified rightly."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The share, from 0 to 1."""
        return self.correct / self.images


class SubnetEvaluator:
    """Scores the subnets of one supernet by their accuracy after calibration; callable as a search's ``score``.

    Images are preprocessed for each subnet's own resolution, as its export is. Calibration takes whole batches of
    `CALIBRATION_BATCH` images (or of what there is) in a fixed mixed order: every batch counts alike, and batches of
    one class alone would give wrong statistics.

    Args:
        supernet: A trained supernet; it is not changed.
        calibration: Training images; their labels are not used.
        validation: Images to score with, of the supernet's classes.
        batch_size: Validation images a batch.
        calibration_images: At most so many training images; None for all.
        validation_images: At most so many validation images; None for all.

    Attributes:
        supernet: The supernet.
        results: The figure of every arch that was scored.

    Raises:
        UsageError: The classes of ``validation`` are not the supernet's.
    """

    def __init__(
        self,
        supernet: AlphaNet,
        calibration: ImageFolder,
        validation: ImageFolder,
        *,
        batch_size: int = 128,
        calibration_images: int | None = None,
        validation_images: int | None = None,
    ) -> None:
        """Keeps the sources; reads no image."""
        check_classes(supernet, validation)
        self.results: dict[ArchSpec, Hits] = {}
        self.supernet, self._batch_size = supernet, batch_size
        self._calibration = calibration_part(calibration, calibration_images)
        self._validation, self._validation_images = validation, validation_images
        self._kept: dict[tuple[int, int, int], Batches] = {}
        self._kept_bytes = 0

    def __call__(self, arch: ArchSpec) -> float:
        """Accuracy of a subnet on the validation images, from 0 to 1; measured once an arch."""
        if arch not in self.results:
            self.results[arch] = self.hits(self.calibrated(arch))
        return self.results[arch].accuracy

    def hits(self, net: AlphaNet) -> Hits:
        """The figure of one of its subnets, `calibrated`, on the validation images."""
        resolution = net.arch.resolution
        return count_hits(net, self._batches(self._validation, resolution, self._batch_size, self._validation_images))

    def with_supernet(self, supernet: AlphaNet) -> SubnetEvaluator:
        """An evaluator of another supernet on the same images, which are not read again.

        Raises:
            UsageError: Its classes are not the images'.
            ValueError: It takes images prepared in another way.
        """
        check_classes(supernet, self._validation)
        other = copy.copy(self)
        other.supernet, other.results = supernet, {}
        size = supernet.space.resolution[-1]
        if other._preprocessing(size) != self._preprocessing(size):
            raise ValueError("the supernets prepare images in different ways; make an evaluator for each")
        return other

    def calibrated(self, arch: ArchSpec) -> AlphaNet:
        """The static net of a subnet, calibrated."""
        batches = self._batches(self._calibration, arch.resolution, CALIBRATION_BATCH)
        return calibrate(self.supernet.extract(arch), (images for images, _ in batches))

    def measure(self, arch: ArchSpec, folder: ImageFolder) -> Hits:
        """The figure of a subnet on other images, such as a test split.

        Raises:
            UsageError: Their classes are not the supernet's.
        """
        check_classes(self.supernet, folder)
        batches = folder.batches(self._preprocessing(arch.resolution), self._batch_size)
        return count_hits(self.calibrated(arch), batches)

    def _preprocessing(self, resolution: int) -> Preprocessing:
        """How an image becomes the input of a subnet."""
        return Preprocessing.from_cfg({**self.supernet.pretrained_cfg, "input_size": (3, resolution, resolution)})

    def _batches(
        self, folder: ImageFolder, resolution: int, batch_size: int, limit: int | None = None
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Preprocessed batches, kept where they fit into memory."""
        key = (id(folder), resolution, batch_size)
        if key in self._kept:
            return self._kept[key]
        batches = folder.batches(self._preprocessing(resolution), batch_size, limit)
        size = min(len(folder), limit or len(folder)) * 3 * resolution**2 * 4
        if self._kept_bytes + size > CACHE_LIMIT:
            return batches
        self._kept_bytes += size
        self._kept[key] = list(batches)
        return self._kept[key]


def calibration_part(folder: ImageFolder, images: int | None = None) -> ImageFolder:
    """A fixed random choice of a folder's images in mixed order: whole calibration batches, or one that is not."""
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(folder))[:images]
    whole = len(chosen) // CALIBRATION_BATCH * CALIBRATION_BATCH or len(chosen)
    part = copy.copy(folder)
    part.samples = [folder.samples[i] for i in chosen[:whole]]
    return part


def check_classes(net: AlphaNet, folder: ImageFolder) -> None:
    """Checks that class i of a folder is output i of a net.

    Raises:
        UsageError: By the net's label names, or where it has none by its number of classes, it cannot be.
    """
    names = net.pretrained_cfg.get("label_names")
    if names and list(names) != folder.classes:
        raise UsageError(
            f"{folder.root} has the classes {_shortened(folder.classes)}, the net {_shortened(names)}; "
            "give a folder with one folder for each class of the net"
        )
    if len(folder.classes) != net.num_classes:
        raise UsageError(
            f"{folder.root} has {len(folder.classes)} classes and the net {net.num_classes}; "
            "give a folder with one folder for each class of the net"
        )


def _shortened(names: Iterable[str]) -> str:
    """The first few of some names."""
    listed = list(names)
    return ", ".join(listed[:5]) + (f", ... ({len(listed)})" if len(listed) > 5 else "")


@torch.inference_mode()
def count_hits(net: AlphaNet, batches: Iterable[tuple[Tensor, Tensor]]) -> Hits:
    """Counts the images whose largest logit is that of their label.

    Args:
        net: A net in eval mode, on any device.
        batches: Images ``(N, 3, H, W)`` and labels ``(N,)``.
    """
    device = next(net.parameters()).device
    correct = images = 0
    for pixels, labels in batches:
        predicted = net(pixels.to(device)).argmax(1).cpu()
        correct, images = correct + int((predicted == labels).sum()), images + len(labels)
    return Hits(correct, images)
