import itertools
import subprocess
import sys
import time

import numpy as np
import pytest

from alphanet_zoo.errors import TargetError, UsageError
from alphanet_zoo.search.chain import Chain, evaluate, macs_tables
from alphanet_zoo.search.costs import make_problem, params_of
from alphanet_zoo.search.guided import Guided, evolve_rows, exact_optimum
from alphanet_zoo.search.limits import MACS, PARAMS, Limit, parse_limit
from alphanet_zoo.search.nsga2 import Nsga2
from alphanet_zoo.search.overview import profile_text
from alphanet_zoo.search.pareto import hypervolume
from alphanet_zoo.search.predictor import Predictor
from alphanet_zoo.search.strategies import Evolution, Random, front_of, run_strategy
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY

TARGET = TINY.sample(np.random.default_rng(123))
STRATEGIES = {
    "evolution": Evolution.sized(300),
    "nsga2": Nsga2.sized(300),
    "predictor": Guided(20, 10, population=128, rounds=6),
    "random": Random(),
}


def cost(arch):
    return count_macs(arch, TINY, 10)


def likeness(arch):
    """How many entries are the target's: one arch alone has the most."""
    return sum(a == b for a, b in zip(arch.scalars, TARGET.scalars, strict=True))


def problem(space=TINY, num_classes=10, **limits):
    return make_problem(space, {name: Limit(*bounds) for name, bounds in limits.items()}, num_classes=num_classes)


def search(name="evolution", score=likeness, evaluations=300, seed=0, **limits):
    return run_strategy(
        problem(**limits), STRATEGIES[name], lambda archs, _: ((score(arch), True) for arch in archs),
        evaluations=evaluations, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["evolution", "nsga2", "predictor"])
def test_they_find_the_one_best_of_36864_archs(name, seed):
    found = search(name, seed=seed, evaluations={"evolution": 300, "nsga2": 600, "predictor": 120}[name])
    assert max(found, key=lambda each: each.score).arch == TARGET


def test_they_are_better_than_drawing_at_random():
    assert max(each.score for each in search("random")) < len(TARGET.scalars)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_arch_is_scored_twice_and_none_outside_the_limits(name):
    scored = []

    def score(arch):
        scored.append(arch)
        return likeness(arch)

    found = search(name, score, 60, macs=(0.5e6, 1.0e6), params=(0, 40e3))
    assert [each.arch for each in found] == scored and len(set(scored)) == len(scored) == 60
    assert all(0.5e6 <= cost(arch) <= 1.0e6 and count_params(arch, TINY, 10) <= 40e3 for arch in scored)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_search(name):
    assert search(name, evaluations=40) == search(name, evaluations=40)
    assert search(name, evaluations=40) != search(name, evaluations=40, seed=1)


def test_the_front_reaches_both_ends_of_a_score_that_grows_with_cost():
    front = front_of(search(score=lambda arch: float(np.log(cost(arch))), evaluations=60))
    assert (front[0].arch, front[-1].arch) == (TINY.smallest, TINY.largest) and len(front) > 40


def test_limits_with_few_archs_end_the_search_early():
    macs = cost(TINY.smallest)
    assert [each.arch for each in search(macs=(macs, macs))] == [TINY.smallest]
    with pytest.raises(ValueError, match="at least 1"):
        search(evaluations=0)


def test_published_numbers_apply_from_the_published_evaluations_on():
    assert Evolution.sized(5632) == Evolution(512, 128, 128, 0.2, 10e6)
    assert Evolution.sized(90).initial == 30


def test_initial_archs_are_spread_over_the_limits():
    archs = problem(ALPHANET, 1000, macs=(200e6, 600e6)).draw(32, np.random.default_rng(0))
    macs = np.array([count_macs(arch) for arch in archs])
    assert len(archs) >= 30 and ALPHANET.smallest in archs and macs.max() <= 600e6
    assert (np.histogram(macs, 8, (macs.min(), 600e6))[0] > 0).all()


def test_limits_that_cannot_be_met_name_what_is_possible():
    with pytest.raises(TargetError, match="nearest above"):
        problem(macs=(1, 2)).draw(4, np.random.default_rng(0))
    with pytest.raises(TargetError, match=r"none of .* random archs .* parameters"):
        problem(params=(1, 2)).draw(4, np.random.default_rng(0))
    text, feasible = profile_text(problem(params=(1, 2)))
    assert not feasible and "cannot be met" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("600M", Limit(0, 600e6)),
        ("200M:1.2G", Limit(200e6, 1.2e9)),
        ("200M:", Limit(200e6)),
        (":5", Limit(0, 5)),
        ("60%", Limit(0, 0.6, True)),
        ("20%:60%", Limit(0.2, 0.6, True)),
    ],
)
def test_limits_are_read(text, expected):
    limit = parse_limit(text)
    assert (limit.low, limit.high, limit.relative) == pytest.approx((expected.low, expected.high, expected.relative))


