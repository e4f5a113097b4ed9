"""Random networks that Hypothesis builds: exact at full width, when extracted, and in their cost."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import alphanet_zoo as az

CASES = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip
LAYERS = ("conv", "pointwise", "depthwise", "grouped", "residual", "concatenation", "squeeze", "pool")
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Hardswish, nn.Identity)
SIZE = (3, 16, 16)


class Layer(nn.Module):
    """A part of a network; ``out`` is its number of channels."""

    def __init__(self, kind: str, channels: int, width: int, activation: type[nn.Module], bias: bool) -> None:
        super().__init__()
        self.kind = kind
        same = kind in ("depthwise", "residual", "squeeze", "pool")
        self.out = channels if same else channels + width if kind == "concatenation" else width
        target = width if kind in ("conv", "pointwise", "grouped", "concatenation") else channels
        groups = {"depthwise": channels, "grouped": 4}.get(kind, 1)
        side = 1 if kind in ("pointwise", "squeeze") else 3
        self.conv = nn.Conv2d(channels, target, side, padding=side // 2, groups=groups, bias=bias)
        self.norm, self.activation = nn.BatchNorm2d(target), activation()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "pool":
            return nn.functional.avg_pool2d(x, 3, 1, 1)
        if self.kind == "squeeze":
            return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()
        y: Tensor = self.activation(self.norm(self.conv(x)))
        if self.kind == "residual":
            return x + y
        return torch.cat([x, y], 1) if self.kind == "concatenation" else y


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A classifier of a stem and up to six layers."""
    torch.manual_seed(draw(st.integers(0, 1000), "seed"))
    channels, layers = 16, list[nn.Module]([nn.Conv2d(3, 16, 3, 2, 1)])
    for kind in draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=6), "layers"):
        width = 8 * draw(st.integers(1, 4), "width")
        layers.append(Layer(kind, channels, width, draw(st.sampled_from(ACTIVATIONS)), draw(st.booleans())))
        channels = layers[-1].out  # type: ignore[assignment]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


@CASES
@given(net=networks(), tie=st.sampled_from(["uniform", None]), seed=st.integers(0, 100))
def test_any_network_is_exact(net: nn.Module, tie: str | None, seed: int) -> None:
    images, rng = torch.randn(2, *SIZE), np.random.default_rng(seed)
    with torch.no_grad():
        expected = net.train()(images)
    supernet = az.slimmable(net, SIZE, (0.25, 1.0), tie=tie, importance=None).train()  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(supernet(images, supernet.space.largest), expected, rtol=0, atol=0)
        for arch in (supernet.space.smallest, supernet.space.sample(rng)):
            static = supernet.extract(arch)
            torch.testing.assert_close(supernet(images, arch), static(images), rtol=1e-4, atol=1e-5)
            with FlopCounterMode(display=False) as counter:
                static.eval()(images[:1])
            assert supernet.space.count_macs(arch) == counter.get_total_flops() // 2
            assert supernet.space.count_params(arch) == sum(p.numel() for p in static.parameters())
