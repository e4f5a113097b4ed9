from __future__ import annotations

from pathlib import Path

import pytest

import alphanet_zoo as az
from alphanet_export.latency.measure import model_latency
from alphanet_zoo.cli.arguments import parse_macs
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.space import presets
from alphanet_zoo.space.presets import ALPHANET_TINY, FamilyMember
from alphanet_zoo.zoo.families import families
from alphanet_zoo.zoo.select import member_macs, member_params, select_member


def chosen(budget: str, family: str = "imagenet") -> str:
    return select_member(family, {"macs": parse_macs(budget)}).member.name


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
    assert "alphanet_a6 with 709.01 M MACs" in (select_member("imagenet", {"macs": parse_macs("2G")}).note or "")
    assert select_member("imagenet", {"macs": parse_macs("709M")}).note is None
    assert select_member("imagenet", {"macs": parse_macs("444M")}).note is None


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


def test_several_budgets_hold_together() -> None:
    a4, base = presets.IMAGENET_FAMILY[4], presets.IMAGENET_FAMILY[6]
    counts = {"macs": parse_macs("2G"), "params": (member_params(base) - 1.0, 1.0)}
    selection = select_member("imagenet", counts)
    assert selection.member == a4 and selection.note is None  # Not every budget is above the largest model.
    with pytest.raises(TargetError, match="fits in 2000 M MACs and 1 k parameters"):
        select_member("imagenet", {**counts, "params": (1000.0, 1.0)})


def test_latencies_are_measured_from_the_most_accurate_model_on() -> None:
    measured = []

    def measure(member: FamilyMember) -> float:
        measured.append(member.name)
        return member_macs(member) / 1e7

    assert select_member("imagenet", {}, latency_ms=45.0, measure=measure).member.name == "alphanet_a4"
    assert measured == ["alphanet_a6", "alphanet_a5_base", "alphanet_a5", "alphanet_a4"]
    counts = {"macs": parse_macs("317M")}
    assert select_member("imagenet", counts, latency_ms=45.0, measure=measure).member.name == "alphanet_a2"
    with pytest.raises(TargetError, match=r"runs in 1 ms on this machine; the fastest is alphanet_a0 with 20\.34 ms"):
        select_member("imagenet", {}, latency_ms=1.0, measure=measure)


def test_export_measures_the_models_of_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", "--family", "cifar10", "--skip-verify", "-o", str(tmp_path / "m.onnx")]
    assert main([*argv, "--latency-ms", "10000", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert (
        "alphanet_c10_xl takes" in captured.err
        and "ONNX Runtime" in captured.err
        and "alphanet_c10_l " not in captured.err
    )
    assert "alphanet_c10_xl: 61.08 M MACs" in captured.out
    assert main([*argv, "--max-params", "1.45M", "--flops", "1G"]) == 0
    assert "alphanet_c10_xs" in capsys.readouterr().out
    assert main([*argv, "--max-params", "1M"]) == 5
    assert "the smallest is alphanet_c10_xs with 1.447 M parameters" in capsys.readouterr().err


@pytest.mark.slow
def test_a_larger_model_takes_longer() -> None:
    xs, xl = (model_latency(member, threads=1) for member in (families()["cifar10"][0], families()["cifar10"][-1]))
    assert xs < xl


def test_create_model_chooses_from_a_family() -> None:
    net = az.create_model("cifar10", pretrained=True, macs="40M")
    assert net.pretrained_cfg["architecture"] == "alphanet_c10_m" and not net.training
    assert az.create_model("cifar10", macs=16.8e6).arch == families()["cifar10"][0].arch  # A number is exact.
    assert az.create_model("imagenet", macs="444M", num_classes=3).num_classes == 3
    with pytest.raises(TargetError, match="the smallest is alphanet_c10_xs"):
        az.create_model("cifar10", macs=16e6)
    for value in ("many", -1.0, float("nan")):
        with pytest.raises(ValueError, match="not a positive number"):
            az.create_model("cifar10", macs=value)
    with pytest.raises(UsageError, match=r"pass a family \(imagenet, cifar10\)"):
        az.create_model("alphanet_c10_m", macs="40M")
