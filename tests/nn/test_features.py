"""Feature pyramids."""

from __future__ import annotations

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY


def test_levels_of_the_imagenet_space() -> None:
    net = fill_live(az.AlphaNet(ALPHANET.smallest)).eval()
    extractor = FeatureExtractor(net)
    assert extractor.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert extractor.feature_info.channels() == [16, 24, 32, 112, 216]
    assert extractor.feature_info.module_name() == ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]
    assert net.feature_info == list(extractor.feature_info)
    maps = extractor(torch.randn(2, 3, 96, 160))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 48, 80), (24, 24, 40), (32, 12, 20), (112, 6, 10), (216, 3, 5)]


def test_the_net_stays_whole_and_the_maps_are_its_own() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10)).eval()
    x = torch.randn(1, 3, 16, 16)
    before = net(x)
    seen: list[torch.Tensor] = []
    hook = net.blocks[2][-1].register_forward_hook(lambda _, __, out: seen.append(out))
    assert torch.equal(net(x), before)
    hook.remove()
    last = FeatureExtractor(net, out_indices=(-1,))
    assert torch.equal(last(x)[0], seen[0])
    assert torch.equal(net(x), before)


def test_unneeded_stages_are_left_out() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10)).eval()
    first = FeatureExtractor(net, out_indices=(0,))
    assert sum(p.numel() for p in first.parameters()) < sum(p.numel() for p in FeatureExtractor(net).parameters())
    assert "classifier" not in dict(first.named_modules()).keys() and first.feature_info.reduction() == [1]


def test_it_trains_and_exports() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).train()
    extractor = FeatureExtractor(net).train()
    sum(m.sum() for m in extractor(torch.randn(2, 3, 16, 24))).backward()
    assert net.conv_stem.weight.grad is not None
    program = torch.export.export(extractor.eval(), (torch.randn(1, 3, 16, 24),))
    assert len(program.module()(torch.randn(1, 3, 16, 24))) == 3


@pytest.mark.parametrize("indices", [(3,), (), (1, 0), (0, -3)])
def test_bad_indices_are_refused(indices: tuple[int, ...]) -> None:
    net = az.AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)
    with pytest.raises(ValueError, match="out_indices"):
        FeatureExtractor(net, indices)


def test_a_supernet_is_refused() -> None:
    with pytest.raises(ValueError, match="extract a subnet first"):
        FeatureExtractor(az.build_supernet(ALPHANET_TINY, 10))
