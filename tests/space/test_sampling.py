"""Drawing within a window of costs: the right archs, all of them, evenly, from nothing but the generator."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import Stage
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_CIFAR, ALPHANET_TINY
from alphanet_zoo.space.sampling import count_within
from alphanet_zoo.space.space import SearchSpace

ONE_STAGE = SearchSpace("one", (8, 9), (8,), 2, (Stage("mb", (8, 16), (1, 3), (3,), (1, 2), 2, True),), (16, 24))
Rows = npt.NDArray[np.int64]


def all_rows(space: SearchSpace) -> Rows:
    """Every arch of a small space, a row an arch."""
    return np.array(list(product(*(choices for _, choices in space.entries))))


@pytest.fixture(scope="module")
def tiny() -> tuple[Rows, Rows]:
    """Every arch of the tiny space, and what it costs with 10 classes."""
    rows = all_rows(ALPHANET_TINY)
    assert len(rows) == len(ALPHANET_TINY)
    return rows, count_macs(rows, ALPHANET_TINY, 10)


def assert_uniform(counts: Rows, expected: float) -> None:
    """Pearson's chi-square lies within four standard deviations of its mean."""
    statistic, freedom = float(((counts - expected) ** 2).sum() / expected), len(counts) - 1
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("quantiles", [(0.0, 0.01), (0.4, 0.41), (0.99, 1.0)], ids=["cheap", "middle", "dear"])
def test_every_arch_of_the_window_is_drawn_equally_often(tiny: tuple[Rows, Rows], quantiles: Any) -> None:
    rows, macs = tiny
    low, high = np.quantile(macs, quantiles, method="nearest")
    inside = set(map(tuple, rows[(macs >= low) & (macs <= high)].tolist()))
    assert len(inside) > 300
    n = 60 * len(inside)
    archs = ALPHANET_TINY.sample_within(low, high, n, np.random.default_rng(5), num_classes=10)
    counts = Counter(arch.scalars for arch in archs)
    assert set(counts) == inside
    assert_uniform(np.array(list(counts.values())), n / len(inside))


def test_the_whole_of_a_space_of_one_stage_is_drawn_equally_often() -> None:
    inside = set(map(tuple, all_rows(ONE_STAGE).tolist()))
    counts = Counter(arch.scalars for arch in ONE_STAGE.sample_within(0, 1e9, 32_000, np.random.default_rng(6)))
    assert set(counts) == inside
    assert_uniform(np.array(list(counts.values())), 32_000 / len(inside))


def test_counts_are_those_of_brute_force(tiny: tuple[Rows, Rows]) -> None:
    _, macs = tiny
    rng = np.random.default_rng(7)
    for _ in range(60):
        low, high = np.sort(rng.integers(macs.min() - 1000, macs.max() + 1000, size=2))
        assert count_within(ALPHANET_TINY, low, high, 10) == ((macs >= low) & (macs <= high)).sum()
    for cost in rng.choice(macs, size=30):
        assert count_within(ALPHANET_TINY, cost, cost, 10) == (macs == cost).sum()
        assert count_within(ALPHANET_TINY, cost - 0.5, cost + 0.5, 10) == (macs == cost).sum()
        assert count_within(ALPHANET_TINY, cost + 0.25, cost + 0.5, 10) == 0


@pytest.mark.parametrize("space", [ALPHANET, ALPHANET_CIFAR], ids=lambda space: space.name)
def test_windows_that_part_the_space_hold_it_all(space: SearchSpace) -> None:
    edges = np.linspace(count_macs(space.smallest, space), count_macs(space.largest, space) + 1, 11).astype(int)
    counts = [count_within(space, a, b - 1) for a, b in zip(edges, edges[1:], strict=False)]
    assert min(counts) > 0
    assert sum(counts) == len(space)
    assert count_within(space, -float("inf"), float("inf")) == len(space)


def test_the_share_of_a_window_is_that_of_uniform_draws() -> None:
    macs = count_macs(ALPHANET.sample_array(200_000, np.random.default_rng(8)))
    share = count_within(ALPHANET, 440e6, 450e6) / len(ALPHANET)
    drawn = np.mean((macs >= 440e6) & (macs <= 450e6))
    assert drawn == pytest.approx(share, abs=4.5 * np.sqrt(share / 200_000))


def test_draws_of_the_published_space_lie_in_the_window_and_look_like_its_archs() -> None:
    low, high = 700e6, 720e6
    archs = ALPHANET.sample_within(low, high, 4000, np.random.default_rng(9))
    drawn = np.array([arch.scalars for arch in archs])
    macs = count_macs(drawn)
    assert low <= macs.min() and macs.max() <= high
    assert all(arch in ALPHANET for arch in archs[:200])

    # The same archs by rejection, the slow way: every entry must be distributed alike.
    rows = ALPHANET.sample_array(400_000, np.random.default_rng(10))
    all_macs = count_macs(rows)
    kept = rows[(all_macs >= low) & (all_macs <= high)]
    assert len(kept) > 4000
    for column, (entry, choices) in enumerate(ALPHANET.entries):
        for choice in choices:
            a, b = np.mean(drawn[:, column] == choice), np.mean(kept[:, column] == choice)
            assert abs(a - b) < 4.5 * np.sqrt(b * (1 - b) * (1 / len(drawn) + 1 / len(kept))) + 1e-12, entry


