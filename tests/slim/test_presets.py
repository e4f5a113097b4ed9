"""The slimmable networks of the package."""

from __future__ import annotations

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.slim.named import named_slimmable
from alphanet_zoo.slim.presets import EfficientNetLite0

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


@pytest.mark.parametrize("size", [64, 75])
@pytest.mark.filterwarnings("ignore")
def test_efficientnet_lite0_is_that_of_timm(size: int) -> None:
    """The layers have the same order, and TensorFlow's padding, at even and at odd sides."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs, ours = timm.create_model("tf_efficientnet_lite0", num_classes=10).eval(), EfficientNetLite0(10).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_efficientnet_lite0_narrows_everywhere_and_knows_its_images() -> None:
    space = az.SLIMMABLE_EFFICIENTNET_LITE0.supernet().space
    # 385,187,552 MACs and 4,652,008 parameters are those that PyTorch counts for timm's network.
    assert (space.count_macs(space.largest), space.count_params(space.largest)) == (385_187_552, 4_652_008)
    assert space.smallest == az.SlimArch(224, (0.35,))
    named = named_slimmable("alphanet_zoo.slim.presets:EfficientNetLite0", 10, (3, 64, 64))
    assert named.report.share == 1.0
    assert (named.pretrained_cfg["mean"], named.pretrained_cfg["std"]) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
