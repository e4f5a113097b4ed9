"""External teachers: any trained classifier, whose outputs are put in the order of the images' classes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphanet_zoo.data.classes import shortened
from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError, one_line
from alphanet_zoo.files import EXPORTED_ENDINGS
from alphanet_zoo.nn.layers import resize_to
from alphanet_zoo.slim.named import build_network, is_network_name, read_weights
from alphanet_zoo.zoo.open import open_net

_WORDNET_ID = re.compile(r"n\d{8}")
"""Names of ImageNet's class folders."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Model:
    """A trained classifier as it was found.

    Args:
        logits: Maps normalised images ``(N, 3, H, W)`` to logits ``(N, classes)``.
        labels: Possible names of its classes, in the order of the logits; empty if they are unknown.
        mean: Mean of the images that it expects; None is that of the training images, as for ``std``.
        std: Deviation of the images that it expects.
        size: The only side of the images that it accepts, in pixels; None if any is accepted.
    """

    logits: Callable[[Tensor], Tensor]
    labels: tuple[tuple[str, ...], ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained classifier in evaluation, on the classes of the training images. Made by `open_teacher`.

    Attributes:
        name: What was opened.
        runs_a_file: Whether it is an exported file, which a runtime runs on the CPU.
    """

    name: str
    runs_a_file: bool
    _model: _Model
    _order: Tensor | None
    _scale: Tensor | None
    _offset: Tensor | None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)``, in the order of the images' classes, of training images ``(N, 3, H, W)``."""
        if self._scale is not None and self._offset is not None:
            images = images * self._scale + self._offset
        if self._model.size is not None:
            images = resize_to(images, self._model.size)
        logits = self._model.logits(images)
        return logits if self._order is None else logits.index_select(1, self._order)


def open_teacher(
    name: str,
    classes: Sequence[str],
    *,
    weights: str | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    device: torch.device,
) -> Teacher:
    """Opens a teacher.

    Args:
        name: ``timm/NAME``, ``torchvision/NAME`` or ``module:function`` (see `alphanet_zoo.slim.named.build_network`);
            an exported file (.onnx, .ort, .xml, .pte, .pt2); or what `alphanet_zoo.zoo.open.open_net` opens.
        classes: Names of the classes of the training images.
        weights: For a network of a library or a function, the file with its state dict. None downloads the published
            weights of timm or torchvision.
        mean: Mean with which the training images are normalised.
        std: Deviation with which the training images are normalised.
        size: Side of the training images, in pixels.
        device: Device of the training; an exported file runs on the CPU.

    Raises:
        UsageError: The teacher does not exist, has other classes, has no statistics or rejects the images.
        MissingDependencyError: A library or a runtime is not installed.
        AlphaNetError: A file is damaged.
    """
    is_file = name.lower().endswith(EXPORTED_ENDINGS)
    by_name = not is_file and is_network_name(name)
    if weights is not None and not by_name:
        raise UsageError(
            f"sandwich.teacher_weights is {weights}, which requires sandwich.teacher=timm/NAME, torchvision/NAME or "
            f"module:function; {name} has its own weights"
        )
    if is_file:
        model = _file(name)
    else:
        model = _network(name, classes, weights, device) if by_name else _own(name, device)
    scale = offset = None
    if model.mean is not None and model.std is not None and (model.mean, model.std) != (tuple(mean), tuple(std)):
        own_mean, own_std, given_mean, given_std = (
            torch.tensor(tuple(values), device=device).view(3, 1, 1) for values in (model.mean, model.std, mean, std)
        )
        scale, offset = given_std / own_std, (given_mean - own_mean) / own_std
    count = _count(name, model, size, device)
    order = _order(name, model.labels, count, classes)
    place = None if order is None else torch.tensor(order, device=device)
    return Teacher(name, is_file, model, place, scale, offset)


def _own(name: str, device: torch.device) -> _Model:
    """A network of this package."""
    net = open_net(name).net
    if net.supernet or net.calibration is None:
        raise UsageError(f"the teacher {name} has no batch-norm statistics; pass a calibrated subnet")
    cfg = net.pretrained_cfg
    names = cfg.get("label_names")
    labels = (tuple(names),) if names else ()
    return _Model(_ready(net, device), labels, tuple(cfg["mean"]), tuple(cfg["std"]))


def _network(name: str, classes: Sequence[str], weights: str | None, device: torch.device) -> _Model:
    """A network of timm, torchvision or a function.

    Its mean, deviation, fixed input size and class names are those of its ``pretrained_cfg``, under timm's keys.
    """
    library = name.partition("/")[0] if "/" in name else ""
    if weights is None:
        if not library:
            raise UsageError(f"the teacher {name} has no published weights; pass sandwich.teacher_weights=FILE")
        net = build_network(name, None, pretrained=True)
    else:
        net = build_network(name, len(classes))
        _load(net, name, weights, len(classes))
    cfg: dict[str, Any] = dict(getattr(net, "pretrained_cfg", None) or {})
    labels = [tuple(cfg["label_names"])] if cfg.get("label_names") else []
    if weights is None:
        labels += _library_labels(library, name, cfg, classes)
    size = cfg["input_size"][-1] if cfg.get("fixed_input_size") else getattr(net, "image_size", None)
    mean, std = cfg.get("mean"), cfg.get("std")
    if library == "torchvision":
        from alphanet_zoo.nn.config import IMAGENET_MEAN, IMAGENET_STD

        mean, std = IMAGENET_MEAN, IMAGENET_STD
    return _Model(
        _ready(net, device), tuple(labels), None if mean is None else tuple(mean), None if std is None else tuple(std),
        size if isinstance(size, int) else None,
    )  # fmt: skip


def _load(net: nn.Module, name: str, weights: str, num_classes: int) -> None:
    """Loads all tensors of a state dict."""
    try:
        net.load_state_dict(read_weights(Path(weights)))
    except RuntimeError as error:
        problem = " ".join(str(error).partition("\n")[2].split())[:160]
        raise UsageError(
            f"{weights} does not contain the weights of the teacher {name} with {num_classes} classes, as the images "
            f"have: {problem}"
        ) from error


def _library_labels(library: str, name: str, cfg: dict[str, Any], classes: Sequence[str]) -> list[tuple[str, ...]]:
    """The possible class names of the published weights of timm or torchvision."""
    labels: list[tuple[str, ...]] = []
    subset = "imagenet-1k" if all(_WORDNET_ID.fullmatch(each) for each in classes) else None
    if library == "torchvision":
        from torchvision.models import get_model_weights

        labels.append(tuple(get_model_weights(name.partition("/")[2]).DEFAULT.meta["categories"]))
        if subset is None:
            return labels
    try:
        from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
    except ImportError as error:
        raise MissingDependencyError("timm", "timm") from error
    subset = infer_imagenet_subset(cfg) if library == "timm" else subset
    if subset is not None:
        info = ImageNetInfo(subset)
        labels += [tuple(info.label_names()), tuple(info.label_descriptions())]  # type: ignore[no-untyped-call]
    return labels


def _ready(net: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A network that is used, not trained."""
    return net.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def _file(name: str) -> _Model:
    """An exported file in its runtime."""
    from alphanet_export.classify import opened_file, padded_inference

    runtime, metadata = opened_file(name, threads=torch.get_num_threads())
    if runtime.embedded:
        raise UsageError(
            f"the teacher {name} includes its preprocessing, and training images are already cropped; pass a file that "
            "was exported without --embed-preprocessing"
        )
    spec = metadata.get("preprocessing") or {}
    labels = (tuple(metadata["labels"]),) if metadata.get("labels") else ()

    def logits(images: Tensor) -> Tensor:
        found = padded_inference(runtime, images.float().cpu().contiguous().numpy())
        return torch.from_numpy(found).to(images.device)

    mean, std = (tuple(spec[key]) if key in spec else None for key in ("mean", "std"))
    return _Model(logits, labels, mean, std, runtime.input_size)


def _count(name: str, model: _Model, size: int, device: torch.device) -> int:
    """The number of classes of a teacher, which is run once on random images.

    Raises:
        UsageError: It rejects the images, or does not return logits.
    """
    images = torch.randn(2, 3, *(2 * [model.size or size]), generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.no_grad():
            result: object = model.logits(images)
    except AlphaNetError:
        raise
    except Exception as error:
        shape = tuple(images.shape)
        raise UsageError(f"the teacher {name} fails on images of shape {shape}: {one_line(error)}") from error
    if not isinstance(result, Tensor) or result.dim() != 2 or len(result) != 2:
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UsageError(f"the teacher {name} returns {found}; a classifier must return logits (N, classes)")
    return int(result.shape[1])


def _order(name: str, labels: Sequence[Sequence[str]], count: int, classes: Sequence[str]) -> tuple[int, ...] | None:
    """The output of the teacher for each class of the images; None if they are in the same order.

    Raises:
        UsageError: The classes differ.
    """
    if not labels:
        if count != len(classes):
            raise UsageError(
                f"the teacher {name} has {count} classes, which it does not name, and the images have {len(classes)}; "
                "pass a teacher with the classes of the images"
            )
        _LOG.warning(
            "the teacher %s does not name its classes; its outputs are taken to be, in this order: %s",
            name, shortened(classes),
        )  # fmt: skip
        return None
    for names in labels:
        if tuple(names) == tuple(classes):
            return None
        if len(names) == len(classes) == len(set(names)) and set(names) == set(classes):
            return tuple(names.index(each) for each in classes)
    names = min(labels, key=lambda each: len(set(classes) - set(each)))
    lacking = [each for each in classes if each not in names]
    if lacking:
        reason = f"the teacher has no {shortened(lacking, 3)}"
    elif extra := [each for each in names if each not in classes]:
        reason = f"the images have no {shortened(extra, 3)}"
    else:
        reason = "two outputs of the teacher have the same name"
    raise UsageError(f"the classes of the teacher {name} differ from those of the images: {reason}")
