import subprocess
import sys

import numpy as np
import pytest

from alphanet_zoo.search.evolution import evolve, first_population
from alphanet_zoo.search.pareto import pareto_front
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


def cost(arch):
    return count_macs(arch, TINY, 10)


def rng(seed=0):
    return np.random.default_rng(seed)


TARGET = TINY.sample(rng(123))


def likeness(arch):
    """How many entries are the target's: one arch alone has the most."""
    return sum(a == b for a, b in zip(arch.scalars, TARGET.scalars, strict=True))


def search(score=likeness, evaluations=300, seed=0, **window):
    low, high = window.get("low", 0), window.get("high", 1e18)
    initial = first_population(TINY, low, high, 16, rng(seed), num_classes=10)
    return evolve(TINY, cost, score, initial=initial, evaluations=evaluations, rng=rng(seed), **window)


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_one_best_of_36864_archs(seed):
    found = search(seed=seed)
    assert max(found, key=lambda candidate: candidate.score).arch == TARGET
    assert len(found) == 300


def test_it_is_better_than_drawing_at_random():
    drawn = max(likeness(TINY.sample(rng(9))) for _ in range(300))
    assert drawn < len(TARGET.scalars) == max(candidate.score for candidate in search())


def test_the_front_reaches_both_ends_of_a_score_that_grows_with_cost():
    found = search(score=lambda arch: float(np.log(cost(arch))), evaluations=60)
    front = [found[i] for i in pareto_front([(c.cost, c.score) for c in found])]
    assert (front[0].arch, front[-1].arch) == (TINY.smallest, TINY.largest)
    assert len(front) > 40


def test_no_arch_is_scored_twice_and_none_outside_the_window():
    scored = []

    def score(arch):
        scored.append(arch)
        return likeness(arch)

    found = search(score, evaluations=120, low=0.5e6, high=1.0e6)
    assert len(scored) == len(set(scored)) == len(found) == 120
    assert all(0.5e6 <= cost(arch) <= 1.0e6 for arch in scored)
    assert [candidate.arch for candidate in found] == scored


def test_the_same_seed_gives_the_same_search():
    assert search(evaluations=80) == search(evaluations=80)
    assert search(evaluations=80) != search(evaluations=80, seed=1)


def test_a_window_with_few_archs_ends_early():
    macs = cost(TINY.smallest)
    found = search(low=macs, high=macs)
    assert [candidate.arch for candidate in found] == [TINY.smallest]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="no initial arch costs"):
        evolve(TINY, cost, likeness, initial=[TINY.largest], evaluations=5, rng=rng(), high=1)
    with pytest.raises(ValueError, match="at least 1"):
        search(evaluations=0)


def test_the_first_population_is_spread_over_the_window():
    archs = first_population(ALPHANET, 200e6, 600e6, 12, rng())
    costs = sorted(count_macs(arch) for arch in archs)
    assert ALPHANET.smallest in archs and len(archs) == 11
    slices = [int((macs - costs[0]) / (600e6 - costs[0]) * 10) for macs in costs]
    assert set(slices) == set(range(10))
    assert all(200e6 <= macs <= 600e6 for macs in costs)


def test_an_empty_window_says_what_is_near():
    with pytest.raises(ValueError, match=r"\d"):
        first_population(TINY, 1, 2, 4, rng(), num_classes=10)


def test_the_search_loads_no_torch():
    code = "import sys, alphanet_zoo.search.evolution, alphanet_zoo.search.pareto; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
