"""The range of each activation that int8 shall span, found by one of three methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alphanet_export.onnx_model import FloatArray

METHODS = ("min-max", "percentile", "entropy")
BINS = 2048
KEPT = 99.99
"""Percent of the values that the method ``percentile`` spans."""
LEVELS = 256
CANDIDATES = np.linspace(0.05, 1.0, 96)
"""Distances from 0 at which the method ``entropy`` tries to cut, as shares of the largest absolute value."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often an activation took which value.

    Args:
        low: The smallest value, or 0 where all are above it: int8 must hold 0 exactly.
        high: The largest, or 0 where all are below it.
        counts: Values in each of `BINS` bins of equal width from low to high.
    """

    low: float
    high: float
    counts: npt.NDArray[np.int64]


def histograms(run: Callable[[], Iterable[Mapping[str, FloatArray]]]) -> dict[str, Histogram]:
    """Histograms of named activations, which are seen twice: for the bounds, then for the counts.

    Args:
        run: Gives the activations in parts, the same each time.
    """
    bounds: dict[str, tuple[float, float]] = {}
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for part in run():
        for name, values in part.items():
            low, high = bounds.get(name, (0.0, 0.0))
            bounds[name] = min(low, float(values.min())), max(high, float(values.max()))
    for part in run():
        for name, values in part.items():
            found, _ = np.histogram(values, BINS, bounds[name])
            counts[name] = counts.get(name, 0) + found
    return {name: Histogram(*bounds[name], counts[name]) for name in counts}


def find_range(histogram: Histogram, method: str) -> tuple[float, float]:
    """(Low, high) of the values that int8 shall span; it contains 0.

    Args:
        histogram: Of the activation.
        method: ``min-max``: all values. ``percentile``: all but the outermost, `KEPT` percent. ``entropy``: the range
            whose quantised distribution has the least Kullback-Leibler divergence from the whole one.

    Raises:
        ValueError: There is no such method.

    Source: Migacz, "8-bit inference with TensorRT", 2017 (entropy).
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there is {', '.join(METHODS)}")
    low, high = histogram.low, histogram.high
    if method == "min-max" or high <= low:
        return low, high
    edges = np.linspace(low, high, BINS + 1)
    if method == "percentile":
        share = np.cumsum(histogram.counts) / histogram.counts.sum()
        outside = (100 - KEPT) / 200
        left, right = np.searchsorted(share, (outside, 1 - outside))
        return min(0.0, float(edges[left])), max(0.0, float(edges[min(right + 1, BINS)]))
    zero = int(np.searchsorted(edges, 0.0))
    reaches = (round(share * max(zero, BINS - zero)) for share in CANDIDATES)
    windows = [(max(0, zero - reach), min(BINS, zero + reach)) for reach in reaches]
    divergences = [_divergence(histogram.counts, start, stop) for start, stop in windows]
    start, stop = windows[int(np.argmin(divergences))]
    return min(0.0, float(edges[start])), max(0.0, float(edges[stop]))


def _divergence(counts: npt.NDArray[np.int64], start: int, stop: int) -> float:
    """KL divergence of the bins clipped to [start, stop) from the same at `LEVELS` levels."""
    clipped = counts[start:stop].astype(np.float64)
    levels = np.arange(stop - start) * LEVELS // (stop - start)
    filled = clipped > 0
    total, bins = np.bincount(levels, clipped, LEVELS), np.bincount(levels, filled, LEVELS)
    coarse = np.where(filled, total[levels] / np.maximum(bins[levels], 1), 0.0)
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1.0)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))).sum())
