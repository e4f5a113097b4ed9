"""`Classifier`: names what pictures show, with a network or with an exported file on its runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError, one_line
from alphanet_zoo.evaluate.calibration import check_statistics
from alphanet_zoo.evaluate.evaluator import Evaluator, input_of, predictor
from alphanet_zoo.files import EXPORTED_ENDINGS
from alphanet_zoo.nn.family import Network
from alphanet_zoo.predict.images import AnyImage, decoded, single_images
from alphanet_zoo.predict.model import ImageModel, preprocessed
from alphanet_zoo.space.family import Arch
from alphanet_zoo.zoo.archs import find_arch
from alphanet_zoo.zoo.open import open_net

BATCH_SIZE = 32
"""Default number of images per batch."""


@dataclass(frozen=True)
class ClassScore:
    """One class of a prediction.

    Attributes:
        label: Name of the class; its index as text if the model has no class names.
        index: Position among the logits.
        probability: From 0 to 1.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result for one image.

    Attributes:
        top: The most likely classes, the most likely first. Of classes with equal logits, the one with the lower index
            is first.
        logits: ``(classes,)`` float32, read-only.
        path: Path of the image; None if it was not a path.
    """

    top: tuple[ClassScore, ...]
    logits: npt.NDArray[np.float32]
    path: Path | None = None

    @property
    def label(self) -> str:
        """Name of the most likely class."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """Index of the most likely class."""
        return self.top[0].index

    @property
    def probability(self) -> float:
        """Probability of the most likely class, from 0 to 1."""
        return self.top[0].probability

    def __str__(self) -> str:
        """The classes and their probabilities."""
        return ", ".join(f"{each.label} {100 * each.probability:.2f} %" for each in self.top)


class Classifier:
    """Classifies images. Decodes and preprocesses them as training and verification do.

    Args:
        source: What `alphanet_zoo.zoo.open.open_net` opens (a model's name, a ``.safetensors`` file, a
            ``save_pretrained`` folder, the folder of a training run, or a Hub repository), or a network in eval mode.
            For an exported file, use `load`.
        arch: The subnet to use, if the source is a supernet: an arch, or what `alphanet_zoo.zoo.archs.find_arch` finds,
            such as ``smallest`` or the path of a JSON file.
        calib_data: Training images, one folder per class, to compute the batch-norm statistics of the subnet from.
        preprocessing: Preprocessing of an image. Required for a network that is not an `AlphaNet`; None is that of the
            network, at its resolution.
        labels: Names of the classes; None is those of the network.
        multi_label: Whether an image can have several labels: probabilities are then the sigmoid of each logit, not
            the softmax. None: as the network was trained.
        device: Device to run on; None is that of the network.

    Attributes:
        model: What is run.
        labels: Names of the classes; None if they are unknown.

    Raises:
        UsageError: The source does not exist, it is a supernet and ``arch`` is None, its batch-norm statistics are not
            valid, or the number of labels is not that of the classes.
        ValueError: The network is in training mode, or has no classifier.
        AlphaNetError: The source cannot be read or downloaded.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | nn.Module | ImageModel,
        *,
        arch: Arch | str | os.PathLike[str] | None = None,
        calib_data: str | os.PathLike[str] | None = None,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] | None = None,
        multi_label: bool | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Opens the network."""
        if isinstance(source, str | os.PathLike):
            if os.fspath(source).lower().endswith(EXPORTED_ENDINGS):
                raise UsageError(f"{source} is an exported file; open it with Classifier.load({os.fspath(source)!r})")
            opened = open_net(source)
            net = static_subnet(opened.net, arch, calib_data, str(source))
            self.model = _of_net(net.eval(), preprocessing, device, str(source))
        elif isinstance(source, ImageModel):
            self.model = source
        elif isinstance(source, Network):
            self.model = _of_net(static_subnet(source, arch, calib_data, "the network"), preprocessing, device)
        else:
            self.model = _of_net(source, preprocessing, device)
        self.labels = self.model.labels if labels is None else tuple(map(str, labels))
        self.multi_label = self.model.multi_label if multi_label is None else multi_label
        self._check_labels(self.model.classes)

    def __repr__(self) -> str:
        """Name, number of classes, input size in pixels and runtime, as far as they are known."""
        model = self.model
        classes = model.classes or (None if self.labels is None else len(self.labels))
        known = {"classes": classes, "input_size": model.input_size, "runtime": model.runtime}
        name = [] if model.name is None else [repr(model.name)]
        rest = [f"{key}={value!r}" for key, value in known.items() if value is not None]
        return f"{type(self).__name__}({', '.join([*name, *rest])})"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] | None = None,
        multi_label: bool | None = None,
        threads: int | None = None,
    ) -> Self:
        """Opens an exported file on the runtime of its format: ``.onnx``, ``.xml``, ``.pte``, ``.pt2``, ``.aoti.pt2``.

        Args:
            path: The file. Preprocessing and labels are those in its metadata.
            preprocessing: For a file without metadata, such as one that another program exported.
            labels: Names of the classes; None is those in the file.
            multi_label: See `Classifier`; None: as the file says.
            threads: Threads within an operator; None is the number of physical cores.

        Raises:
            UsageError: The file does not exist, it has an unknown format, or both the file and the caller have a
                preprocessing, or neither has one.
            MissingDependencyError: The runtime is not installed.
            AlphaNetError: The file is corrupt or has changed since the export.
        """
        from alphanet_export.classify import open_model_file

        return cls(open_model_file(path, preprocessing, threads), labels=labels, multi_label=multi_label)

    def predict(
        self,
        images: AnyImage | Iterable[AnyImage],
        topk: int = 5,
        batch_size: int = BATCH_SIZE,
        *,
        on_error: Callable[[AlphaNetError], None] | None = None,
    ) -> list[Prediction]:
        """Classifies images.

        Args:
            images: One or several: paths, Pillow images, arrays ``(H, W, 3)`` uint8 RGB, or tensors ``(3, H, W)``; see
                `alphanet_zoo.predict.images.decoded`. A path may be that of a folder, whose images at any depth are
                classified, or a pattern such as ``photos/**/*.jpg``. Arrays and tensors may be batches ``(N, ...)``.
            topk: Number of classes per result.
            batch_size: Images per batch.
            on_error: Called with the error for each image that cannot be read; that image has no result. None: raise.

        Returns:
            One result per image, in order, also for a single image.

        Raises:
            UsageError: An image has a type, layout or range that is not accepted, a folder or pattern has no images, or
                a number is not positive.
            AlphaNetError: An image cannot be read.
        """
        return list(self.stream(images, topk, batch_size, on_error=on_error))

    def stream(
        self,
        images: AnyImage | Iterable[AnyImage],
        topk: int = 5,
        batch_size: int = BATCH_SIZE,
        *,
        on_error: Callable[[AlphaNetError], None] | None = None,
    ) -> Iterator[Prediction]:
        """As `predict`, but reads images and yields results batch by batch.

        Args:
            images: See `predict`; only a batch of them is in memory.
            topk: See `predict`.
            batch_size: See `predict`.
            on_error: See `predict`.
        """
        for name, number in (("topk", topk), ("batch_size", batch_size)):
            if number < 1:
                raise UsageError(f"{name} is {number}; pass 1 or more")
        prepared: list[Tensor] = []
        paths: list[Path | None] = []
        for image in single_images(images):
            try:
                pixels, path = decoded(image)
                prepared.append(self.model.prepare(pixels))
                paths.append(path)
            except AlphaNetError as error:
                if on_error is None:
                    raise
                on_error(error)
            if len(prepared) == batch_size:
                yield from self._results(prepared, paths, topk)
                prepared, paths = [], []
        if prepared:
            yield from self._results(prepared, paths, topk)

    def _check_labels(self, classes: int | None) -> None:
        """Checks that there is a label for each class."""
        if self.labels is not None and classes is not None and len(self.labels) != classes:
            raise UsageError(f"there are {len(self.labels)} labels for {classes} classes; pass one per class")

    def _results(self, prepared: Sequence[Tensor], paths: Sequence[Path | None], topk: int) -> list[Prediction]:
        """The results of one batch."""
        logits = self.model.logits(prepared)
        self._check_labels(logits.shape[1])
        if not bool(logits.isfinite().all()):
            raise AlphaNetError("the model gives logits that are not finite; its weights or statistics are damaged")
        scores = logits.double()
        probabilities = scores.sigmoid() if self.multi_label else scores.softmax(dim=1)
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :topk]
        results = []
        for row, path in enumerate(paths):
            top = tuple(
                ClassScore(str(index) if self.labels is None else self.labels[index], index, float(p))
                for index, p in zip(order[row].tolist(), probabilities[row, order[row]], strict=True)
            )
            own = logits[row].numpy().copy()
            own.setflags(write=False)
            results.append(Prediction(top, own, path))
        return results


def static_subnet(
    net: Network, arch: Arch | str | os.PathLike[str] | None, calib_data: str | os.PathLike[str] | None, source: str
) -> Network:
    """The static network to run, whose statistics are valid.

    Args:
        net: A static network or a supernet.
        arch: See `Classifier`.
        calib_data: See `Classifier`.
        source: What ``net`` was opened from, for messages.

    Raises:
        UsageError: ``net`` is a supernet and ``arch`` is None, or the statistics are not valid.
    """
    if isinstance(arch, str | os.PathLike):
        arch = find_arch(arch, net.space).arch
    if net.supernet and arch is None:
        raise UsageError(
            f"{source} is a supernet, which contains many networks; pass the arch of one (arch, --arch) and, if it was "
            "not calibrated, training images (calib_data, --calib-data)"
        )
    if calib_data is not None:
        return Evaluator(None, FolderSource(calib_data)).calibrated(net, arch)
    check_statistics(net, arch)
    return net if arch in (None, net.arch) and not net.supernet else net.subnet(arch or net.arch)


def _of_net(
    net: nn.Module, preprocessing: Preprocessing | None, device: str | torch.device | None, name: str | None = None
) -> ImageModel:
    """A network in memory."""
    if net.training:
        raise ValueError("the network is in training mode; call net.eval() first")
    cfg = getattr(net, "pretrained_cfg", {})
    if isinstance(net, Network):
        if not net.num_classes:
            raise ValueError("the network has no classifier; call reset_classifier(num_classes) and train it first")
        if net.in_chans != 3:
            raise UsageError(f"the network takes images of {net.in_chans} channels, and images are read as RGB; pass a "
                             "network of 3 channels, or call it with tensors of your own")  # fmt: skip
        preprocessing = preprocessing or input_of(net, net.arch.resolution)
    elif preprocessing is None:
        raise UsageError(f"a {type(net).__name__} has no known preprocessing; pass preprocessing=Preprocessing(...)")
    if device is not None:
        try:
            net = net.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"the network cannot be moved to the device {device}: {one_line(error)}") from error
    return preprocessed(
        preprocessing,
        predictor(net),
        labels=cfg.get("label_names"),
        multi_label=bool(cfg.get("multi_label")),
        random_weights=getattr(net, "calibration", None) == "random",
        name=name or cfg.get("architecture") or type(net).__name__,
        classes=net.num_classes if isinstance(net, Network) else None,
    )
