"""Selects the published model for a budget of MACs, parameters or milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alphanet_zoo.errors import TargetError
from alphanet_zoo.search.limits import LATENCY, MACS, PARAMS, cost_text
from alphanet_zoo.space.cost import count_macs, count_params, macs_text
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


def member_params(member: FamilyMember) -> int:
    """Number of parameters of a member."""
    return count_params(member.arch, member.space, member.num_classes)


_COUNTS: dict[str, Callable[[FamilyMember], int]] = {MACS: member_macs, PARAMS: member_params}


def select_member(
    family: str,
    counts: Mapping[str, tuple[float, float]],
    *,
    latency_ms: float | None = None,
    measure: Callable[[FamilyMember], float] | None = None,
) -> Selection:
    """The member of a family with the highest published accuracy within budgets.

    A count of a member is rounded to the last written digit of the budget before the comparison: a model of 443.53 M
    is within ``444M``. If a family has no published accuracies, the most expensive member within the budgets is chosen.
    Latencies are measured one after the other, from the most accurate member within the counts, until one is within
    ``latency_ms``.

    Args:
        family: A key of `alphanet_zoo.zoo.families.families`.
        counts: Budgets of multiply-accumulates (``macs``) and parameters (``params``), each with the value of one unit
            in its last written digit; see `alphanet_zoo.units.parse_budget`.
        latency_ms: Maximum latency in milliseconds; requires ``measure``.
        measure: The latency of a member in milliseconds, such as `alphanet_export.latency.measure.model_latency`.

    Raises:
        UsageError: The family does not exist.
        TargetError: No member is within the budgets.
    """
    members = sorted(family_members(family), key=member_macs)
    within = [member for member in members if _within(member, counts)]
    if not within:
        hint = next((f"; pass --family {other} for a model that fits" for other, its in families().items()
                     if any(_within(member, counts) for member in its)), "")  # fmt: skip
        raise TargetError(
            f"no model of the family {family} fits in {_budgets_text(counts)}; the smallest is {members[0].name} with "
            f"{_costs_text(members[0], counts)}{hint}"
        )
    within.sort(key=lambda member: (member.top1 or 0.0, member_macs(member)), reverse=True)
    if latency_ms is not None:
        assert measure is not None
        return _fastest_enough(family, within, latency_ms, measure)
    return Selection(within[0], _note(family, members[-1], within[0], counts))


def _fastest_enough(
    family: str, members: list[FamilyMember], latency_ms: float, measure: Callable[[FamilyMember], float]
) -> Selection:
    """The first of the members whose latency is within the budget."""
    measured = dict[str, float]()
    for member in members:
        measured[member.name] = measure(member)
        if measured[member.name] <= latency_ms:
            return Selection(member)
    name = min(measured, key=measured.__getitem__)
    raise TargetError(
        f"no model of the family {family} within the budgets runs in {cost_text(LATENCY, latency_ms)} on this machine; "
        f"the fastest is {name} with {cost_text(LATENCY, measured[name])}"
    )


def _note(
    family: str, largest: FamilyMember, chosen: FamilyMember, counts: Mapping[str, tuple[float, float]]
) -> str | None:
    """A remark if every budget is above the largest model."""
    above = [_units(budget, digit) > _units(_COUNTS[name](largest), digit) for name, (budget, digit) in counts.items()]
    if not counts or not all(above):
        return None
    return (
        f"the budget of {_budgets_text(counts)} is above the largest model of the family {family}, {largest.name} with "
        f"{_costs_text(largest, counts)}; {chosen.name} is used"
    )


def _within(member: FamilyMember, counts: Mapping[str, tuple[float, float]]) -> bool:
    """Whether a member is within the budgets."""
    return all(
        _units(_COUNTS[name](member), digit) <= _units(budget, digit) for name, (budget, digit) in counts.items()
    )


def _units(cost: float, digit: float) -> int:
    """A cost in units of the last digit of the budget, rounded half up."""
    return math.floor(cost / digit + 0.5)


def _text(name: str, cost: float) -> str:
    """A count for people."""
    return macs_text(cost) if name == MACS else cost_text(name, cost)


def _budgets_text(counts: Mapping[str, tuple[float, float]]) -> str:
    """The budgets for people."""
    return " and ".join(_text(name, budget) for name, (budget, _) in counts.items())


def _costs_text(member: FamilyMember, counts: Mapping[str, tuple[float, float]]) -> str:
    """The counts of a member for people."""
    return " and ".join(_text(name, _COUNTS[name](member)) for name in counts)
