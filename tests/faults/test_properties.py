"""Properties of archs, budgets, costs and configs, for values that Hypothesis chooses."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphanet_zoo.cli.arguments import parse_macs
from alphanet_zoo.errors import UsageError
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.config import load_config, valid_keys
from alphanet_zoo.zoo.archs import read_arch

CASES = settings(max_examples=150, deadline=None, derandomize=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=12,
)


def arch_of(space: SearchSpace, draw: st.DataObject) -> ArchSpec:
    """An arch of a space: every entry is one of its choices."""
    low, high = space.smallest.to_dict(), space.largest.to_dict()
    value: dict[str, object] = {}
    for name, least in low.items():
        if isinstance(least, list):
            value[name] = [
                draw.draw(st.sampled_from([a, b]), f"{name}") for a, b in zip(least, high[name], strict=True)
            ]
        else:
            value[name] = draw.draw(st.sampled_from([least, high[name]]), name)
    return ArchSpec.from_dict(value)


@CASES
@given(data=st.data(), space=st.sampled_from([ALPHANET, ALPHANET_TINY]))
def test_an_arch_survives_its_text_and_costs_no_more_than_the_largest(data: st.DataObject, space: SearchSpace) -> None:
    arch = arch_of(space, data)
    assert arch in space
    assert read_arch(json.loads(json.dumps(arch.to_dict()))) == arch and hash(arch) == hash(read_arch(arch.to_dict()))
    for count in (count_macs, count_params):
        assert count(space.smallest, space, 10) <= count(arch, space, 10) <= count(space.largest, space, 10)


@CASES
@given(data=st.data(), classes=st.integers(1, 5000))
def test_a_class_more_costs_one_row_of_the_classifier(data: st.DataObject, classes: int) -> None:
    arch = arch_of(ALPHANET_TINY, data)
    features = arch.width[-1]
    more = [count(arch, ALPHANET_TINY, classes + 1) - count(arch, ALPHANET_TINY, classes)
            for count in (count_macs, count_params)]  # fmt: skip
    assert more == [features, features + 1]


@CASES
@given(value=JSON)
def test_a_value_is_an_arch_or_a_value_error(value: object) -> None:
    try:
        arch = read_arch(value)  # type: ignore[arg-type]
    except ValueError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert read_arch(arch.to_dict()) == arch


@CASES
@given(data=st.data(), value=JSON)
def test_an_arch_with_one_other_value_is_an_arch_or_a_value_error(data: st.DataObject, value: object) -> None:
    described = ALPHANET_TINY.smallest.to_dict()
    described[data.draw(st.sampled_from(sorted(described)))] = value
    try:
        assert isinstance(read_arch(described) in ALPHANET_TINY, bool)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@CASES
@given(number=st.floats(0.001, 1e6), unit=st.sampled_from(["", "K", "M", "G"]))
def test_a_budget_is_its_number_times_its_unit(number: float, unit: str) -> None:
    text = f"{number:.3f}{unit}"
    macs, step = parse_macs(text)
    factor = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert macs == pytest.approx(float(f"{number:.3f}") * factor) and step == pytest.approx(factor / 1000)


@CASES
@given(text=st.text(max_size=12) | st.from_regex(r"-?[0-9.]{1,6}[eE]?[kKmMgGx]?", fullmatch=True))
def test_any_other_budget_is_a_usage_error(text: str) -> None:
    try:
        macs, step = parse_macs(text)
    except UsageError as error:
        assert "not a budget of MACs" in str(error)
    else:
        assert 0 < macs < math.inf and 0 < step < math.inf


@CASES
@given(chosen=st.dictionaries(st.sampled_from(sorted(valid_keys())), JSON, min_size=1, max_size=4))
def test_settings_are_a_config_that_its_text_repeats_or_a_usage_error(
    chosen: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    overrides = [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
    try:
        config = load_config("digits", overrides)
    except UsageError as error:
        assert len(str(error)) < 2000
        return
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(config.to_yaml(), "utf-8")
    assert load_config(str(path)) == config
