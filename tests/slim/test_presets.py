"""The published slimmable MobileNets."""

from __future__ import annotations

import pytest
import torch

import alphanet_zoo as az

PUBLISHED = {
    "v1": (az.SLIMMABLE_MOBILENET_V1, 568_740_352, 4_231_976, 0.25),
    "v2": (az.SLIMMABLE_MOBILENET_V2, 300_774_272, 3_504_872, 0.35),
}
"""MACs (569 M and 300 M) and parameters at full width, and the least width."""


@pytest.mark.parametrize("name", ["v1", pytest.param("v2", marks=pytest.mark.slow)])
def test_published_sizes(name: str) -> None:
    preset, macs, params, least = PUBLISHED[name]
    supernet = preset.supernet()
    space = supernet.space
    assert (space.count_macs(space.largest), space.count_params(space.largest)) == (macs, params)
    assert space.smallest == az.SlimArch(224, (least,)) and supernet.report.share == 1.0
    small = supernet.extract(space.smallest).eval()
    with torch.no_grad():
        assert small(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    if name == "v1":  # Table 6 of Howard et al., 2017, arXiv:1704.04861: 41 M MACs, 0.5 M parameters at 0.25.
        assert round(space.count_macs(space.smallest) / 1e6) == 41
        assert round(space.count_params(space.smallest) / 1e6, 1) == 0.5
