"""The shapes of a net, derived once from (space, arch) for the network and the cost model, and the cost of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import SpaceChoices, Stage


def div8(value: float) -> int:
    """The nearest multiple of 8, at least 8; 8 more if that is less than 0.9 of the value.

    Source: docs/specification.md, section 3.
    """
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def strided(size: int, stride: int) -> int:
    """Side of the output, in pixels, of a layer with stride 1 or 2."""
    return size if stride == 1 else (size + 1) // 2


@dataclass(frozen=True)
class BlockShape:
    """The sizes of one MBConv block.

    Attributes:
        stage: Index of the stage, from 0.
        index: Index of the block in the supernet, counted over all stages.
        in_channels: Input channels.
        mid_channels: Channels of the depthwise convolution.
        out_channels: Output channels.
        kernel_size: Kernel size of the depthwise convolution.
        stride: Stride of the depthwise convolution.
        expand: Whether the block has the expanding 1x1 convolution.
        se_channels: Channels of the squeeze-and-excite bottleneck; 0 if the block has none.
        in_size: Side of the input, in pixels, at the resolution of the arch.
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
    """The sizes of a whole net, except its number of classes."""

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
    """The blocks of one stage, given its input and its choices.

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
def net_shape(space: SpaceChoices, arch: ArchSpec) -> NetShape:
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


def shortcut_varies(space: SpaceChoices, stage: int) -> bool:
    """Whether the first block of a stage needs a 1x1 convolution in its shortcut in any arch of ``space``."""
    before = space.stem_width if stage == 0 else space.stages[stage - 1].width
    return len({*before, *space.stages[stage].width}) > 1


def block_macs(block: BlockShape) -> int:
    """Multiply-accumulates of one MBConv block for one image. Source: docs/specification.md, section 3, "Cost"."""
    inner, outer = block.in_size**2, block.out_size**2
    macs = block.in_channels * block.mid_channels * inner if block.expand else 0
    macs += block.mid_channels * block.kernel_size**2 * outer
    macs += 2 * block.mid_channels * block.se_channels
    macs += block.mid_channels * block.out_channels * outer
    if block.projects_shortcut:
        macs += block.in_channels * block.out_channels * outer
    return macs


def block_params(block: BlockShape) -> int:
    """Parameters of one MBConv block: convolutions, and weights and biases of the batch norms."""
    mid, out = block.mid_channels, block.out_channels
    params = block.in_channels * mid + 2 * mid if block.expand else 0
    params += mid * block.kernel_size**2 + 2 * mid
    if block.se_channels:
        params += 2 * mid * block.se_channels + block.se_channels + mid
    params += mid * out + 2 * out
    if block.projects_shortcut:
        params += block.in_channels * out
    return params


def stem_macs(channels: int, size: int) -> int:
    """Multiply-accumulates of the stem's 3x3 convolution for an RGB image; ``size`` is the side of its output."""
    return 3 * 9 * channels * size**2


def head_macs(in_channels: int, num_features: int, head_channels: int, size: int, num_classes: int) -> int:
    """Multiply-accumulates of the last convolutions and the classifier."""
    return in_channels * num_features * size**2 + num_features * head_channels + head_channels * num_classes


def net_macs(shape: NetShape, num_classes: int) -> int:
    """Multiply-accumulates of a whole net for one image."""
    last = shape.last_block
    return (
        stem_macs(shape.stem_channels, shape.stem_size)
        + sum(block_macs(block) for stage in shape.stages for block in stage)
        + head_macs(last.out_channels, shape.num_features, shape.head_channels, last.out_size, num_classes)
    )


def net_params(shape: NetShape, num_classes: int) -> int:
    """Parameters of a whole net."""
    features, head = shape.num_features, shape.head_channels
    stem = 27 * shape.stem_channels + 2 * shape.stem_channels
    blocks = sum(block_params(block) for stage in shape.stages for block in stage)
    last = shape.last_block.out_channels * features + 2 * features + features * head
    return stem + blocks + last + head * num_classes + num_classes
