from __future__ import annotations

import subprocess
import sys
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphanet_zoo.evaluate.statistics import (
    mcnemar_p_value,
    mean_interval,
    median_interval,
    median_ratio_interval,
    paired_difference_interval,
    wilson_interval,
)


# R: binom::binom.confint(x, n, methods = "wilson"); Newcombe, 1998, table I, has 81/263, 15/148, 0/20, 1/29.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_has_the_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_proportion_and_mirrors(pair: tuple[int, int]) -> None:
    successes, trials = pair
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12 and successes / trials - 1e-12 <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("pair", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_what_is_not_a_proportion(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{pair[0]} of {pair[1]} is not a proportion"):
        wilson_interval(*pair)


# By hand: two-sided, n tosses of a fair coin, e.g. (1, 5): 2 (1 + 6) / 64.
@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (0, 1, 1.0), (0, 5, 2 / 32), (1, 5, 14 / 64), (3, 3, 1.0), (10, 2, 2 * (1 + 12 + 66) / 4096)],
)
def test_mcnemars_test_of_small_counts_by_hand(b: int, c: int, p: float) -> None:
    assert mcnemar_p_value(b, c) == mcnemar_p_value(c, b) == pytest.approx(p, rel=1e-12)


def test_mcnemars_test_is_the_exact_binomial_test() -> None:
    for b, c in np.random.default_rng(0).integers(0, 200, (40, 2)).tolist():
        ways = sum(comb(b + c, k) for k in range(b + c + 1) if comb(b + c, k) <= comb(b + c, b))
        assert mcnemar_p_value(b, c) == pytest.approx(ways / 2 ** (b + c), rel=1e-12)


def test_mcnemars_test_of_a_whole_validation_set() -> None:
    assert mcnemar_p_value(12_000, 12_000) == 1.0
    assert 0 < mcnemar_p_value(5_000, 5_400) < 1e-4


def test_mcnemars_test_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="b -1, c 2"):
        mcnemar_p_value(-1, 2)


def test_a_paired_difference_by_hand() -> None:
    # p = 2 / 23, q = 8 / 23: p - q = -0.260870, its standard error sqrt((p + q - (p - q)^2) / 23) = 0.126273.
    low, high = paired_difference_interval(1, 7, 21)
    assert (low, high) == pytest.approx((-0.260870 - 1.959964 * 0.126273, -0.260870 + 1.959964 * 0.126273), abs=2e-6)
    assert paired_difference_interval(7, 1, 21) == pytest.approx((-high, -low), abs=1e-15)
    assert paired_difference_interval(0, 3, 3)[0] == -1.0  # Clipped.
    for counts in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match=f"b {counts[0]}, c {counts[1]}, images {counts[2]}"):
            paired_difference_interval(*counts)


# Quantiles of Student's t, 97.5 %: 12.7062 with 1 degree of freedom, 2.77645 with 4, 2.17881 with 12.
@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (5, 2.77645), (13, 2.17881)])
def test_the_interval_of_a_mean_is_students(count: int, quantile: float) -> None:
    values = list(range(count))
    mean, half = (count - 1) / 2, quantile * np.std(values, ddof=1) / count**0.5
    assert mean_interval(values) == pytest.approx((mean - half, mean + half), abs=1e-4)
    with pytest.raises(ValueError, match="1 values have no interval"):
        mean_interval([1.0])


def test_the_interval_of_a_median() -> None:
    values = np.random.default_rng(1).normal(10.0, 1.0, 400)
    low, high = median_interval(values)
    assert low < np.median(values) < high
    expected = 2 * 1.96 * 1.2533 / np.sqrt(400)  # Normal theory: the median's standard error is 1.2533 sigma / sqrt(n).
    assert high - low == pytest.approx(expected, rel=0.35)
    assert median_interval(values) == (low, high)
    assert median_interval(np.full(9, 3.0)) == (3.0, 3.0)


def test_the_interval_of_a_median_covers_the_true_median() -> None:
    rng = np.random.default_rng(2)
    intervals = [median_interval(rng.exponential(size=60), resamples=200) for _ in range(100)]
    covered = sum(low <= np.log(2) <= high for low, high in intervals)
    assert covered >= 85


def test_the_bootstrap_draws_what_a_plain_loop_draws() -> None:
    values = np.random.default_rng(3).exponential(size=101)
    rng = np.random.default_rng(7)
    medians = [np.median(values[rng.integers(101, size=101)]) for _ in range(1000)]
    assert median_interval(values, seed=7) == pytest.approx(np.quantile(medians, (0.025, 0.975)), rel=1e-12)


def test_the_interval_of_a_ratio_uses_pairs() -> None:
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0.0, 1.0, 300))  # Noise common to both hardly widens the interval.
    low, high = median_ratio_interval(0.8 * noise, noise)
    assert low == pytest.approx(0.8) and high == pytest.approx(0.8)
    low, high = median_ratio_interval(rng.normal(8.0, 1.0, 400), rng.normal(10.0, 1.0, 400))
    assert low < 0.8 < high and 0.01 < high - low < 0.06


def test_a_bootstrap_needs_two_values_and_pairs() -> None:
    with pytest.raises(ValueError, match=r"\[1\] values"):
        median_interval(np.ones(1))
    with pytest.raises(ValueError, match=r"\[2, 3\] values"):
        median_ratio_interval(np.ones(2), np.ones(3))


def test_scipy_is_imported_only_when_it_is_used() -> None:
    script = (
        "import sys, alphanet_zoo, alphanet_zoo.evaluate.statistics as statistics\n"
        "import alphanet_export.verify.measure.accuracy, alphanet_export.verify.report.report\n"
        "from alphanet_zoo.cli import export, search, train, verify\n"
        "for command in (export, search, train, verify):\n"
        "    try: command.main(['--help'])\n"
        "    except SystemExit: pass\n"
        "assert 'scipy' not in sys.modules\n"
        "statistics.wilson_interval(1, 2)\n"
        "assert 'scipy' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
