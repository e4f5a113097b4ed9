"""Which points are worth having: the Pareto front of cost and score."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the ``(cost, score)`` points that no other point beats, by ascending cost.

    A point beats another where it costs no more and scores no less, and is better in one of the two. Of equal points
    the first stays.

    Raises:
        ValueError: A cost or score is NaN.
    """
    if any(math.isnan(value) for point in points for value in point):
        raise ValueError("a cost or score is nan; a front needs numbers that can be compared")
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def best_of_ranges(points: Sequence[tuple[float, float]], ranges: int) -> list[int]:
    """Indices of the best-scored ``(cost, score)`` point of each of some equal ranges of cost, by ascending cost.

    Of equal scores the cheaper point is taken. A range without a point gives none, so there may be fewer.

    Raises:
        ValueError: There is no point, or no range.
    """
    if not points or ranges < 1:
        raise ValueError(f"{len(points)} points and {ranges} ranges: give at least one of each")
    low, high = min(cost for cost, _ in points), max(cost for cost, _ in points)
    width = (high - low) / ranges or 1.0
    best: dict[int, int] = {}
    for i in sorted(range(len(points)), key=lambda i: (-points[i][1], points[i][0])):
        best.setdefault(min(int((points[i][0] - low) / width), ranges - 1), i)
    return [best[place] for place in sorted(best)]
