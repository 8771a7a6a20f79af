"""ACC, BWT, FWT and F by hand on a matrix of three tasks."""

from __future__ import annotations

import pytest

from alignment.evaluation.metrics.forgetting import (
    alignment_tax,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
)

R = [[80.0, 30.0, 20.0], [84.0, 90.0, 25.0], [60.0, 85.0, 95.0]]
BASE = [10.0, 20.0, 30.0]


def test_by_hand() -> None:
    assert average_accuracy(R) == pytest.approx((60 + 85 + 95) / 3)
    assert backward_transfer(R) == pytest.approx(((60 - 80) + (85 - 90)) / 2)
    assert forward_transfer(R, BASE) == pytest.approx(((30 - 20) + (25 - 30)) / 2)
    assert forgetting(R) == pytest.approx(((84 - 60) + (90 - 85)) / 2)  # the best was after stage 2
    assert alignment_tax(BASE, R[-1]) == [-50.0, -65.0, -65.0]


def test_two_tasks() -> None:
    matrix = [[0.9, 0.5], [0.7, 0.8]]
    assert backward_transfer(matrix) == pytest.approx(-0.2)
    assert forgetting(matrix) == pytest.approx(0.2)
    assert forward_transfer(matrix, [0.5, 0.5]) == 0.0


def test_one_task_and_none() -> None:
    assert average_accuracy([[0.5]]) == 0.5
    for one in (backward_transfer, forgetting):
        assert one([[0.5]]) is None
        assert one([]) is None
    assert forward_transfer([[0.5]], [0.1]) is None
    assert average_accuracy([]) is None


def test_what_was_not_measured_is_not_guessed() -> None:
    holes = [[80.0, None, 20.0], [84.0, 90.0, 25.0], [60.0, 85.0, None]]
    assert average_accuracy(holes) is None
    assert forward_transfer(holes, BASE) is None
    assert backward_transfer(holes) is not None
    assert forward_transfer(R, None) is None
    assert alignment_tax([1.0, None], [0.5, 0.5]) == [0.5, None]
    for stage in (1, 2):  # on the diagonal and below: the score that is missing may be the best one
        below = [list(row) for row in R]
        below[stage][1] = None
        assert forgetting(below) is None


def test_tasks_that_were_not_evaluated_before_their_training() -> None:
    """A lower triangle, as papers print it: the best of the stages from a task's own on."""
    triangle = [[80.0, None, None], [84.0, 90.0, None], [60.0, 85.0, 95.0]]
    assert forgetting(triangle) == pytest.approx(((84 - 60) + (90 - 85)) / 2)
    assert backward_transfer(triangle) == backward_transfer(R)
    assert average_accuracy(triangle) == average_accuracy(R)
    assert forward_transfer(triangle, BASE) is None
    triangle[1][0] = None
    assert forgetting(triangle) is None
    # before its training a task was better than ever after: that counts where all such scores are there
    early = [[80.0, 99.0, 20.0, 1.0], [84.0, 90.0, 50.0, 1.0], [70.0, 88.0, 40.0, 1.0], [60.0, 85.0, 30.0, 95.0]]
    assert forgetting(early) == pytest.approx(((84 - 60) + (99 - 85) + (50 - 30)) / 3)
    early[0][3] = None  # of the last task F takes nothing
    assert forgetting(early) == pytest.approx(((84 - 60) + (99 - 85) + (50 - 30)) / 3)
    early[0][2] = None  # one rule for all tasks
    assert forgetting(early) == pytest.approx(((84 - 60) + (90 - 85) + (40 - 30)) / 3)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="square: 2 rows, but row 2 has 1"):
        average_accuracy([[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="1 baseline scores for 3 tasks"):
        forward_transfer(R, [1.0])
    with pytest.raises(ValueError, match="not finite"):
        backward_transfer([[float("nan")]])
