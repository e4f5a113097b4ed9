from __future__ import annotations

import pytest

from alphanet_export.select import member_macs, select_member
from alphanet_zoo.cli.arguments import parse_macs
from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.space import presets
from alphanet_zoo.space.presets import ALPHANET_TINY, FamilyMember


def chosen(budget: str, family: str = "imagenet") -> str:
    return select_member(*parse_macs(budget), family).member.name


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ("203M", "alphanet_a0"),
        ("203.39M", "alphanet_a0"),
        ("0.2G", "alphanet_a0"),
        ("278M", "alphanet_a0"),
        ("279M", "alphanet_a1"),
        ("317M", "alphanet_a2"),
        ("400M", "alphanet_a3"),
        ("444M", "alphanet_a4"),
        ("443.5M", "alphanet_a4"),
        ("443.4M", "alphanet_a3"),
        ("491M", "alphanet_a5"),
        ("0.5G", "alphanet_a5"),
        ("500000K", "alphanet_a5"),
        ("594M", "alphanet_a5"),
        ("595M", "alphanet_a5_base"),
        ("596M", "alphanet_a5_base"),
        ("0.6G", "alphanet_a5_base"),
        ("709M", "alphanet_a6"),
        ("1g", "alphanet_a6"),
        ("2G", "alphanet_a6"),
    ],
)
def test_the_most_accurate_model_within_the_budget_is_selected(budget: str, name: str) -> None:
    assert chosen(budget) == name


def test_budget_in_single_macs_is_compared_exactly() -> None:
    cost = member_macs(presets.IMAGENET_FAMILY[4])
    assert chosen(str(cost)) == "alphanet_a4"
    assert chosen(str(cost - 1)) == "alphanet_a3"


@pytest.mark.parametrize("budget", ["1M", "202M", "0.1G", "1"])
def test_budget_under_the_smallest_names_it(budget: str) -> None:
    with pytest.raises(TargetError, match=r"smallest is alphanet_a0 with 203\.39 M MACs") as caught:
        chosen(budget)
    assert caught.value.exit_code == 5


def test_budget_above_the_largest_gives_it_with_a_note() -> None:
    assert "alphanet_a6 with 709.01 M MACs" in (select_member(*parse_macs("2G")).note or "")
    assert select_member(*parse_macs("709M")).note is None
    assert select_member(*parse_macs("444M")).note is None


def test_accuracy_decides_before_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = ALPHANET_TINY.smallest, ALPHANET_TINY.largest
    better = (FamilyMember("s", small, ALPHANET_TINY, 90.0, 10), FamilyMember("l", large, ALPHANET_TINY, 80.0, 10))
    unmeasured = (FamilyMember("s", small, ALPHANET_TINY, None, 10), FamilyMember("l", large, ALPHANET_TINY, None, 10))
    monkeypatch.setitem(presets.FAMILIES, "better", better)
    monkeypatch.setitem(presets.FAMILIES, "unmeasured", unmeasured)
    assert chosen("1G", "better") == "s"
    assert chosen("1G", "unmeasured") == "l"


def test_unknown_family_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown family 'cifar'; choose from imagenet"):
        chosen("444M", "cifar")
