"""The attributes and methods that users of timm expect of a model, under timm's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphanet_zoo.nn.config import channel_cfg, input_cfg
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.layers import MBConv, SlicedLinear, Stage
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.shapes import net_shape
from alphanet_zoo.space.space import SearchSpace

MOST_CLASSES, MOST_CHANNELS = 10_000_000, 65_536
"""Largest number of classes, and of channels of the images."""
POOLS = ("avg", "")
"""Values of ``global_pool``: average pooling, or none."""


class TimmApi(Network):
    """The part of `alphanet_zoo.nn.model.AlphaNet` that follows timm's conventions.

    Attributes:
        in_chans: Channels of the input images.
        global_pool: 'avg', or '' if `forward_head` keeps the map.
        num_features: Channels of `forward_features`.
        head_hidden_size: Channels before the classifier.
        pretrained_cfg: Preprocessing of images and origin of the weights, under timm's keys.
    """

    arch: ArchSpec
    space: SearchSpace
    in_chans: int
    global_pool: str
    num_features: int
    head_hidden_size: int
    _top1: float | None = None
    blocks: nn.Sequential
    classifier: nn.Module

    @property
    def default_cfg(self) -> dict[str, Any]:
        """``pretrained_cfg``, under its older name."""
        return self.pretrained_cfg

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy of the weights in percent, published or measured; None if unknown, or after training."""
        return None if self.calibration == "training" else self._top1

    @top1.setter
    def top1(self, value: float | None) -> None:
        self._top1 = value

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 without one."""
        widths = [getattr(module, "out_features", None) for module in self.classifier.modules()]
        return next((width for width in reversed(widths) if isinstance(width, int)), 0)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The feature pyramid, the last stage at each reduction.

        ``num_chs`` is the number of channels, ``reduction`` the input pixels per pixel along a side, ``module`` the
        name of the module whose output it is.
        """
        levels: dict[int, dict[str, Any]] = {}
        reduction = self.space.stem_stride
        for index, stage in enumerate(net_shape(self.space, self.arch).stages):
            reduction *= stage[0].stride
            levels[reduction] = {"num_chs": stage[-1].out_channels, "reduction": reduction, "module": f"blocks.{index}"}
        return list(levels.values())

    @property
    def drop_path_rate(self) -> float:
        """Drop-connect of the last block, from which the rates of the other blocks follow."""
        return self._drop_path_rate

    @drop_path_rate.setter
    def drop_path_rate(self, rate: float) -> None:
        self._drop_path_rate = rate
        shapes = net_shape(self.space, self.arch).stages
        for shape, block in ((s, self._block(s.stage, i)) for stage in shapes for i, s in enumerate(stage)):
            drops = shape.stage >= len(shapes) - 2 and shape.stride == 1 and not shape.projects_shortcut
            share = shape.index / sum(stage.depth[-1] for stage in self.space.stages)
            block.drop_path_rate = rate * share if drops else 0.0

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new, randomly initialised one.

        Args:
            num_classes: Number of outputs; 0 removes the classifier, and `forward` returns its input features.
            global_pool: 'avg', or '' to keep the map, which requires ``num_classes=0``. None keeps the current value.

        Raises:
            ValueError: An argument is out of its domain.
        """
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or not 0 <= num_classes <= MOST_CLASSES:
            raise ValueError(f"num_classes is {num_classes!r}; pass an integer from 0 to {MOST_CLASSES}")
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in POOLS:
            raise ValueError(f"global_pool is {pool!r}; AlphaNet has only 'avg' and '' (no pooling)")
        if num_classes and not pool:
            raise ValueError(f"global_pool is '' and num_classes is {num_classes}; without pooling, pass num_classes=0")
        self.global_pool = pool
        like, linear = self.get_submodule("conv_head").weight, SlicedLinear if self.supernet else nn.Linear
        assert isinstance(like, Tensor)
        self.classifier = (
            linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        ).train(self.training)

    def adapt(self, num_classes: int | None = None, in_chans: int = 3, global_pool: str | None = None) -> None:
        """See `alphanet_zoo.nn.family.Network.adapt`."""
        self.set_in_chans(in_chans)
        classes = self.num_classes if num_classes is None else num_classes
        pool = self.global_pool if global_pool is None else global_pool
        if (classes, pool) != (self.num_classes, self.global_pool):
            self.reset_classifier(classes, pool)

    @torch.no_grad()
    def set_in_chans(self, in_chans: int) -> None:
        """Changes the number of input channels and adapts the weights of the first convolution, as timm does.

        For one channel, the weights of all channels are summed. For more channels, they are repeated in order and
        scaled by the old number of channels divided by the new one. ``mean`` and ``std`` of `pretrained_cfg` become
        their averages.

        Raises:
            ValueError: ``in_chans`` is not a positive integer.
        """
        check_in_chans(in_chans)
        if in_chans == self.in_chans:
            return
        stem = self.get_submodule("conv_stem")
        assert isinstance(stem, nn.Conv2d)
        weight = stem.weight
        if in_chans == 1:
            adapted = weight.sum(1, keepdim=True)
        else:
            order = torch.arange(in_chans, device=weight.device) % self.in_chans
            adapted = weight[:, order] * (self.in_chans / in_chans)
        stem.weight, stem.in_channels = nn.Parameter(adapted, weight.requires_grad), in_chans
        self.in_chans, self.top1 = in_chans, None
        self.pretrained_cfg |= self._input_cfg() | channel_cfg(self.pretrained_cfg, in_chans)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether training stores only the inputs of the blocks; see `set_grad_checkpointing`."""
        return any(stage.grad_checkpointing for stage in self.blocks if isinstance(stage, Stage))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Reduces the memory of training: each block runs again in the backward pass, with the same results."""
        for stage in self.blocks:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that assign parameters to groups in order of depth, for layer-wise learning rates.

        Args:
            coarse: One group per stage instead of one per block.
        """
        blocks = r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)"
        return {
            "stem": r"^(?:conv_stem|bn1)\.",
            "blocks": [(blocks, None), (r"^(?:conv_final|bn2|conv_head)\.", (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay besides biases and batch norms: none."""
        return set()

    def _input_cfg(self) -> dict[str, Any]:
        """The part of `pretrained_cfg` that the arch determines."""
        return input_cfg(self.arch, self.in_chans, self.feature_info[-1]["reduction"])

    def _block(self, stage: int, index: int) -> MBConv:
        """Block ``index`` of a stage."""
        block = self.get_submodule(f"blocks.{stage}.{index}")
        assert isinstance(block, MBConv)
        return block


def check_in_chans(in_chans: Any) -> None:
    """Raises ValueError unless ``in_chans`` is a positive integer."""
    if isinstance(in_chans, bool) or not isinstance(in_chans, int) or not 1 <= in_chans <= MOST_CHANNELS:
        raise ValueError(f"in_chans is {in_chans!r}; pass an integer from 1 to {MOST_CHANNELS}")


def level_indices(levels: int, indices: int | Sequence[int] | None) -> list[int]:
    """Positions of feature levels, not negative.

    Args:
        levels: Number of levels.
        indices: Positions, where negative ones count from the end; an integer n for the last n; None for all.

    Raises:
        ValueError: The list of indices is empty, or an index is out of range.
    """
    if isinstance(indices, int):
        found = list(range(levels - indices, levels)) if 0 < indices <= levels else []
    else:
        found = list(range(levels) if indices is None else indices)
    if not found or any(not isinstance(i, int) or not -levels <= i < levels for i in found):
        raise ValueError(
            f"out_indices are {indices}; pass indices of the {levels} levels (negative ones count from the end), or "
            "an integer n for the last n levels"
        )
    return [i % levels for i in found]
