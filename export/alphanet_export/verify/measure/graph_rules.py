"""What ONNX Runtime must make of an exported graph, derived from the arch, so that a lost fusion does not go unseen."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from alphanet_export.onnx_model import OnnxModel
from alphanet_export.verify.measure.graph_health import GraphHealth
from alphanet_zoo.errors import TargetError
from alphanet_zoo.space.shapes import net_shape

BLOCKED_MACHINES = ("x86_64", "amd64")
"""Machine types on which every build of ONNX Runtime has the blocked convolution layout (8 or 16 channels a block)."""
WIDEST_BLOCK = 16
"""Channels of the widest block, that of AVX-512: there a pool of fewer, or of no multiple, leaves the layout."""
ALIGNMENT = 8
"""Channels that a convolution's must be a multiple of for all layers to be blocked."""


@dataclass(frozen=True)
class GraphRule:
    """One count of the graph that runs, and what it must be.

    Args:
        name: What is counted.
        found: The count.
        expected: What it must be, or must not exceed.
        at_most: Whether fewer will do.
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
        """What the count must be, in words."""
        return f"at most {self.expected}" if self.at_most else str(self.expected)


@dataclass(frozen=True)
class GraphRules:
    """The rules of one graph on one kind of CPU.

    Args:
        not_applicable: Why there are none for this file or this CPU; None where there are.
        rules: Each rule with what was found.
    """

    not_applicable: str | None
    rules: tuple[GraphRule, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every rule holds; true where none applies."""
        return all(rule.holds for rule in self.rules)

    def check(self) -> GraphRules:
        """Returns itself.

        Raises:
            TargetError: A rule is broken: the file computes what it should, slower than it should.
        """
        broken = [f"{rule.name}: {rule.found} where {rule.wanted} belong" for rule in self.rules if not rule.holds]
        if broken:
            raise TargetError(
                f"ONNX Runtime no longer makes a fast graph of this file ({'; '.join(broken)}); export it again, use "
                "the version of onnxruntime that it was exported with, or accept it with --any-graph"
            )
        return self


def graph_rules(model: OnnxModel, health: GraphHealth, *, machine: str | None = None) -> GraphRules:
    """What must hold of the graph that runs.

    The counts follow from the arch (SiLUs, squeeze-and-excites, strided shortcuts), not from a table of versions, so
    they hold for any ONNX Runtime: one that fuses less breaks them.

    Args:
        model: The file.
        health: What was counted.
        machine: The CPU's type, as `platform.machine` gives it; None is this one.
    """
    machine = machine or platform.machine()
    if machine.lower() not in BLOCKED_MACHINES:
        return GraphRules(f"ONNX Runtime has no blocked convolution layout on {machine}")
    if health.precision != "float32":
        return GraphRules(f"the rules are those of float32 graphs, and this one computes in {health.precision}")
    shape = net_shape(model.space, model.arch)
    blocks = [block for stage in shape.stages for block in stage]
    widths = [shape.stem_channels, shape.head_channels, *(block.out_channels for block in blocks)]
    if any(width % ALIGNMENT for width in widths):
        return GraphRules(f"the arch has widths that are no multiple of {ALIGNMENT}, which no layout has blocks for")
    silus = 3 + sum(1 + block.expand for block in blocks)  # The stem, both head convolutions; each block's own.
    excites = sum(block.se_channels > 0 for block in blocks)
    loose = sum(block.stride == 2 and block.in_channels % WIDEST_BLOCK > 0 for block in blocks)
    ran = health.optimized_operators
    return GraphRules(
        None,
        (
            GraphRule("convolutions in the blocked layout", health.blocked_convolutions, health.convolutions),
            GraphRule("SiLUs fused to one QuickGelu", ran.get("com.microsoft.QuickGelu", 0), silus),
            GraphRule("ReLUs and hard sigmoids outside convolutions", _sum(ran, "Relu", "HardSigmoid"), 0, True),
            GraphRule("additions outside convolutions", _sum(ran, "Add"), loose, True),
            GraphRule("nodes that only convert layouts", health.reorder_nodes, 1 + 3 * excites + 2 * loose, True),
        ),
    )


def _sum(counts: Mapping[str, int], *operators: str) -> int:
    """Nodes of some operators."""
    return sum(counts.get(operator, 0) for operator in operators)
