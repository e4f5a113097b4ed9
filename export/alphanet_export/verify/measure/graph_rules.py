"""Rules for the graph that ONNX Runtime runs, derived from the arch, so that a lost fusion is detected."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.measure.graph_health import GraphHealth
from alphanet_zoo.errors import TargetError
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.shapes import BlockShape, net_shape
from alphanet_zoo.space.space import SearchSpace

BLOCKED_MACHINES = ("x86_64", "amd64")
"""Machine types on which every build of ONNX Runtime has the blocked layout (8 or 16 channels per block)."""
WIDEST_BLOCK = 16
"""Channels of the widest block (AVX-512). A pool whose channels are not a multiple of it leaves the layout."""
ALIGNMENT = 8
"""All layers are blocked only if every number of channels is a multiple of this."""


@dataclass(frozen=True)
class GraphRule:
    """One count of the graph that runs, and its required value.

    Args:
        name: What is counted.
        found: The count.
        expected: The required value, or the largest allowed one.
        at_most: Whether ``expected`` is an upper limit.
    """

    name: str
    found: int
    expected: int
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the count is as expected."""
        return self.found <= self.expected if self.at_most else self.found == self.expected

    @property
    def wanted(self) -> str:
        """The required value, in words."""
        return f"at most {self.expected}" if self.at_most else str(self.expected)


@dataclass(frozen=True)
class GraphRules:
    """The rules of one graph on one kind of CPU.

    Args:
        not_applicable: Why there are no rules for this file or this CPU; None if there are.
        rules: Each rule with its count.
    """

    not_applicable: str | None
    rules: tuple[GraphRule, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every rule holds; True if there are no rules."""
        return all(rule.holds for rule in self.rules)

    def check(self) -> GraphRules:
        """Returns itself.

        Raises:
            TargetError: A rule is broken: the file is correct, but slower than it should be.
        """
        broken = [f"{rule.name}: {rule.found} instead of {rule.wanted}" for rule in self.rules if not rule.holds]
        if broken:
            raise TargetError(
                f"ONNX Runtime does not fully optimise this file ({'; '.join(broken)}); export it again, use "
                "the version of onnxruntime that it was exported with, or accept it with --any-graph"
            )
        return self


def graph_rules(model: ExportedModel, health: GraphHealth, *, machine: str | None = None) -> GraphRules:
    """The rules for the graph that runs.

    The counts are derived from the arch (SiLUs, squeeze-and-excites, strided shortcuts), not from a table of versions,
    so a version of ONNX Runtime that fuses less breaks them.

    Args:
        model: The ONNX file.
        health: Its counts.
        machine: Type of the CPU, see `platform.machine`; None is this one.
    """
    machine = machine or platform.machine()
    if machine.lower() not in BLOCKED_MACHINES:
        return GraphRules(f"ONNX Runtime has no blocked convolution layout on {machine}")
    if health.precision != "float32":
        return GraphRules(f"the rules are for float32 graphs, and this one computes in {health.precision}")
    if model.metadata["space"].get("family") is not None:
        return GraphRules("the rules are derived from the archs of AlphaNets, and this is a slimmable network")
    shape = net_shape(SearchSpace.from_dict(model.metadata["space"]), ArchSpec.from_dict(model.metadata["arch"]))
    blocks = [block for stage in shape.stages for block in stage]
    widths = [shape.stem_channels, shape.head_channels, *(block.out_channels for block in blocks)]
    if any(width % ALIGNMENT for width in widths):
        return GraphRules(
            f"the arch has widths that are not multiples of {ALIGNMENT}, which the blocked layout does not support"
        )
    silus = 3 + sum(1 + block.expand for block in blocks)  # The stem, both head convolutions; each block's own.
    loose = sum(block.stride == 2 and not _fills(block.in_channels) for block in blocks)
    passed_on = _passed_on(blocks)
    reorders = 1 + sum(map(_reorders, blocks)) + 2 * passed_on  # The logits leave the layout.
    ran = health.optimized_operators
    return GraphRules(
        None,
        (
            GraphRule("convolutions in the blocked layout", health.blocked_convolutions, health.convolutions),
            GraphRule("SiLUs fused to one QuickGelu", ran.get("com.microsoft.QuickGelu", 0), silus),
            GraphRule("ReLUs and hard sigmoids outside convolutions", _sum(ran, "Relu", "HardSigmoid"), 0, True),
            GraphRule("additions outside convolutions", _sum(ran, "Add"), loose + passed_on, True),
            GraphRule("nodes that only convert layouts", health.reorder_nodes, reorders, True),
        ),
    )


def _fills(channels: int) -> bool:
    """Whether channels fill the widest blocks, so that pools and additions stay in the blocked layout."""
    return channels % WIDEST_BLOCK == 0


def _reorders(block: BlockShape) -> int:
    """The nodes that convert layouts in a block on its own.

    Convolutions of fewer channels than a block has read the plain layout. Pools of channels that do not fill blocks,
    and products of a map and its squeeze-and-excite, compute in it.
    """
    kept, pooled = block.in_channels == block.out_channels, block.stride == 2 and not _fills(block.in_channels)
    reads_plain = block.in_channels < WIDEST_BLOCK and (block.expand or not kept)
    count = (block.mid_channels < WIDEST_BLOCK) + (reads_plain or pooled)
    if pooled:  # To the addition and back, or from the pool to the convolution of the shortcut.
        count += 2 if kept else block.in_channels >= WIDEST_BLOCK
    if block.se_channels:
        count += 3 + (not _fills(block.mid_channels))
    return count


def _passed_on(blocks: Sequence[BlockShape]) -> int:
    """The additions in the plain layout because that of the strided block before them is.

    A strided shortcut of channels that do not fill blocks is pooled in the plain layout, so its addition stays outside
    a convolution. If its block keeps the number of channels, the shortcuts of the blocks behind it pass that layout on.
    """
    count, plain = 0, False
    for block in blocks:
        kept = block.in_channels == block.out_channels
        plain = kept and (plain if block.stride == 1 else not _fills(block.in_channels))
        count += plain and block.stride == 1
    return count


def _sum(counts: Mapping[str, int], *operators: str) -> int:
    """Nodes of some operators."""
    return sum(counts.get(operator, 0) for operator in operators)
