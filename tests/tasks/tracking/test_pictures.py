"""Lines of the report's pictures."""

from math import isnan

from tasks.tracking.pictures import curves, with_gaps


def test_a_line_has_a_gap_where_steps_were_left_out() -> None:
    points = [(step, 1.0) for step in (0, 5, 10, 105, 110, 115, 120)]
    shown = with_gaps(points)
    assert [point for point in shown if not isnan(point[1])] == points
    assert [at for at, value in shown if isnan(value)] == [10]


def test_an_even_line_and_a_short_one_stay_as_they_are() -> None:
    for points in ([], [(1, 2.0)], [(step, float(step)) for step in range(9)]):
        assert with_gaps(points) == points


def test_a_curve_without_points_is_still_a_picture() -> None:
    assert curves("Reward", {"judge": []}, "step", "mean reward").lstrip().startswith("<svg")
