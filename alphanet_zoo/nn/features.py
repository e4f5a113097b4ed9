"""Feature pyramids for detection and segmentation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from alphanet_zoo.nn.model import AlphaNet


def _without_head(net: AlphaNet, stages: int) -> AlphaNet:
    """A net that shares the layers of ``net`` up to its first ``stages`` stages, and has no others."""
    trunk = copy.copy(net)
    kept = {name: module for name, module in net._modules.items() if name in ("conv_stem", "bn1")}
    trunk._modules = {**kept, "blocks": net.blocks[:stages]}
    trunk.calibration = net.calibration
    return trunk


class FeatureInfo(list[dict[str, Any]]):
    """The levels that a `FeatureExtractor` returns, with timm's accessors."""

    def channels(self) -> list[int]:
        """Channels of each level."""
        return [level["num_chs"] for level in self]

    def reduction(self) -> list[int]:
        """Input pixels per pixel of each level, along a side."""
        return [level["reduction"] for level in self]

    def module_name(self) -> list[str]:
        """Name of the module whose output each level is."""
        return [level["module"] for level in self]


class FeatureExtractor(nn.Module):
    """A net without its head that returns a pyramid of maps and never resizes its input.

    Args:
        net: A static net; its layers are shared, not copied.
        out_indices: Levels of ``net.feature_info`` to return, in ascending order; negative ones count from the end.
            None: all of them.

    Attributes:
        feature_info: A `FeatureInfo` of these levels.

    Raises:
        ValueError: ``net`` is a supernet, or an index is out of range or out of order.
    """

    def __init__(self, net: AlphaNet, out_indices: Sequence[int] | None = None) -> None:
        """Keeps the layers up to the last level."""
        super().__init__()
        if net.supernet:
            raise ValueError("a supernet has no feature pyramid of its own; extract a subnet first")
        levels = net.feature_info
        indices = list(range(len(levels)) if out_indices is None else out_indices)
        if not indices or any(not -len(levels) <= i < len(levels) for i in indices):
            raise ValueError(f"out_indices are {indices}; pass indices of the {len(levels)} levels")
        indices = [i % len(levels) for i in indices]
        if indices != sorted(set(indices)):
            raise ValueError(f"out_indices are {indices}; pass them in ascending order, each once")
        self.feature_info = FeatureInfo(levels[i] for i in indices)
        self._stages = [int(level["module"].removeprefix("blocks.")) for level in self.feature_info]
        self.trunk = _without_head(net, self._stages[-1] + 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps ``(N, num_chs, ceil(H / reduction), ceil(W / reduction))`` of images ``(N, 3, H, W)``, finest first."""
        x, maps = self.trunk._stem(x, None), []
        for index, stage in enumerate(self.trunk.blocks):
            x = stage(x)
            if index in self._stages:
                maps.append(x)
        return maps
