"""Precision, recall and F1 against counts by hand."""

import pytest

from alignment.evaluation.metrics.classification import classification
from alignment.evaluation.statistics import wilson


def test_counts_by_hand() -> None:
    truth = [True, True, True, False, False, False, False, False]
    predicted = [True, True, False, True, False, False, False, False]  # 2 of 3 found, 1 of 3 wrong
    found = classification(truth, predicted, seed=0)
    assert found.precision.value == pytest.approx(2 / 3)
    assert found.recall.value == pytest.approx(2 / 3)
    assert found.f1.value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert (found.precision.n, found.recall.n, found.f1.n) == (3, 3, 4)
    for part in (found.precision, found.recall, found.f1):
        assert part.low is None or part.low <= (part.value or 0) <= (part.high or 0)


def test_many_items_have_an_interval_around_the_value() -> None:
    truth = [True] * 60 + [False] * 60
    predicted = [True] * 45 + [False] * 15 + [True] * 10 + [False] * 50
    found = classification(truth, predicted, seed=0)
    assert found.recall.value == pytest.approx(0.75)
    assert found.recall.low is not None
    assert found.recall.high is not None
    assert 0.6 < found.recall.low < 0.75 < found.recall.high < 0.9


def test_what_is_not_there_is_undefined_and_not_nought() -> None:
    found = classification([False, False], [False, False], seed=0)
    assert (found.precision.value, found.recall.value, found.f1.value) == (None, None, None)
    found = classification([True, True], [False, False], seed=0)
    assert (found.precision.value, found.recall.value, found.f1.value) == (None, 0.0, 0.0)
    empty = classification([], [], seed=0)
    assert empty.f1.value is None


def test_three_of_three_are_wilsons_and_their_f1_has_no_interval() -> None:
    found = classification([True] * 3, [True] * 3, seed=0)
    for part in (found.precision, found.recall):
        assert (part.value, part.low, part.high) == (1.0, wilson(3, 3).low, 1.0)
    assert (found.f1.value, found.f1.low, found.f1.high) == (1.0, None, None)
    assert "no interval" in found.f1.method
    none = classification([True] * 3, [False] * 3, seed=0).recall
    assert (none.low, none.high) == (0.0, wilson(0, 3).high)
    clustered = classification([True] * 4, [True] * 4, ["a", "a", "b", "b"], seed=0)
    assert clustered.precision.low == wilson(2, 2).low


def test_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="1 true labels for 2"):
        classification([True], [True, False], seed=0)
