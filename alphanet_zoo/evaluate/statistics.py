"""Confidence intervals and tests for the figures that the package reports, on `scipy.stats`.

SciPy is imported when a function is called, so that importing this module is fast. All intervals are at the 95 %
level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_BATCH_ELEMENTS = 2**20
"""Resampled values that a bootstrap keeps in memory at a time."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        successes: Number of successes, from 0 to ``trials``.
        trials: Number of trials, at least 1.

    Returns:
        The lower and the upper bound, from 0 to 1.

    Raises:
        ValueError: The counts are not those of a proportion.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a proportion; pass 0 <= successes <= trials and trials >= 1")
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p_value(b: int, c: int) -> float:
    """Two-sided p-value of McNemar's exact test: whether two classifiers are equally accurate on the same images.

    Args:
        b: Number of images that only the first classifier gets right.
        c: Number of images that only the second classifier gets right.

    Raises:
        ValueError: A count is negative.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
    """
    if b < 0 or c < 0:
        raise ValueError(f"b {b}, c {c}: counts of images must be 0 or more")
    if b + c == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(b, b + c, p=0.5).pvalue)


def paired_difference_interval(b: int, c: int, images: int) -> tuple[float, float]:
    """Adjusted Wald interval of the difference ``(b - c) / images`` between two accuracies on the same images.

    Args:
        b: Number of images that only the first classifier gets right.
        c: Number of images that only the second classifier gets right.
        images: Number of all images, at least ``b + c`` and at least 1.

    Returns:
        The lower and the upper bound, from -1 to 1.

    Raises:
        ValueError: The counts contradict each other.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", 2012.
    """
    if b < 0 or c < 0 or images < max(1, b + c):
        raise ValueError(f"b {b}, c {c}, images {images}: pass counts of 0 or more and b + c <= images")
    from scipy.stats import norm

    p, q = (b + 1) / (images + 2), (c + 1) / (images + 2)
    spread = norm.ppf(0.5 + CONFIDENCE / 2) * math.sqrt((p + q - (p - q) ** 2) / (images + 2))
    return max(-1.0, float(p - q - spread)), min(1.0, float(p - q + spread))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of the mean of normally distributed values.

    Args:
        values: At least two values.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: There are fewer than two values.

    Source: Student, "The probable error of a mean", 1908.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no interval; pass at least 2")
    from scipy.stats import sem, t

    mean, spread = float(np.mean(values)), float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * sem(values))
    return mean - spread, mean + spread


def median_interval(values: DoubleArray, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the median.

    Args:
        values: ``(n,)``, n at least 2.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: There are fewer than two values.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    return _bootstrap_interval((values,), np.median, resamples, seed)


def median_ratio_interval(
    numerator: DoubleArray, denominator: DoubleArray, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the ratio of two medians, resampling pairs.

    Args:
        numerator: ``(n,)``, n at least 2.
        denominator: ``(n,)``, positive; ``denominator[i]`` was measured in the same round as ``numerator[i]``.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: There are fewer than two pairs, or the arrays differ in length.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """

    def ratio(upper: DoubleArray, lower: DoubleArray, axis: int = -1) -> DoubleArray:
        quotient: DoubleArray = np.median(upper, axis=axis) / np.median(lower, axis=axis)
        return quotient

    return _bootstrap_interval((numerator, denominator), ratio, resamples, seed)


def _bootstrap_interval(
    samples: tuple[DoubleArray, ...], statistic: Callable[..., object], resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of one sample, or of samples paired by index."""
    sizes = [len(sample) for sample in samples]
    if min(sizes) < 2 or len(set(sizes)) > 1:
        raise ValueError(
            f"samples of {sizes} values have no bootstrap interval; pass at least 2, and equally many in each"
        )
    from scipy.stats import bootstrap

    interval = bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BATCH_ELEMENTS // sizes[0]),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