def test_a_window_of_one_cost_gives_archs_of_that_cost() -> None:
    cost = count_macs(ALPHANET.sample(np.random.default_rng(11)))
    archs = ALPHANET.sample_within(cost, cost, 50, np.random.default_rng(12))
    assert {count_macs(arch) for arch in archs} == {cost}
    largest = count_macs(ALPHANET.largest)
    assert ALPHANET.sample_within(largest, largest, 3, np.random.default_rng(13)) == [ALPHANET.largest] * 3


def test_drawn_archs_are_archs_like_any_other() -> None:
    for drawn in ALPHANET.sample_within(300e6, 400e6, 20, np.random.default_rng(14)):
        built = ArchSpec.from_dict(drawn.to_dict())
        assert drawn == built and hash(drawn) == hash(built) and repr(drawn) == repr(built)
        assert pickle.loads(pickle.dumps(drawn)) == built
        assert {type(value) for value in drawn.scalars} == {int}


def test_draws_are_functions_of_the_generator_alone() -> None:
    def draws(seed: int) -> tuple[list[ArchSpec], int]:
        rng = np.random.default_rng(seed)
        archs = ALPHANET_CIFAR.sample_within(20e6, 30e6, 10, rng, num_classes=10)
        return archs + ALPHANET_CIFAR.sample_within(30e6, 31e6, 3, rng, num_classes=10), int(rng.integers(2**60))

    first = draws(1)
    ALPHANET_CIFAR.sample_within(22e6, 23e6, 100, np.random.default_rng(0), num_classes=10)
    assert draws(1) == first
    assert draws(2) != first


def test_the_classes_move_the_window() -> None:
    smallest = ALPHANET_TINY.smallest
    for num_classes in (2, 10, 1000):
        cost = count_macs(smallest, ALPHANET_TINY, num_classes)
        drawn = ALPHANET_TINY.sample_within(cost, cost, 1, np.random.default_rng(0), num_classes=num_classes)
        assert drawn == [smallest]


def test_nothing_asked_nothing_drawn() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert ALPHANET_TINY.sample_within(0, 1e9, 0, rng) == []
    assert rng.bit_generator.state == before


def test_an_empty_window_names_the_nearest_costs(tiny: tuple[Rows, Rows]) -> None:
    costs = np.unique(tiny[1])
    for i in np.random.default_rng(15).choice(np.flatnonzero(np.diff(costs) > 2), size=25):
        below, above = int(costs[i]), int(costs[i + 1])
        with pytest.raises(ValueError) as refused:
            ALPHANET_TINY.sample_within(below + 1, above - 1, 1, np.random.default_rng(0), num_classes=10)
        assert str(refused.value) == (
            f"no arch of the space alphanet_tiny costs {below + 1} to {above - 1} MACs; "
            f"the nearest below costs {below} ({below / 1e6:.2f} M), above costs {above} ({above / 1e6:.2f} M)"
        )


@pytest.mark.parametrize(
    ("low", "high", "nearest"),
    [
        (0, 1e8, r"the nearest above costs 203389568 \(203.39 M\)$"),
        (-2.5, -1, r"the nearest above costs 203389568 \(203.39 M\)$"),
        (3e9, float("inf"), r"the nearest below costs 1939335808 \(1939.34 M\)$"),
        (float("inf"), float("inf"), r"the nearest below costs 1939335808"),
    ],
)
def test_a_window_beyond_the_space_names_its_end(low: float, high: float, nearest: str) -> None:
    with pytest.raises(ValueError, match=nearest):
        ALPHANET.sample_within(low, high, 1, np.random.default_rng(0))
    assert count_within(ALPHANET, low, high) == 0


@pytest.mark.parametrize(
    ("low", "high", "n", "named"),
    [
        (2e6, 1e6, 1, "2000000.0 to 1000000.0"),
        (float("nan"), 1e6, 1, "nan to 1000000.0"),
        (0, float("nan"), 1, "0 to nan"),
        (0, 1e9, -1, "draw is -1"),
        (0, 1e9, 2.0, "draw is 2.0"),
        (0, 1e9, "2", "draw is '2'"),
    ],
)
def test_a_wrong_window_or_number_is_refused(low: float, high: float, n: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ALPHANET_TINY.sample_within(low, high, n, np.random.default_rng(0))


def test_a_space_too_large_to_cut_in_two_is_refused() -> None:
    stage = Stage("mb", (16, 24, 32), (1, 2, 3, 4), (3, 5), (3, 4, 6), 1, False)
    space = SearchSpace("deep", (16,), (16,), 1, (stage,) * 10, (64,))
    assert count_macs(np.array([space.largest.scalars]), space)[0] == count_macs(space.largest, space)
    with pytest.raises(ValueError, match="the space deep, cut in two, has .* fewer choices"):
        space.sample_within(0, 1e12, 1, np.random.default_rng(0))


def test_spaces_archs_costs_and_sampling_load_no_torch() -> None:
    code = (
        "import sys, numpy, alphanet_zoo as az\n"
        "import alphanet_zoo.space.arch, alphanet_zoo.space.space, alphanet_zoo.space.shapes\n"
        "import alphanet_zoo.space.presets, alphanet_zoo.space.cost, alphanet_zoo.space.tables\n"
        "import alphanet_zoo.space.sampling\n"
        "rng = numpy.random.default_rng(0)\n"
        "arch, = az.ALPHANET_TINY.sample_within(1e6, 2e6, 1, rng)\n"
        "az.count_macs(arch, az.ALPHANET_TINY), az.count_params(arch, az.ALPHANET_TINY)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
