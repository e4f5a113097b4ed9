from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from alphanet_export.verify.measure.contenders import COMPARED, DISTILLED, MERGED, contenders, network_costs
from alphanet_zoo.errors import MissingDependencyError, UsageError
from alphanet_zoo.nn.init import fill_live
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
    with pytest.raises(ValueError, match="Identity computes no convolution"):
        network_costs(nn.Identity().eval(), 4)


class Attention(nn.Module):
    """Attention of one head over the pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_the_products_of_attention_are_counted() -> None:
    macs, params = network_costs(Attention().eval(), 8)
    assert (macs, params) == (2 * 64 * 64 * 3, 0)


def test_the_cost_of_an_alphanet_is_that_of_the_cost_model() -> None:
    net = tiny_net()
    expected = count_macs(net.arch, net.space, 10), count_params(net.arch, net.space, 10)
    assert network_costs(net, net.arch.resolution) == expected


def test_models_are_chosen_by_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    chosen = contenders(["alphanet_a0", "alphanet_a5*"])
    assert [one.name for one in chosen] == ["alphanet_a0", "alphanet_a5", "alphanet_a5_base"]
    assert (
        chosen[0].published is not None
        and chosen[0].published.top1 == 77.87
        and chosen[0].size == 192
        and chosen[0].weights == "random"
        and chosen[0].ours
    )
    with pytest.raises(
        UsageError, match="no model of the table is called 'resnet50'; choose from alphanet_a0, .*fbnetv3_b"
    ):
        contenders(["alphanet_a0", "resnet50"])


def test_without_timm_only_the_alphanets_are_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert len(contenders(["alphanet_*"])) == 8
    with pytest.raises(MissingDependencyError, match=r"timm is not installed.*alphanet-zoo\[bench\]"):
        contenders()


def test_the_models_of_timm_exist_and_are_measured_at_a_size_of_their_weights() -> None:
    timm = pytest.importorskip("timm")
    for name, size, top1 in COMPARED:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
        assert size in (cfg.input_size[-1], (cfg.test_input_size or cfg.input_size)[-1]) and 70 < top1 < 85, name
        assert ("dist" in name) == (name.partition(".")[0] in DISTILLED)


@pytest.mark.slow
def test_merged_branches_compute_the_same_with_fewer_parameters() -> None:
    timm = pytest.importorskip("timm")
    for one in contenders(MERGED):
        merged = one.build()
        whole = fill_live(timm.create_model(one.name)).eval()
        images = torch.randn(1, 3, one.size, one.size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected, found = whole(images), merged(images)
        assert ((expected - found).abs().max() / expected.abs().max()).item() < 1e-5
        assert network_costs(merged, one.size)[1] < network_costs(whole, one.size)[1]
