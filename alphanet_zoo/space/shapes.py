"""The shapes of a net, derived once from (space, arch) for both the network and the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.space import SearchSpace, Stage


def div8(value: float) -> int:
    """The nearest multiple of 8, at least 8, and 8 more where that is under 0.9 of the value.

    Source: docs/specification.md, section 3.
    """
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def strided(size: int, stride: int) -> int:
    """The side of the output, in pixels, of a layer with this stride (1 or 2)."""
    return size if stride == 1 else (size + 1) // 2


@dataclass(frozen=True)
class BlockShape:
    """Everything that fixes one MBConv block.

    ``index`` is its flat number in the supernet; ``expand`` says whether it has the expanding convolution;
    ``se_channels`` is 0 without squeeze-and-excite; sizes are sides in pixels at the arch's resolution.
    """

    stage: int
    index: int
    in_channels: int
    mid_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    expand: bool
    se_channels: int
    in_size: int

    @property
    def out_size(self) -> int:
        """Side of the output, in pixels."""
        return strided(self.in_size, self.stride)

    @property
    def projects_shortcut(self) -> bool:
        """Whether the shortcut needs a 1x1 convolution."""
        return self.in_channels != self.out_channels


@dataclass(frozen=True)
class NetShape:
    """Everything that fixes one net but its number of classes."""

    resolution: int
    stem_channels: int
    stem_stride: int
    stages: tuple[tuple[BlockShape, ...], ...]
    num_features: int
    head_channels: int

    @property
    def stem_size(self) -> int:
        """Side of the stem's output, in pixels."""
        return strided(self.resolution, self.stem_stride)

    @property
    def last_block(self) -> BlockShape:
        """The last block of the last stage."""
        return self.stages[-1][-1]


def stage_blocks(
    stage: Stage,
    *,
    stage_index: int,
    first_index: int,
    in_channels: int,
    in_size: int,
    width: int,
    depth: int,
    kernel_size: int,
    expand_ratio: int,
) -> tuple[BlockShape, ...]:
    """The blocks of one stage, given what enters it and the arch's choices for it.

    Source: docs/specification.md, section 3.
    """
    blocks = []
    for i in range(depth):
        mid = div8(round(in_channels * expand_ratio))
        block = BlockShape(
            stage=stage_index,
            index=first_index + i,
            in_channels=in_channels,
            mid_channels=mid,
            out_channels=width,
            kernel_size=kernel_size,
            stride=stage.stride if i == 0 else 1,
            expand=stage.expand_ratio[-1] != 1,
            se_channels=div8(mid // 4) if stage.se else 0,
            in_size=in_size,
        )
        blocks.append(block)
        in_channels, in_size = width, block.out_size
    return tuple(blocks)


@lru_cache(maxsize=4096)
def net_shape(space: SearchSpace, arch: ArchSpec) -> NetShape:
    """The shapes of the net of ``arch``.

    Raises:
        ValueError: ``arch`` is not in ``space``.
    """
    space.validate(arch)
    in_channels, in_size = arch.width[0], strided(arch.resolution, space.stem_stride)
    stages, first_index = [], 0
    for i, stage in enumerate(space.stages):
        blocks = stage_blocks(
            stage,
            stage_index=i,
            first_index=first_index,
            in_channels=in_channels,
            in_size=in_size,
            width=arch.width[i + 1],
            depth=arch.depth[i],
            kernel_size=arch.kernel_size[i],
            expand_ratio=arch.expand_ratio[i],
        )
        stages.append(blocks)
        first_index += stage.depth[-1]
        in_channels, in_size = blocks[-1].out_channels, blocks[-1].out_size
    return NetShape(
        resolution=arch.resolution,
        stem_channels=arch.width[0],
        stem_stride=space.stem_stride,
        stages=tuple(stages),
        num_features=space.head_expand * in_channels,
        head_channels=arch.width[-1],
    )


def shortcut_varies(space: SearchSpace, stage: int) -> bool:
    """Whether the first block of a stage needs a projecting shortcut in some arch of ``space``."""
    before = space.stem_width if stage == 0 else space.stages[stage - 1].width
    return len({*before, *space.stages[stage].width}) > 1