@pytest.mark.parametrize("text", ["", ":", "x", "5M:1M", "20%:5M", "1:2:3", "-5"])
def test_wrong_limits_are_refused(text):
    with pytest.raises(UsageError, match="pass a maximum"):
        parse_limit(text)


def test_relative_limits_are_shares_of_the_largest():
    limited = make_problem(TINY, {MACS: Limit(0.2, 0.6, True), PARAMS: Limit(0, 0.5, True)}, num_classes=10)
    assert limited.limits[MACS] == pytest.approx((0.2 * cost(TINY.largest), 0.6 * cost(TINY.largest)))
    assert limited.axis == MACS
    text, feasible = profile_text(limited)
    assert feasible and f"{cost(TINY.largest) / 1e6:.4g} M" in text and "the limits can be met" in text


def all_rows(space):
    return np.array(list(itertools.product(*(choices for _, choices in space.entries))))


def fitted(rows, noise=0.1):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=rows.shape[1])
    scores = (rows / rows.max(0)) @ weights + noise * rng.normal(size=len(rows))
    return Predictor(TINY).fit(rows, scores), scores


def test_tables_add_up_to_the_costs_and_the_prediction():
    rows = all_rows(TINY)[::7]
    predictor, _ = fitted(TINY.sample_array(300, np.random.default_rng(0)))
    assert evaluate(predictor.chain, predictor.tables(), rows) == pytest.approx(predictor.predict(rows))
    assert evaluate(Chain.of(TINY), macs_tables(TINY, 10), rows).tolist() == TINY.count_macs(rows, 10).tolist()
    params = params_of(TINY, 10)(rows[:200]).tolist()
    assert params == [count_params(TINY.arch_of(row), TINY, 10) for row in rows[:200].tolist()]


def test_the_exact_optimum_is_that_of_brute_force():
    predictor, _ = fitted(TINY.sample_array(300, np.random.default_rng(0)))
    rows = all_rows(TINY)
    predicted, macs = predictor.predict(rows), TINY.count_macs(rows, 10)
    for budget in np.linspace(macs.min(), macs.max(), 12):
        scalars, value = exact_optimum(TINY, predictor, budget, 10)
        assert value == pytest.approx(predicted[macs <= budget].max(), abs=1e-9)
        assert TINY.count_macs(np.array([scalars]), 10)[0] <= budget
        assert predictor.predict(np.array([scalars]))[0] == pytest.approx(value)
    with pytest.raises(TargetError, match="no arch costs"):
        exact_optimum(TINY, predictor, macs.min() - 1, 10)


def test_the_quality_of_a_predictor_is_that_on_archs_it_has_not_seen():
    rows = TINY.sample_array(300, np.random.default_rng(0))
    predictor, scores = fitted(rows)
    quality = predictor.quality(rows, scores)
    assert quality.kendall_tau > 0.85 and 0.09 < quality.rmse < 0.13 and quality.archs == 300
    shuffled = np.random.default_rng(3).permutation(scores)
    assert abs(predictor.quality(rows, shuffled).kendall_tau) < 0.15


def test_the_uncertainty_falls_with_the_number_of_archs():
    rows = TINY.sample_array(400, np.random.default_rng(0))
    few, many = fitted(rows[:40])[0], fitted(rows)[0]
    probe = TINY.sample_array(200, np.random.default_rng(5))
    assert np.median(many.predict_with_error(probe)[1]) < 0.7 * np.median(few.predict_with_error(probe)[1])
    with pytest.raises(ValueError, match="at least 2"):
        Predictor(TINY).fit(rows[:1], [1.0])


def test_twenty_rounds_of_512_on_the_predictor_take_seconds():
    rows = ALPHANET.sample_array(300, np.random.default_rng(0))
    predictor = Predictor(ALPHANET).fit(rows, np.log(ALPHANET.count_macs(rows)))
    began = time.perf_counter()
    limited = problem(ALPHANET, 1000, macs=(200e6, 1200e6))
    found = evolve_rows(limited, predictor.predict, rows, np.random.default_rng(0), population=512, rounds=20)
    assert time.perf_counter() - began < 10 and len(found) > 64 and limited.feasible(found).all()


def test_the_hypervolume_is_the_dominated_area():
    assert hypervolume([(1, 0.5), (2, 0.75), (2, 0.6)], (4, 0.0)) == pytest.approx(3 * 0.5 + 2 * 0.25)
    assert hypervolume([(5, 0.9), (1, -1)], (4, 0.0)) == 0


def test_strategies_load_no_torch():
    code = "import sys, alphanet_zoo.search.guided, alphanet_zoo.search.nsga2, alphanet_zoo.search.device, " \
           "alphanet_zoo.search.scores; sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
