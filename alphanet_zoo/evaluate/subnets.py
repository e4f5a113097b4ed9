"""How good a subnet is: extracted, calibrated on training images, run on others."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.classes import match_classes
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource, spread
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec

CACHE_LIMIT = 512 * 2**20
"""Bytes of preprocessed images that an evaluator keeps between subnets."""

T = TypeVar("T")


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

    Images are preprocessed for each subnet's own resolution, as its export is. Calibration takes the batches of
    `alphanet_zoo.data.calibration.calibration_batches` with seed 0 and no augmentation.

    Args:
        supernet: A trained supernet; it is not changed.
        calibration: Training images; their labels are not used.
        validation: Images to score with, of the supernet's classes.
        batch_size: Validation images a batch.
        calibration_images: At most so many training images; None for all.
        validation_images: At most so many validation images; None for all.
        labels_by_position: Class i of the images is output i of the net, whatever their names.

    Attributes:
        supernet: The supernet.
        results: The figure of every arch that was scored.

    Raises:
        UsageError: The classes of ``validation`` are not the supernet's.
    """

    def __init__(
        self,
        supernet: AlphaNet,
        calibration: ImageSource,
        validation: ImageSource,
        *,
        batch_size: int = 128,
        calibration_images: int | None = None,
        validation_images: int | None = None,
        labels_by_position: bool = False,
    ) -> None:
        """Keeps the sources; reads no image."""
        self._by_position = labels_by_position
        self._outputs = self._outputs_of(supernet, validation)
        self.results: dict[ArchSpec, Hits] = {}
        self.supernet, self._batch_size = supernet, batch_size
        self._calibration, self._calibration_images = calibration, calibration_images
        self._validation = spread(validation, validation_images)
        self._kept: dict[tuple[str, int], list[Any]] = {}
        self._kept_bytes = 0

    def __call__(self, arch: ArchSpec) -> float:
        """Accuracy of a subnet on the validation images, from 0 to 1; measured once an arch."""
        if arch not in self.results:
            self.results[arch] = self.hits(self.calibrated(arch))
        return self.results[arch].accuracy

    def hits(self, net: AlphaNet) -> Hits:
        """The figure of one of its subnets, `calibrated`, on the validation images."""
        resolution = net.arch.resolution
        batches: Iterable[tuple[Tensor, Tensor]] = self._cached(
            ("validation", resolution),
            evaluation_batches(self._validation, self._preprocessing(resolution), self._batch_size),
            len(self._validation),
        )
        return count_hits(net, _relabelled(batches, self._outputs))

    def with_supernet(self, supernet: AlphaNet) -> SubnetEvaluator:
        """An evaluator of another supernet on the same images, which are not read again.

        Raises:
            UsageError: Its classes are not the images'.
            ValueError: It takes images prepared in another way.
        """
        other = copy.copy(self)
        other.supernet, other.results = supernet, {}
        other._outputs = self._outputs_of(supernet, self._validation)
        size = supernet.space.resolution[-1]
        if other._preprocessing(size) != self._preprocessing(size):
            raise ValueError("the supernets prepare images in different ways; make an evaluator for each")
        return other

    def calibrated(self, arch: ArchSpec) -> AlphaNet:
        """The static net of a subnet, calibrated."""
        count = min(len(self._calibration), self._calibration_images or len(self._calibration))
        batches = calibration_batches(
            self._calibration, self._preprocessing(arch.resolution), images=self._calibration_images
        )
        return calibrate(self.supernet.extract(arch), self._cached(("calibration", arch.resolution), batches, count))

    def measure(self, arch: ArchSpec, source: ImageSource) -> Hits:
        """The figure of a subnet on other images, such as a test split.

        Raises:
            UsageError: Their classes are not the supernet's.
        """
        outputs = self._outputs_of(self.supernet, source)
        batches = evaluation_batches(source, self._preprocessing(arch.resolution), self._batch_size)
        return count_hits(self.calibrated(arch), _relabelled(batches, outputs))

    def _outputs_of(self, net: AlphaNet, source: ImageSource) -> Tensor:
        """The net's output for each class of a source."""
        names = net.pretrained_cfg.get("label_names")
        return match_classes(source.classes, names, net.num_classes, by_position=self._by_position, where=source.name)

    def _preprocessing(self, resolution: int) -> Preprocessing:
        """How an image becomes the input of a subnet."""
        return Preprocessing.from_cfg({**self.supernet.pretrained_cfg, "input_size": (3, resolution, resolution)})

    def _cached(self, key: tuple[str, int], batches: Iterable[T], images: int) -> Iterable[T]:
        """The batches of a resolution, kept if they fit in memory."""
        if key not in self._kept:
            size = images * 3 * key[1] ** 2 * 4
            if self._kept_bytes + size > CACHE_LIMIT:
                return batches
            self._kept_bytes += size
            self._kept[key] = list(batches)
        return self._kept[key]


def _relabelled(batches: Iterable[tuple[Tensor, Tensor]], outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches whose labels are outputs of the net."""
    return ((images, outputs[labels]) for images, labels in batches)


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
