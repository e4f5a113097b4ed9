"""Costs: golden figures, counts derived by hand, and counts of the real network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, SPACES
from alphanet_zoo.space.shapes import BlockShape, block_macs, block_params
from alphanet_zoo.space.space import SearchSpace

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def test_golden_archs() -> None:
    golden = json.loads((GOLDEN / "archs.json").read_text())
    assert golden
    for name, row in golden.items():
        assert count_macs(ArchSpec.from_dict(row["spec"])) == round(row["flops_m"] * 1e6), name


def test_golden_costs() -> None:
    golden = json.loads((GOLDEN / "costs.json").read_text())
    assert len(golden) == 200
    expected = [round(row.pop("flops") * 1e6) for row in golden]
    archs = [ArchSpec.from_dict(row) for row in golden]
    assert [count_macs(arch) for arch in archs] == expected
    assert count_macs(np.array([arch.scalars for arch in archs])).tolist() == expected


def test_one_block_by_hand() -> None:
    # 8 channels of 7x7, expanded to 24, depthwise 5x5 of stride 2 to 4x4, squeeze to 8 and back, 16 channels out.
    block = BlockShape(2, 5, 8, 24, 16, 5, 2, True, 8, 7)
    macs = {"expand": 49 * 8 * 24, "depthwise": 16 * 24 * 25, "squeeze": 24 * 8 + 8 * 24, "project": 16 * 24 * 16}
    assert block_macs(block) == sum(macs.values()) + 16 * 8 * 16 == 27_584
    batch_norms = 2 * (24 + 24 + 16)
    assert (
        block_params(block) == 8 * 24 + 24 * 25 + (24 * 8 + 8) + (8 * 24 + 24) + 24 * 16 + 8 * 16 + batch_norms == 1848
    )


def test_a_block_without_expansion_squeeze_or_shortcut_convolution_by_hand() -> None:
    block = BlockShape(0, 1, 16, 16, 16, 3, 1, False, 0, 4)
    assert block_macs(block) == 16 * 16 * 9 + 16 * 16 * 16
    assert block_params(block) == 16 * 9 + 2 * 16 + 16 * 16 + 2 * 16


def test_a_whole_net_by_hand() -> None:
    arch = ArchSpec(12, (8, 8, 16, 24, 96), (1, 1, 1), (3, 3, 3), (1, 3, 3))
    stem = 144 * 27 * 8
    mb1 = 144 * 8 * 9 + 144 * 8 * 8
    mb2 = 144 * 8 * 24 + 36 * 24 * 9 + 36 * 24 * 16 + 36 * 8 * 16
    mb3 = 36 * 16 * 48 + 9 * 48 * 9 + 2 * 48 * 16 + 9 * 48 * 24 + 9 * 16 * 24
    head = 9 * 24 * 144 + 144 * 96 + 96 * 10
    assert count_macs(arch, ALPHANET_TINY, 10) == stem + mb1 + mb2 + mb3 + head == 197_328
    assert arch == ALPHANET_TINY.smallest


@every_space
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_real_network_computes_and_holds_what_is_counted(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    for arch in (space.smallest, space.largest, *(space.sample(rng) for _ in range(4))):
        with torch.device("meta"):
            net = AlphaNet(arch, space, num_classes=7).eval()
            image = torch.empty(1, 3, arch.resolution, arch.resolution)
        assert count_params(arch, space, 7) == sum(parameter.numel() for parameter in net.parameters())
        with FlopCounterMode(display=False) as counter:
            net(image)
        assert count_macs(arch, space, 7) * 2 == counter.get_total_flops()


@every_space
def test_classes_cost_one_row_of_the_classifier_each(space: SearchSpace) -> None:
    arch = space.largest
    assert count_macs(arch, space, 12) - count_macs(arch, space, 0) == 12 * arch.width[-1]
    assert count_params(arch, space, 12) - count_params(arch, space, 0) == 12 * (arch.width[-1] + 1)


def test_what_has_no_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="3 stages; the space alphanet has 7"):
        count_macs(ALPHANET_TINY.largest)
    with pytest.raises(ValueError, match="3 stages; the space alphanet has 7"):
        count_params(ALPHANET_TINY.largest, ALPHANET)
    with pytest.raises(ValueError, match="num_classes is -1"):
        count_macs(ALPHANET.largest, num_classes=-1)
    with pytest.raises(ValueError, match="num_classes is -1"):
        count_params(ALPHANET.largest, num_classes=-1)
    with pytest.raises(ValueError, match="cannot count the MACs of a dict"):
        count_macs(ALPHANET.largest.to_dict())  # type: ignore[call-overload]
