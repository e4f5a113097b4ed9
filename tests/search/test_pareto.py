import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphanet_zoo.search.pareto import best_of_ranges, pareto_front

values = st.integers(-3, 3).map(float) | st.floats(allow_nan=False)


def beats(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(st.lists(st.tuples(values, values)))
def test_the_front_is_what_no_point_beats(points):
    expected = [
        i
        for i, point in enumerate(points)
        if point not in points[:i] and not any(beats(other, point) for other in points)
    ]
    assert pareto_front(points) == sorted(expected, key=lambda i: points[i][0])


def test_an_empty_list_has_an_empty_front():
    assert pareto_front([]) == []


def test_nan_is_refused():
    with pytest.raises(ValueError, match="nan"):
        pareto_front([(1.0, 2.0), (1.0, math.nan)])


def test_each_range_of_cost_gives_its_best_point():
    points = [(10, 0.5), (19, 0.7), (12, 0.7), (30, 0.6), (59, 0.9), (60, 0.8), (41, 0.1)]
    assert best_of_ranges(points, 5) == [2, 3, 6, 4]
    assert best_of_ranges(points, 1) == [4] and best_of_ranges([(5, 0.1), (5, 0.2)], 3) == [1]
    for arguments in (([], 2), (points, 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            best_of_ranges(*arguments)
