"""The Pareto front of cost and score, and its hypervolume."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the non-dominated ``(cost, score)`` points, by ascending cost.

    A point dominates another if its cost is not higher, its score is not lower, and one of them is better. Of equal
    points the first is kept.

    Raises:
        ValueError: A cost or score is NaN.
    """
    if any(math.isnan(value) for point in points for value in point):
        raise ValueError("a cost or score is nan; pass finite numbers")
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def best_of_ranges(points: Sequence[tuple[float, float]], ranges: int) -> list[int]:
    """Indices of the ``(cost, score)`` point with the best score in each of ``ranges`` equal ranges of cost.

    Of equal scores the point with the lower cost is taken. Empty ranges are skipped. Indices are in ascending order
    of cost.

    Raises:
        ValueError: There is no point, or ``ranges`` is less than 1.
    """
    if not points or ranges < 1:
        raise ValueError(f"{len(points)} points and {ranges} ranges: pass at least one of each")
    low, high = min(cost for cost, _ in points), max(cost for cost, _ in points)
    width = (high - low) / ranges or 1.0
    best: dict[int, int] = {}
    for i in sorted(range(len(points)), key=lambda i: (-points[i][1], points[i][0])):
        best.setdefault(min(int((points[i][0] - low) / width), ranges - 1), i)
    return [best[place] for place in sorted(best)]


def hypervolume(points: Sequence[tuple[float, float]], worst: tuple[float, float]) -> float:
    """Area that the ``(cost, score)`` points dominate, up to a worst point.

    Args:
        points: The points; those that do not dominate ``worst`` add nothing.
        worst: The highest cost and the lowest score that count.

    Source: Zitzler and Thiele, "Multiobjective optimization using evolutionary algorithms", 1998.
    """
    area, reached = 0.0, worst[1]
    front = [points[i] for i in pareto_front(points)]
    for cost, score in front:
        if cost < worst[0] and score > reached:
            area += (worst[0] - cost) * (score - reached)
            reached = score
    return area
