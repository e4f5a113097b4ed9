"""Evaluates networks: calibration, and accuracy on labelled images. Used by train, search, export and verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alphanet_zoo.data.batches import decoded_images, evaluation_batches, evaluation_pixels
from alphanet_zoo.data.calibration import BATCH_SIZE, PUBLISHED_IMAGES
from alphanet_zoo.data.classes import match_classes
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.evaluate.calibration import CalibrationImages, CalibrationPlan, default_augment
from alphanet_zoo.evaluate.pixels import PixelStore
from alphanet_zoo.evaluate.statistics import wilson_interval
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch

CACHE_LIMIT = 512 * 2**20
"""Maximum size of the preprocessed images that an evaluator without a store keeps in memory, in bytes."""

Predict = Callable[[Tensor], Tensor]
"""Maps images to logits ``(N, classes)``: a network, or a file in its runtime. The images are ``(N, 3, S, S)``, or
``(1, H, W, 3)`` as decoded if the file includes its preprocessing."""


@dataclass(frozen=True)
class Hits:
    """Number of correctly classified images, and of all images."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, from 0 to 1."""
        return self.correct / self.images

    def suspicion(self, num_classes: int) -> str | None:
        """A warning if top-1 may be chance (the lower bound of its 95 % interval is at most 1 / classes), else None."""
        if num_classes < 2 or wilson_interval(self.correct, self.images)[0] > 1.0 / num_classes:
            return None
        return (
            f"top-1 {100 * self.accuracy:.2f} % is near chance ({100 / num_classes:.2f} %); check that the class "
            "folders, the preprocessing and the batch-norm statistics are those of the network"
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """The predictions of a model for labelled images.

    Args:
        best: The (up to) five most likely classes of each image, ``(N, 5)``, the most likely first.
        classes: The true class of each image, ``(N,)``.
        num_classes: Number of classes.
        confidence: Softmax probability of the most likely class of each image, ``(N,)`` float32.
        log_likelihood: Natural logarithm of the softmax probability of the true class of each image, ``(N,)`` float32.
    """

    best: Tensor
    classes: Tensor
    num_classes: int
    confidence: Tensor
    log_likelihood: Tensor

    @property
    def right(self) -> Tensor:
        """Whether the most likely class is the true one, ``(N,)`` bool."""
        return self.best[:, 0] == self.classes

    @property
    def hits(self) -> Hits:
        """The number of images whose most likely class is the true one."""
        return Hits(int(self.right.sum()), len(self.classes))

    @classmethod
    def of(cls, logits: Tensor, classes: Tensor) -> Answers:
        """The predictions of one batch.

        Args:
            logits: ``(N, num_classes)``, on any device.
            classes: The true class of each image, ``(N,)``.
        """
        log_probabilities = logits.float().log_softmax(dim=1)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        confidence = log_probabilities.gather(1, best[:, :1]).squeeze(1).exp()
        likelihood = log_probabilities.gather(1, classes.to(logits.device).unsqueeze(1)).squeeze(1)
        return cls(best.cpu(), classes.cpu(), logits.shape[1], confidence.cpu(), likelihood.cpu())

    @classmethod
    def joined(cls, batches: Sequence[Answers], num_classes: int) -> Answers:
        """The predictions of several batches, which may be none, as one value."""
        if not batches:
            return cls.of(torch.zeros(0, num_classes), torch.zeros(0, dtype=torch.long))
        fields = ("best", "classes", "confidence", "log_likelihood")
        joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in fields}
        return cls(num_classes=num_classes, **joined)


