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
