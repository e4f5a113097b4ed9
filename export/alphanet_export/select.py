"""Selects the published model for a compute budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphanet_zoo.errors import TargetError
from alphanet_zoo.space.cost import count_macs, macs_text
from alphanet_zoo.space.presets import FamilyMember
from alphanet_zoo.zoo.families import families
from alphanet_zoo.zoo.names import family_members


@dataclass(frozen=True)
class Selection:
    """A member of a family, and a remark on the choice, or None."""

    member: FamilyMember
    note: str | None = None


def member_macs(member: FamilyMember) -> int:
    """Multiply-accumulates of a member for one image, at its resolution and with its number of classes."""
    return count_macs(member.arch, member.space, member.num_classes)


def select_member(budget: float, digit: float, family: str = "imagenet") -> Selection:
    """The member of a family with the highest published accuracy within a budget.

    The cost of a member is rounded to the last written digit of the budget before the comparison: a model of 443.53 M
    is within ``444M``. If a family has no published accuracies, the most expensive member within the budget is chosen.

    Args:
        budget: Multiply-accumulates; see `alphanet_zoo.cli.arguments.parse_macs`.
        digit: Value of one unit in the last written digit of the budget, in multiply-accumulates.
        family: A key of `FAMILIES`.

    Raises:
        UsageError: The family does not exist.
        TargetError: The budget is below the cost of the smallest member.
    """
    members = sorted(family_members(family), key=member_macs)
    within = [member for member in members if _units(member_macs(member), digit) <= _units(budget, digit)]
    if not within:
        smallest = members[0]
        costs = {other: min(map(member_macs, its)) for other, its in families().items()}
        fitting = [other for other, cost in costs.items() if _units(cost, digit) <= _units(budget, digit)]
        hint = f"; pass --family {fitting[0]} for a model that fits" if fitting else ""
        raise TargetError(
            f"no model of the family {family} fits in {macs_text(budget)}; "
            f"the smallest is {smallest.name} with {macs_text(member_macs(smallest))}{hint}"
        )
    chosen = max(within, key=lambda member: (member.top1 or 0.0, member_macs(member)))
    largest = members[-1]
    if _units(budget, digit) <= _units(member_macs(largest), digit):
        return Selection(chosen)
    return Selection(
        chosen,
        f"the budget of {macs_text(budget)} is above the largest model of the family {family}, "
        f"{largest.name} with {macs_text(member_macs(largest))}; {chosen.name} is used",
    )


def _units(macs: float, digit: float) -> int:
    """A cost in units of the last digit of the budget, rounded half up."""
    return math.floor(macs / digit + 0.5)