class Evaluator:
    """Measures the accuracy of networks on fixed images. The counts are deterministic.

    Preprocessed images are kept as bytes: in memory up to `CACHE_LIMIT`, or all of them in ``store``.

    Args:
        validation: Labelled images; None if only `calibrated` is used.
        calibration: Training images for batch-norm statistics; their labels are not used. None if only
            `answers` is used.
        images: Maximum number of calibration images.
        calibration_batch: Images per calibration batch.
        seed: Seed of the calibration.
        augment: Whether calibration images are augmented; None is `default_augment` of the network's space.
        batch_size: Validation images per batch.
        labels_by_position: Match the classes of ``validation`` to outputs by position, not by name.
        rank: Rank of this process, which runs every ``world_size``-th image.
        world_size: Number of processes that share the validation images.
        store: Keeps all preprocessed images, so that each is decoded once per resolution.
    """

    def __init__(
        self,
        validation: ImageSource | None,
        calibration: ImageSource | None = None,
        *,
        images: int = PUBLISHED_IMAGES,
        calibration_batch: int = BATCH_SIZE,
        seed: int = 0,
        augment: bool | None = None,
        batch_size: int = 128,
        labels_by_position: bool = False,
        rank: int = 0,
        world_size: int = 1,
        store: PixelStore | None = None,
    ) -> None:
        """Reads no image."""
        self.validation, self.calibration = validation, calibration
        self._images, self._calibration_batch, self._seed, self._augment = images, calibration_batch, seed, augment
        self._batch_size, self._by_position = batch_size, labels_by_position
        self._share = {"rank": rank, "world_size": world_size}
        self._kept: dict[Preprocessing, list[tuple[Tensor, Tensor]]] = {}
        self._calibrations: dict[CalibrationPlan, CalibrationImages] = {}
        self._kept_bytes = 0
        self._store, self._all = (PixelStore(), False) if store is None else (store, True)

    def plan(self, net: Network, arch: Arch | None = None, input_size: int | None = None) -> CalibrationPlan:
        """The calibration plan of a subnet.

        Args:
            net: The supernet or network.
            arch: Arch of the subnet; None is that of ``net``.
            input_size: Side of the input in pixels; None is the arch's resolution.
        """
        augment = default_augment(net.space) if self._augment is None else self._augment
        size = input_size or (arch or net.arch).resolution
        return CalibrationPlan(input_of(net, size), self._images, self._calibration_batch, self._seed, augment)

    def calibrated(
        self,
        net: Network,
        arch: Arch | None = None,
        *,
        input_size: int | None = None,
        stopped: Callable[[], bool] = bool,
    ) -> Network:
        """A static copy of a subnet, calibrated, on the device of ``net``.

        For ``stopped`` see `CalibrationImages.calibrate`; for the other arguments see `plan`.
        """
        assert self.calibration is not None
        plan = self.plan(net, arch, input_size)
        if plan not in self._calibrations:
            keep = self._keeps(min(self._images, len(self.calibration)), plan.preprocessing)
            self._calibrations[plan] = plan.images_of(self.calibration, store=self._store if keep else None)
        static = net.subnet(arch or net.arch)
        return self._calibrations[plan].calibrate(static, stopped=stopped) if static.has_statistics else static.eval()

    def answers(
        self,
        predict: Predict,
        preprocessing: Preprocessing | None,
        num_classes: int,
        labels: Iterable[str] | None = None,
        *,
        stopped: Callable[[], bool] = bool,
    ) -> Answers:
        """Runs the validation images of this process.

        Args:
            predict: The model.
            preprocessing: Preprocessing of an image for the model; None if the model takes decoded images.
            num_classes: Number of classes of the model.
            labels: Names of the classes; None if they are unknown.
            stopped: Called before every batch; if it returns True, the remaining images are skipped.

        Raises:
            UsageError: The classes of the images are not the model's.
            AlphaNetError: An image cannot be read.
        """
        assert self.validation is not None
        outputs = self.outputs(num_classes, labels)
        batches = []
        for pixels, truth in self.batches(preprocessing):
            if stopped():
                break
            batches.append(Answers.of(predict(pixels), outputs[truth]))
        return Answers.joined(batches, num_classes)

    def answers_of(self, net: Network, *, stopped: Callable[[], bool] = bool) -> Answers:
        """The predictions of a static net in eval mode, at its resolution and on its device."""
        return self.answers(
            predictor(net), input_of(net, net.arch.resolution), net.num_classes,
            net.pretrained_cfg.get("label_names"), stopped=stopped,
        )  # fmt: skip

    def outputs(self, num_classes: int, labels: Iterable[str] | None) -> Tensor:
        """The model's output for each class of the validation images, ``(classes,)``; see `match_classes`."""
        assert self.validation is not None
        names = None if labels is None else [str(label) for label in labels]
        return match_classes(
            self.validation.classes, names, num_classes, by_position=self._by_position, where=self.validation.name
        )

    def batches(self, preprocessing: Preprocessing | None) -> Iterable[tuple[Tensor, Tensor]]:
        """Preprocessed validation images ``(N, 3, S, S)`` and their labels, in order; kept if they fit in memory.

        Without a preprocessing, each image as it was decoded, see `decoded_images`; these are not kept.
        """
        assert self.validation is not None
        if preprocessing is None:
            return decoded_images(self.validation, **self._share)
        if preprocessing not in self._kept:
            if not self._keeps(len(self.validation) // self._share["world_size"], preprocessing):
                return evaluation_batches(self.validation, preprocessing, self._batch_size, **self._share)
            read = evaluation_pixels(self.validation, preprocessing, self._batch_size, **self._share)
            self._kept[preprocessing] = [(self._store.kept(pixels), labels) for pixels, labels in read]
        return ((preprocessing.normalise(pixels), labels) for pixels, labels in self._kept[preprocessing])

    def _keeps(self, images: int, preprocessing: Preprocessing) -> bool:
        """Whether to keep so many preprocessed images; those that are kept count against the limit."""
        size = images * 3 * preprocessing.input_size**2
        if not self._all and self._kept_bytes + size > CACHE_LIMIT:
            return False
        self._kept_bytes += size
        return True


def input_of(net: Network, size: int | None = None) -> Preprocessing:
    """The preprocessing of a network's images; `timm.data.create_transform` of its ``pretrained_cfg`` is the same.

    Args:
        net: The network.
        size: Side of the input in pixels; None is the arch's resolution. The short side of an image is resized to
            size / crop_pct, rounded down, before the centre crop.
    """
    size = size or net.arch.resolution
    return Preprocessing.from_cfg({**net.pretrained_cfg, "input_size": (net.in_chans, size, size)})


def predictor(net: nn.Module) -> Predict:
    """A network as a `Predict`, in inference mode on its device."""
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device

    @torch.inference_mode()
    def predict(pixels: Tensor) -> Tensor:
        logits: Tensor = net(pixels.to(device))
        return logits

    return predict


class SubnetEvaluator:
    """Scores the subnets of a supernet by their accuracy after calibration; the ``score`` of a search.

    Args:
        supernet: A trained supernet; it is not changed.
        evaluator: The evaluator, with validation and calibration images.

    Attributes:
        results: Hits of every arch that has been scored.

    Raises:
        UsageError: The classes of the validation images are not the supernet's.
    """

    def __init__(self, supernet: Network, evaluator: Evaluator) -> None:
        """Reads no image."""
        evaluator.outputs(supernet.num_classes, supernet.pretrained_cfg.get("label_names"))
        self.supernet, self.evaluator = supernet, evaluator
        self.results: dict[Arch, Hits] = {}

    def __call__(self, arch: Arch) -> float:
        """Top-1 accuracy of a subnet, from 0 to 1; measured once per arch."""
        if arch not in self.results:
            self.results[arch] = self.hits(arch)
        return self.results[arch].accuracy

    def hits(self, arch: Arch) -> Hits:
        """Calibrates a subnet and runs the validation images."""
        return self.evaluator.answers_of(self.evaluator.calibrated(self.supernet, arch)).hits
