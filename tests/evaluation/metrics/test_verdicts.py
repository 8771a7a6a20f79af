"""Verdicts in both orders, by hand."""

from itertools import product

import pytest

from alignment.evaluation.metrics.verdicts import (
    BothOrders,
    consistency,
    first_position_rate,
    mean_win_rate,
    unparseable_share,
)
from alignment.evaluation.statistics import wilson

SAID = ("first", "second", "tie", None)


def pair(forward: str | None, backward: str | None, cluster: str = "g", identical: bool = False) -> BothOrders:
    return BothOrders(forward, backward, cluster, identical)  # type: ignore[arg-type]


@pytest.mark.parametrize(("forward", "backward"), list(product(SAID, SAID)))
def test_a_win_holds_in_both_orders(forward: str | None, backward: str | None) -> None:
    """MT-Bench's table: the same answer named twice, else a tie; nothing where a verdict is missing."""
    named = {"first": "mine", "second": "theirs", "tie": "tie", None: None}[forward]
    named_back = {"first": "theirs", "second": "mine", "tie": "tie", None: None}[backward]
    found = pair(forward, backward)
    if named is None or named_back is None:
        assert (found.preference, found.mean, found.consistent) == (None, None, None)
        return
    assert found.preference == {("mine", "mine"): 1, ("theirs", "theirs"): 0}.get((named, named_back), 0.5)
    worth = {"mine": 1, "theirs": 0, "tie": 0.5}
    assert found.mean == (worth[named] + worth[named_back]) / 2
    assert found.consistent == (named == named_back)


def test_a_judge_that_always_names_the_first_says_nothing_of_the_answers() -> None:
    always = [pair("first", "first", f"g{i}") for i in range(20)]
    assert {one.preference for one in always} == {0.5}
    assert consistency(always, seed=0).value == 0.0
    assert first_position_rate(always, seed=0).value == 1.0
    assert mean_win_rate(always, seed=0).value == 0.5


def test_shares_count_what_was_asked() -> None:
    pairs = [
        pair("first", "second", "a"),  # mine twice
        pair("second", "second", "b"),  # the second position twice
        pair("tie", "first", "c"),  # theirs once
        pair(None, "second", "d"),
        pair(None, None, "e", identical=True),  # nobody was asked
    ]
    assert consistency(pairs, seed=0).value == pytest.approx(1 / 3)
    named = first_position_rate(pairs, seed=0)  # first second | second second | first | second
    assert (named.value, named.n) == (pytest.approx(2 / 6), 6)
    lost = unparseable_share(pairs, seed=0)
    assert (lost.value, lost.n) == (1 / 8, 8)
    assert mean_win_rate(pairs, seed=0).value == pytest.approx((1 + 0.5 + 0.25 + 0.5) / 4)


def test_wins_only_and_ties_only() -> None:
    won = mean_win_rate([pair("first", "second", f"g{i}") for i in range(9)], seed=0)
    assert (won.value, won.low, won.high) == (1.0, wilson(9, 9).low, 1.0)
    tied = mean_win_rate([pair("tie", "tie", f"g{i}") for i in range(9)], seed=0)
    assert (tied.value, tied.low, tied.high) == (0.5, None, None)


def test_nothing_asked_is_undefined() -> None:
    for figure in (consistency, first_position_rate, unparseable_share):
        assert figure([pair(None, None, identical=True)], seed=0).value is None
