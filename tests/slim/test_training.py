"""The sandwich step of the trainer, with a slimmable network."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.profiler import profile

import alphanet_zoo as az
from alphanet_zoo.nn.losses import AdaptiveAlphaDivergence, LabelSmoothedCrossEntropy
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients
from alphanet_zoo.train.graphs import GraphedPasses
from alphanet_zoo.train.sandwich import Losses, SandwichStep, draw_archs


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, out in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


def test_a_slimmable_network_learns_at_every_width() -> None:
    """Four classes of coloured noise; all widths are trained at once and evaluated after calibration."""
    supernet = az.slimmable(network(), (3, 16, 16), divisor=1).train()
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, fused=True)
    losses = Losses(LabelSmoothedCrossEntropy(0.0), AdaptiveAlphaDivergence())
    step = SandwichStep(supernet, optimizer, Gradients(supernet), losses, Ranks(0, 1, torch.device("cpu")), 1.0)
    colours = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(1))

    def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator().manual_seed(seed)
        labels = torch.randint(4, (32,), generator=draws)
        return colours[labels] + 0.7 * torch.randn(32, 3, 16, 16, generator=draws), labels

    visited = set()
    for number in range(40):
        archs = draw_archs(supernet.space, 0, number)
        visited |= set(archs.values())
        assert step([batch(number)], archs).finite
    assert len(visited) > 10
    images, labels = batch(1000)
    for arch in (supernet.space.largest, supernet.space.at(0.5), supernet.space.smallest):
        static = supernet.extract(arch)
        update_bn([batch(number) for number in range(4)], static)
        with torch.no_grad():
            accuracy = (static.eval()(images).argmax(1) == labels).float().mean()
        assert accuracy > 0.9, (arch, accuracy)


@pytest.mark.parametrize(("divisor", "graphed"), [(8, "all"), (1, "the largest and the smallest")])
def test_subnets_that_recur_are_run_as_graphs(divisor: int, graphed: str) -> None:
    """Graphs that only record: in a small space, those of all subnets are kept."""
    supernet = az.slimmable(network(), (3, 16, 16), divisor=divisor, tie=None).train()
    keys = set()

    def record(key: Any, resolution: int | None, one_pass: Any, images: torch.Tensor, target: torch.Tensor) -> Any:
        keys.add(key[0])
        return one_pass(images, target)

    step = SandwichStep(
        supernet, torch.optim.SGD(supernet.parameters(), lr=0.1, fused=True), Gradients(supernet),
        Losses(LabelSmoothedCrossEntropy(0.0)), Ranks(0, 1, torch.device("cpu")), graphs=cast(GraphedPasses, record),
    )  # fmt: skip
    drawn = set()
    for number in range(8):
        archs = draw_archs(supernet.space, 0, number)
        drawn |= set(archs.values())
        step([(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))], archs)
    assert keys == (drawn if graphed == "all" else {supernet.space.largest, supernet.space.smallest}) and len(drawn) > 4


def test_compiled_kernels_give_the_gradients_of_torch() -> None:
    """Three of the depthwise convolutions fit the kernels: with bias, without padding, and of 24 of 48 channels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, 3, 2, 1, groups=48), nn.BatchNorm2d(48), nn.ReLU6(),
        nn.Conv2d(48, 48, 5, 1, 0, groups=48, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, 3, 1, "same", groups=48), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, 3, 1, 2, dilation=2, groups=48), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 48, (3, 3), (1, 1), (1, 1), groups=48), nn.BatchNorm2d(48), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip
    supernet = az.slimmable(net, (3, 40, 40), widths=(0.5, 1.0)).train()
    images = torch.randn(4, 3, 40, 40)
    for arch in (supernet.space.largest, supernet.space.smallest):
        found = {}
        for kernels in ("torch", "compiled"):
            supernet.kernels = kernels
            supernet.zero_grad()
            with profile() as profiler:
                logits = supernet(images, arch)
            logits.square().sum().backward()
            calls = sum(e.count for e in profiler.key_averages() if e.key == "alphanet::depthwise_conv")
            assert calls == (3 if kernels == "compiled" else 0)
            gradients = [p.grad for p in supernet.parameters() if p.grad is not None]
            found[kernels] = torch.cat([logits.flatten(), *(g.flatten() for g in gradients)])
        assert (found["torch"] - found["compiled"]).norm() < 1e-5 * found["torch"].norm()
    with pytest.raises(ValueError, match="kernels is 'fast'; pass 'torch' or 'compiled'"):
        supernet.kernels = "fast"  # type: ignore[assignment]
