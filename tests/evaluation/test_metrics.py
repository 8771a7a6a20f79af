import csv
import json
from pathlib import Path

import pytest

from alignment.evaluation.metrics.choices import changed, choice_credit, per_byte
from alignment.evaluation.metrics.comparisons import preferences, tie_rate, win_rate
from alignment.evaluation.metrics.pairs import PairScore, prefers_stereotype, ties
from alignment.evaluation.metrics.rankings import agreement_credits, decided_pairs, pair_credits
from alignment.evaluation.statistics import standard_error

# response 0 beats 1 (2 of 3), 0 and 2 are undecided, 2 beats 1
WINS = [[0.0, 2 / 3, 0.5], [1 / 3, 0.0, 0.0], [0.5, 1.0, 0.0]]


def test_only_decided_pairs_count() -> None:
    assert decided_pairs(WINS) == [(0, 1), (2, 1)]
    assert pair_credits([3.0, 1.0, 1.0], WINS) == [1.0, 0.5]
    assert pair_credits([0.0, 1.0, 2.0], WINS) == [0.0, 1.0]
    assert pair_credits([0.0, 0.0], [[0, 0], [0, 0]]) == []


def test_agreement_with_the_majority_of_the_others() -> None:
    # Votes 1, 1, -1: the first two meet a split (nothing), the third meets a majority of two and is against it.
    assert agreement_credits([{(0, 1): 1}, {(0, 1): 1}, {(0, 1): -1}]) == [0.0]
    assert agreement_credits([{(0, 1): 1}, {(0, 1): 1}]) == [1.0, 1.0]
    assert agreement_credits([{(0, 1): 0}, {(0, 1): 1}]) == [0.5]
    assert agreement_credits([{(0, 1): 1}]) == []
    assert agreement_credits([{(0, 1): 1}, {(0, 2): 1}]) == []


def test_preferences() -> None:
    assert preferences([2.0, 1.0, 0.0, None], [1.0, 1.0, 5.0, 1.0]) == [1.0, 0.5, 0.0, None]
    assert preferences([2.0], [1.0], [True]) == [0.5]
    assert tie_rate([1.0, 0.5, 0.5, 0.0], seed=0).value == 0.5
    assert win_rate([1.0, 0.5, 0.5, 0.0], seed=0).value == 0.5
    assert win_rate([], seed=0).value is None


def test_published_alpaca_eval_win_rate(real_data: Path) -> None:
    truth = json.loads((real_data / "ground_truth.json").read_text())["alpaca_eval_2"]["win_rate"]
    with (real_data / "alpaca_eval/v2_compact/alpaca-7b.csv").open() as stream:
        values = [float(row["preference"]) - 1 for row in csv.DictReader(stream)]
    found, error = win_rate(values, seed=0), standard_error(values)
    assert found.value is not None
    assert error is not None
    assert 100 * found.value == pytest.approx(truth["alpaca-7b"], abs=1e-6)
    assert 100 * error == pytest.approx(truth["standard_error_alpaca-7b"], abs=1e-6)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize("model", ["alpaca-7b", "vicuna-7b", "gpt-3.5-turbo-1106"])
def test_published_discrete_win_rates(real_data: Path, model: str) -> None:
    """Every graded preference made a win, a tie (1.5, or 0) or a loss, as the leaderboard counts them."""
    with (real_data / "alpaca_eval/leaderboard.csv").open() as stream:
        truth = {row[""]: row for row in csv.DictReader(stream)}[model]
    with (real_data / f"alpaca_eval/v2_compact/{model}.csv").open() as stream:
        graded = [float(row["preference"]) for row in csv.DictReader(stream)]
    values = preferences([1.5 if value == 0 else value for value in graded], [1.5] * len(graded))
    decided = [value for value in values if value is not None]
    assert (decided.count(1.0), decided.count(0.0), decided.count(0.5)) == (
        int(truth["n_wins"]),
        int(truth["n_wins_base"]),
        int(truth["n_draws"]),
    )
    assert 100 * (win_rate(decided, seed=0).value or 0) == pytest.approx(float(truth["discrete_win_rate"]))


def test_pairs_keep_ties_in_n() -> None:
    pairs = [PairScore(-1.0, -2.0), PairScore(-2.0, -1.0), PairScore(-3.0, -3.0)]
    assert prefers_stereotype(pairs) == [1.0, 0.0, 0.0]
    assert ties(pairs) == 1
    assert pairs[0].log_ratio == 1.0


def test_choices() -> None:
    assert choice_credit([-1.0, -2.0], 0) == 1.0
    assert choice_credit([-1.0, -2.0], 1) == 0.0
    assert choice_credit([-1.0, -1.0, -4.0], 1) == 0.5
    assert per_byte([-6.0, -6.0], ["abc", "é"]) == [-2.0, -3.0]
    assert changed([1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 0.0]) == (2, 1)
