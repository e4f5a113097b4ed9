"""What of a network can be slimmed, and the reasons for what cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from alphanet_zoo.slim.analysis import Analysis
from alphanet_zoo.slim.labels import Labelling
from alphanet_zoo.slim.space import SlimSpace


@dataclass(frozen=True)
class Fixed:
    """A layer that keeps some or all of its output channels.

    Attributes:
        layer: Its name.
        channels: Number of channels that stay.
        of: All its channels.
        reason: Why they stay.
    """

    layer: str
    channels: int
    of: int
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.layer}: {self.channels} of {self.of} channels are fixed: {self.reason}"


@dataclass(frozen=True)
class Report:
    """What of a network can be slimmed.

    Attributes:
        groups: Number of groups of channels.
        slimmable: Output channels of convolutions and linear layers that can be removed in some arch, the classes not
            counted.
        channels: All output channels of convolutions and linear layers, the classes not counted.
        fixed: The layers that keep channels although they are not the classifier.
        droppable: Names of the blocks that can be dropped.
    """

    groups: int
    slimmable: int
    channels: int
    fixed: tuple[Fixed, ...]
    droppable: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the channels that can be removed, 0 to 1."""
        return self.slimmable / max(self.channels, 1)

    def __str__(self) -> str:
        """A summary, and a line per layer that keeps channels."""
        head = (
            f"{self.groups} groups; {self.slimmable} of {self.channels} channels ({100 * self.share:.1f} %) can be "
            f"removed; {len(self.droppable)} blocks can be dropped"
        )
        return "\n".join([head, *map(str, self.fixed)])


def report_of(net: nn.Module, analysis: Analysis, space: SlimSpace) -> Report:
    """The report of an analysis."""
    removable = np.zeros(len(analysis.labels), dtype=bool)
    small = np.zeros(len(analysis.labels), dtype=bool)
    for group, spec in zip(analysis.groups, space.groups, strict=True):
        (removable if len(spec.choices) > 1 else small)[group.atoms] = True
    unchanged = f"too few channels to remove any in multiples of divisor={space.divisor}"
    if len(space.widths) == 1:
        unchanged = f"widths has one value, {space.widths[0]:g}"
    total, slim, fixed = 0, 0, []
    for name, module in net.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        dim = 1 if getattr(module, "transposed", False) else 0
        labels = analysis.tensors[f"{name}.weight" if name else "weight"][dim]
        of = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        reasons = _reasons(analysis, labels, small, unchanged)
        if "the outputs of the network" in reasons:
            continue
        count = int(removable[analysis.labels.roots(labels)].sum())
        total, slim = total + of, slim + count
        if count < of:
            reason = "; ".join(reasons) or "it has one channel"
            fixed.append(Fixed(name, of - count, of, reason))
    droppable = tuple(block for chain in space.chains for block in chain.blocks)
    return Report(len(space.groups), slim, total, tuple(fixed), droppable)


def _reasons(analysis: Analysis, labels: Labelling, small: np.typing.NDArray[np.bool_], unchanged: str) -> list[str]:
    """The reasons for which labels are fixed, without duplicates; ``unchanged`` is that of the ``small`` ones."""
    roots = analysis.labels.roots(labels)
    found = [analysis.labels.reason(int(label)) for label in labels[roots == 0]]
    found += [unchanged] if small[roots].any() else []
    return list(dict.fromkeys(found))
