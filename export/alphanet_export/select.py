"""Which published model a budget of compute buys."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphanet_zoo.errors import TargetError
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.zoo.names import family_members


@dataclass(frozen=True)
class Selection:
    """A family's member, and a remark on the choice (None where there is nothing to say)."""

    member: FamilyMember
    note: str | None = None


def member_macs(member: FamilyMember) -> int:
    """Multiply-accumulates of a member for one image, at its resolution and with its classes."""
    return count_macs(member.arch, member.space, member.num_classes)


def select_member(budget: float, digit: float, family: str = "imagenet") -> Selection:
    """The family's member with the most published accuracy within a budget.

    A member's cost is rounded to the budget's last written digit before the two are compared: ``444M`` buys a
    model of 443.53 M. Where a family has no published accuracy the most expensive member within the budget wins.

    Args:
        budget: In multiply-accumulates; see `alphanet_zoo.cli.command.parse_macs`.
        digit: Worth of the budget's last written digit, in multiply-accumulates.
        family: A key of `FAMILIES`.

    Raises:
        UsageError: There is no such family.
        TargetError: The budget is under the smallest member.
    """
    members = sorted(family_members(family), key=member_macs)
    within = [member for member in members if _units(member_macs(member), digit) <= _units(budget, digit)]
    if not within:
        smallest = members[0]
        raise TargetError(
            f"no model of the family {family} fits in {_millions(budget)}; "
            f"the smallest is {smallest.name} with {_millions(member_macs(smallest))}"
        )
    chosen = max(within, key=lambda member: (member.top1 or 0.0, member_macs(member)))
    largest = members[-1]
    if _units(budget, digit) <= _units(member_macs(largest), digit):
        return Selection(chosen)
    return Selection(
        chosen,
        f"the budget of {_millions(budget)} is above the largest model of the family {family}, "
        f"{largest.name} with {_millions(member_macs(largest))}; this is {chosen.name}",
    )


def _units(macs: float, digit: float) -> int:
    """A cost in units of the budget's last digit, rounded half up."""
    return math.floor(macs / digit + 0.5)


def _millions(macs: float) -> str:
    """A cost as people write it."""
    if macs < 1e5:
        return f"{macs:.0f} MACs"
    return f"{macs / 1e6:.2f} M MACs"
