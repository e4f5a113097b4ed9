"""Costs of many archs at once: the same figures as one by one, and the same refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import Stage
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, SPACES
from alphanet_zoo.space.space import SearchSpace


def choices(values: st.SearchStrategy[int], most: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Ascending distinct choices."""
    return st.lists(values, min_size=1, max_size=most, unique=True).map(lambda drawn: tuple(sorted(drawn)))


WIDTHS = choices(st.integers(1, 40))
STAGES = st.builds(
    Stage,
    name=st.just("mb"),
    width=WIDTHS,
    depth=choices(st.integers(1, 4)),
    kernel_size=choices(st.sampled_from([1, 3, 5, 7])),
    expand_ratio=choices(st.integers(1, 6)),
    stride=st.sampled_from([1, 2]),
    se=st.booleans(),
)
SPACES_OF_ANY_KIND = st.builds(
    SearchSpace,
    name=st.just("any"),
    resolution=choices(st.integers(1, 40)),
    stem_width=WIDTHS,
    stem_stride=st.sampled_from([1, 2]),
    stages=st.lists(STAGES, min_size=1, max_size=4),
    head_width=WIDTHS,
    head_expand=st.integers(1, 6),
)


@settings(max_examples=60, deadline=None)
@given(space=SPACES_OF_ANY_KIND, num_classes=st.integers(0, 50), seed=st.integers(0, 2**32 - 1))
def test_many_archs_cost_what_each_does_in_any_space(space: SearchSpace, num_classes: int, seed: int) -> None:
    rows = space.sample_array(5, np.random.default_rng(seed))
    each = [count_macs(ArchSpec.from_scalars(row), space, num_classes) for row in rows]
    assert count_macs(rows, space, num_classes).tolist() == each


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_many_archs_cost_what_each_does(space: SearchSpace) -> None:
    rows = space.sample_array(300, np.random.default_rng(0))
    rows[0], rows[1] = space.smallest.scalars, space.largest.scalars
    macs = count_macs(rows, space, 10)
    assert macs.dtype == np.int64
    assert macs.tolist() == [count_macs(ArchSpec.from_scalars(row), space, 10) for row in rows]


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 4097])
def test_any_number_of_archs(n: int) -> None:
    rows = np.tile(ALPHANET_TINY.sample_array(1, np.random.default_rng(1)), (n, 1))
    rows[n // 2 :] = ALPHANET_TINY.largest.scalars
    macs = count_macs(rows, ALPHANET_TINY)
    assert macs.shape == (n,)
    if n > 1:
        assert set(macs[n // 2 :].tolist()) == {count_macs(ALPHANET_TINY.largest, ALPHANET_TINY)}
        assert set(macs[: n // 2].tolist()) == {count_macs(ArchSpec.from_scalars(rows[0]), ALPHANET_TINY)}


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint16, np.uint64])
def test_any_integers_in_any_layout(dtype: Any) -> None:
    rows = ALPHANET.sample_array(50, np.random.default_rng(2))
    expected = count_macs(rows).tolist()
    assert count_macs(rows.astype(dtype)).tolist() == expected
    assert count_macs(np.asfortranarray(rows.astype(dtype))).tolist() == expected
    assert count_macs(np.repeat(rows, 2, axis=0).astype(dtype)[::2]).tolist() == expected


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_each_wrong_entry_is_refused_with_its_row_its_value_and_the_choices(space: SearchSpace) -> None:
    valid = np.tile(np.array(space.largest.scalars), (2000, 1))
    for column, (entry, listed) in enumerate(space.entries):
        for value in (0, -1, listed[-1] + 1, listed[0] - 1, 2**62, -(2**62)):
            rows = valid.copy()
            rows[[1500, 1700], column] = value
            with pytest.raises(ValueError) as refused:
                count_macs(rows, space)
            assert str(refused.value) == (
                f"row 1500: arch entry {entry} is {value}; the space {space.name} has the choices "
                + " ".join(map(str, listed))
            )


def test_the_first_wrong_row_is_named() -> None:
    rows = np.tile(np.array(ALPHANET.smallest.scalars, dtype=np.uint64), (5, 1))
    rows[2, 30], rows[3, 0] = np.uint64(2**64 - 1), 7
    with pytest.raises(ValueError, match=r"^row 2: arch entry expand_ratio\[6\] is 18446744073709551615;"):
        count_macs(rows)


@pytest.mark.parametrize(
    "rows",
    [np.zeros((3, 30), int), np.zeros(31, int), np.zeros((1, 1, 31), int), np.zeros((3, 31)), np.ones((3, 31), bool)],
)
def test_what_is_no_array_of_archs_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"pass integers of shape \(n, 31\)"):
        count_macs(rows)


def test_costs_that_64_bits_may_not_hold_are_refused() -> None:
    stages = tuple(replace(stage, width=(2**16,), expand_ratio=(64,)) for stage in ALPHANET_TINY.stages)
    space = replace(ALPHANET_TINY, name="vast", resolution=(2**14,), stages=stages)
    assert count_macs(space.largest, space) > 2**60
    with pytest.raises(ValueError, match="the space vast has archs of more than"):
        count_macs(np.array([space.largest.scalars]), space)
