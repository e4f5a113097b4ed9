"""Shapes, against figures derived by hand from the rules of the network."""

from __future__ import annotations

import pytest

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, SPACES
from alphanet_zoo.space.shapes import BlockShape, div8, net_shape, strided
from alphanet_zoo.space.space import SearchSpace


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1, 8),
        (8, 8),
        (9, 16),
        (11, 16),
        (12, 16),
        (16, 16),
        (19, 24),
        (20, 24),
        (27, 32),
        (28, 32),
        (35, 32),
        (35.9, 40),
        (96, 96),
    ],
)
def test_div8(value: float, rounded: int) -> None:
    assert div8(value) == rounded


@pytest.mark.parametrize(("size", "stride", "out"), [(7, 1, 7), (8, 2, 4), (7, 2, 4), (1, 2, 1), (288, 2, 144)])
def test_strided(size: int, stride: int, out: int) -> None:
    assert strided(size, stride) == out


def test_the_blocks_of_a_small_net_by_hand() -> None:
    arch = ArchSpec(12, (16, 8, 16, 32, 96), (1, 2, 1), (3, 5, 3), (1, 3, 4))
    shape = net_shape(ALPHANET_TINY, arch)
    # The supernet has 2 blocks in mb1 and 3 in mb2, so mb2 starts at 2 and mb3 at 5.
    assert shape.stages == (
        (BlockShape(0, 0, 16, 16, 8, 3, 1, False, 0, 12),),
        (BlockShape(1, 2, 8, 24, 16, 5, 2, True, 0, 12), BlockShape(1, 3, 16, 48, 16, 5, 1, True, 0, 6)),
        (BlockShape(2, 5, 16, 64, 32, 3, 2, True, 16, 6),),
    )
    assert [block.out_size for stage in shape.stages for block in stage] == [12, 6, 6, 3]
    assert [block.projects_shortcut for stage in shape.stages for block in stage] == [True, True, False, True]
    assert (shape.stem_channels, shape.stem_size, shape.num_features, shape.head_channels) == (16, 12, 192, 96)
    assert shape.last_block == shape.stages[2][0]


def test_the_published_supernet_has_37_blocks_and_ends_at_a_32nd() -> None:
    shape = net_shape(ALPHANET, ALPHANET.largest)
    blocks = [block for stage in shape.stages for block in stage]
    assert [block.index for block in blocks] == list(range(37))
    assert shape.stem_size == 144
    assert shape.last_block.out_size == 288 // 32
    assert shape.num_features == 6 * 224


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_each_block_takes_what_the_one_before_gives(space: SearchSpace) -> None:
    for arch in (space.smallest, space.largest):
        shape = net_shape(space, arch)
        channels, size = shape.stem_channels, shape.stem_size
        for block in (block for stage in shape.stages for block in stage):
            assert (block.in_channels, block.in_size) == (channels, size)
            channels, size = block.out_channels, block.out_size


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"arch entry resolution is 64; .* 192 224 256 288"):
        net_shape(
            ALPHANET, ArchSpec(64, *[ALPHANET.largest.to_dict()[k] for k in list(ALPHANET.largest.to_dict())[1:]])
        )
