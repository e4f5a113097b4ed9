"""Converts the published checkpoint to a supernet of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.choices import Stage
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.shapes import shortcut_varies
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.tensor_file import check_values
from alphanet_zoo.unpickle import read_tensors
from alphanet_zoo.zoo.files import check_tensors
from alphanet_zoo.zoo.pins import PUBLISHED_CFG

_FOREIGN_CLASS = "utils.config.Config"
_PREFIX = "module."
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_CLASSIFIER = "classifier.linear.linear.weight"

NameMap = dict[str, str | None]


def name_map(space: SearchSpace = ALPHANET) -> NameMap:
    """Published key, without ``module.``, to the key in this package; None if the tensor is dropped.

    The unused ``bn_tracking`` statistics and the shortcut convolutions that no subnet uses are dropped.

    Source: docs/specification.md, section 7.
    """
    names = _conv("first_conv", "conv_stem") | _norm("first_conv", "bn1")
    flat = 0
    for stage_index, stage in enumerate(space.stages):
        for index in range(stage.depth[-1]):
            shortcut = index == 0 and shortcut_varies(space, stage_index)
            names |= _block(f"blocks.{flat}", f"blocks.{stage_index}.{index}", stage, shortcut=shortcut)
            flat += 1
    names |= _conv("last_conv.final_expand_layer", "conv_final") | _norm("last_conv.final_expand_layer", "bn2")
    names |= _conv("last_conv.feature_mix_layer", "conv_head")
    return names | {f"classifier.linear.linear.{kind}": f"classifier.{kind}" for kind in ("weight", "bias")}


def _conv(published: str, ours: str | None) -> NameMap:
    """A convolution without bias."""
    return {f"{published}.conv.conv.weight": ours and f"{ours}.weight"}


def _norm(published: str, ours: str) -> NameMap:
    """A batch norm and its unused statistics."""
    names: NameMap = {f"{published}.bn.bn.{kind}": f"{ours}.{kind}" for kind in _BATCH_NORM}
    return names | {f"{published}.bn.bn_tracking.{i}.{kind}": None for i in (0, 1) for kind in _BATCH_NORM[2:]}


def _block(published: str, ours: str, stage: Stage, *, shortcut: bool) -> NameMap:
    """An MBConv block."""
    inner = f"{published}.mobile_inverted_conv"
    layers = [("depth_conv", "conv_dw", "bn2"), ("point_linear", "conv_pwl", "bn3")]
    if stage.expand_ratio[-1] != 1:
        layers.insert(0, ("inverted_bottleneck", "conv_pw", "bn1"))
    names: NameMap = {}
    for layer, conv, norm in layers:
        names |= _conv(f"{inner}.{layer}", f"{ours}.{conv}") | _norm(f"{inner}.{layer}", f"{ours}.{norm}")
    if stage.se:
        for part in ("reduce", "expand"):
            for kind in ("weight", "bias"):
                names[f"{inner}.depth_conv.se.fc.{part}.{kind}"] = f"{ours}.se.conv_{part}.{kind}"
    return names | _conv(f"{published}.shortcut", f"{ours}.shortcut" if shortcut else None)


def load_upstream(path: str | os.PathLike[str]) -> AlphaNet:
    """The supernet in the authors' checkpoint, in eval mode, with the checkpoint's own running statistics.

    The file is a pickle. A child process with limited memory and time reads it with PyTorch's restricted unpickler,
    which builds tensors and plain containers and runs no code; see `alphanet_zoo.unpickle`. The one class in it that
    PyTorch does not know is read as a dict.

    Args:
        path: The authors' ``.pth.tar`` file. The number of classes is that of its classifier.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The file is not a checkpoint, its tensors do not fit (the message names those that are missing,
            unexpected or of the wrong shape), or it contains a class that an AlphaNet checkpoint does not.

    Source: docs/specification.md, section 7.
    """
    return supernet_of(_state_dict(path), os.fspath(path))


def supernet_of(tensors: Mapping[str, Tensor], source: str) -> AlphaNet:
    """The supernet of the tensors of the authors' checkpoint; errors as `load_upstream`.

    Args:
        tensors: The tensors under the published names, without ``module.``.
        source: Their origin, for messages.
    """
    head = tensors.get(_CLASSIFIER)
    classes = head.shape[0] if head is not None and head.dim() == 2 and head.shape[0] else 1000
    with torch.device("meta"):
        net = build_supernet(ALPHANET, classes)
    names, expected = name_map(ALPHANET), net.state_dict()
    wanted = {key: expected[ours] for key, ours in names.items() if ours is not None}
    found = {key: tensor for key, tensor in tensors.items() if names.get(key, key) is not None}
    check_tensors(source, found, wanted)
    check_values(source, found)
    ours = {str(names[key]): tensor.clone(memory_format=torch.contiguous_format) for key, tensor in found.items()}
    net.load_state_dict(ours, assign=True)
    net.calibration = "checkpoint"
    net.pretrained_cfg |= PUBLISHED_CFG["imagenet"]
    labels = imagenet_labels()
    if classes == len(labels):  # The classifier of the checkpoint is ImageNet's; one of another size is somebody's own.
        net.pretrained_cfg["label_names"] = labels
    return net.eval()


def imagenet_labels() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes in the order of the published classifier, from torchvision."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


def _state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the prefix ``module.`` of distributed training."""
    name = os.fspath(path)
    if not Path(path).is_file():
        raise UsageError(f"no such file: {name}; pass the authors' checkpoint")
    if Path(path).suffix == ".safetensors":
        raise UsageError(f"{name} is already in the format of this package; pass the authors' checkpoint (.pth.tar)")
    tensors = read_tensors(path, foreign=_FOREIGN_CLASS)
    state = {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}
    if len(state) != len(tensors):
        raise AlphaNetError(
            f"the 'state_dict' of {name} is not valid: two entries have the same name; pass the authors' checkpoint "
            "(.pth.tar)"
        )
    return state
