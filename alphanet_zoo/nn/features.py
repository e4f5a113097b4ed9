"""Feature pyramids for detection and segmentation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.nn.timm_api import level_indices


def _without_head(net: AlphaNet, stages: int) -> AlphaNet:
    """A network with the stem and the first ``stages`` stages of ``net``, which it shares, and no other layers."""
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
    """A network without its head that returns a pyramid of maps and never resizes its input.

    Args:
        net: Any static network, such as a subnet of your own supernet; its layers are shared, not copied.
        out_indices: Levels of ``net.feature_info`` to return, in ascending order; negative ones count from the end.
            An integer n means the last n levels, None all of them.

    Attributes:
        feature_info: A `FeatureInfo` of these levels.
        pretrained_cfg: That of ``net``, without the entries for the classifier.

    Raises:
        ValueError: ``net`` is a supernet or not an AlphaNet, or an index is out of range or out of order.
    """

    def __init__(self, net: Network, out_indices: int | Sequence[int] | None = None) -> None:
        """Keeps the layers up to the last level."""
        super().__init__()
        if net.supernet:
            raise ValueError("a supernet has no feature pyramid of its own; extract a subnet first")
        levels = net.feature_info
        if not levels:
            raise ValueError(f"{net.space.name} is not an AlphaNet; extract features from its module, net.net")
        indices = level_indices(len(levels), out_indices)
        if indices != sorted(set(indices)):
            raise ValueError(f"out_indices are {out_indices}; pass them in ascending order, each once")
        self.feature_info = FeatureInfo(levels[i] for i in indices)
        self.in_chans = net.in_chans
        dropped = ("num_classes", "classifier", "label_names")
        self.pretrained_cfg = {key: value for key, value in net.pretrained_cfg.items() if key not in dropped}
        self._stages = [int(level["module"].removeprefix("blocks.")) for level in self.feature_info]
        self.trunk = _without_head(cast(AlphaNet, net), self._stages[-1] + 1)

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg`, under its older name."""
        return self.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `alphanet_zoo.nn.timm_api.TimmApi.set_grad_checkpointing`."""
        self.trunk.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps ``(N, num_chs, ceil(H / reduction), ceil(W / reduction))`` of images ``(N, 3, H, W)``, finest first."""
        x, maps = self.trunk._stem(x, None, resize=False), []
        for index, stage in enumerate(self.trunk.blocks):
            x = stage(x)
            if index in self._stages:
                maps.append(x)
        return maps
