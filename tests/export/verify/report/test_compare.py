from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from alphanet_export.verify.report.compare import COMPARED, contenders, network_costs
from alphanet_zoo.errors import MissingDependencyError, UsageError
from alphanet_zoo.space.cost import count_macs, count_params
from tests.export.exported import tiny_net


class Net(nn.Module):
    """Layers whose cost is easy to compute by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.depthwise(self.conv(images)))
        logits: torch.Tensor = self.linear(maps.mean((2, 3)))
        return logits


def test_costs_by_hand() -> None:
    macs, params = network_costs(Net().eval(), 16)
    assert macs == 8 * 8 * (8 * 3 * 9) + 8 * 8 * (8 * 25) + 8 * 10
    assert params == (8 * 27 + 8) + (8 * 25 + 8) + 16 + 90
    with pytest.raises(ValueError, match="Identity calls no convolution"):
        network_costs(nn.Identity().eval(), 4)


def test_the_cost_of_an_alphanet_is_that_of_the_cost_model() -> None:
    net = tiny_net()
    expected = count_macs(net.arch, net.space, 10), count_params(net.arch, net.space, 10)
    assert network_costs(net, net.arch.resolution) == expected


def test_models_are_chosen_by_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    chosen = contenders(["alphanet_a0", "alphanet_a5*"])
    assert [one.name for one in chosen] == ["alphanet_a0", "alphanet_a5", "alphanet_a5_base"]
    assert chosen[0].top1 == 77.87 and chosen[0].size == 192 and chosen[0].weights == "random" and chosen[0].ours
    with pytest.raises(
        UsageError, match="no model of the table is called 'resnet50'; choose from alphanet_a0, .*fbnetv3_b"
    ):
        contenders(["alphanet_a0", "resnet50"])


def test_without_timm_only_the_alphanets_are_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert len(contenders(["alphanet_*"])) == 8
    with pytest.raises(MissingDependencyError, match=r"timm is not installed.*alphanet-zoo\[bench\]"):
        contenders()


def test_published_figures_have_a_source() -> None:
    for name, size, top1, source in COMPARED:
        assert 70 < top1 < 85 and size in (224, 256) and source.startswith("timm, "), name
