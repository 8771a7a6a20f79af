"""The length-controlled win rate: scikit-learn's own cross-validation, a bootstrap of whole refits, and the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from alignment.evaluation.metrics.length_control import GRID, GamedRow, length_controlled, length_only_rate
from alignment.evaluation.statistics import Interval


def judged(n: int = 300, seed: int = 0) -> tuple[list[float], list[float], list[float]]:
    """A judge that likes length: preferences, length differences, difficulties."""
    rng = np.random.default_rng(seed)
    deltas, gamma = rng.normal(200, 500, n), rng.normal(0, 1, n)
    p = 1 / (1 + np.exp(1.5 * np.tanh(deltas / deltas.std(ddof=1)) - 0.8 * gamma + 0.3))
    return list(np.clip(p + rng.normal(0, 0.15, n), 0, 1)), list(deltas), list(gamma)


def test_it_recovers_the_judge_it_was_made_by() -> None:
    wins, deltas, gamma = judged()
    fit = length_controlled(wins, deltas, gamma)
    assert fit.weights is not None
    assert fit.weights == pytest.approx((-1.5, 0.8, -0.3), abs=0.2)
    expected = np.mean(1 / (1 + np.exp(-(fit.weights[1] * np.asarray(gamma) + fit.weights[2]))))
    assert fit.rate.value == pytest.approx(expected)
    assert fit.rate.value > np.mean(wins)  # the model is the briefer one


def test_the_fit_is_that_of_halved_rows() -> None:
    """A label p is a row of class 1 with weight p and one of class 0 with weight 1 - p."""
    wins, deltas, gamma = judged(60)
    fit = length_controlled(wins, deltas, gamma)
    x = np.column_stack([np.tanh(np.asarray(deltas) / np.std(deltas, ddof=1)), gamma, np.ones(60)])
    model = LogisticRegression(C=fit.regularisation, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-8)
    model.fit(np.vstack([x, x]), [1] * 60 + [0] * 60, sample_weight=[*wins, *(1 - np.asarray(wins))])
    assert fit.weights == pytest.approx(tuple(model.coef_[0]), abs=2e-2)
    assert fit.regularisation in GRID


def test_the_interval_is_that_of_refitted_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    wins, deltas, gamma = judged(200)
    fit = length_controlled(wins, deltas, gamma)
    monkeypatch.setattr("alignment.evaluation.metrics.length_control._best_c", lambda *_: fit.regularisation)
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(200):
        drawn = rng.integers(0, 200, 200)
        refit = length_controlled(*([values[i] for i in drawn] for values in (wins, deltas, gamma)))
        rates.append(refit.rate.value)
    assert fit.rate.low is not None
    assert fit.rate.high is not None
    assert (fit.rate.high - fit.rate.low) / 3.92 == pytest.approx(np.std(rates), rel=0.2)


def width(rate: Interval) -> float:
    assert rate.low is not None
    assert rate.high is not None
    return rate.high - rate.low


def test_copies_of_a_prompt_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four copies with cluster names: one copy's interval, but for sd(Δ) with n - 1 and where liblinear stops."""
    wins, deltas, gamma = judged(200)
    monkeypatch.setattr("alignment.evaluation.metrics.length_control._best_c", lambda table, *_: 1e5 / len(table))
    one = length_controlled(wins, deltas, gamma)
    names = [f"prompt {i}" for i in range(200)]
    four = length_controlled(wins * 4, deltas * 4, gamma * 4, clusters=names * 4)
    bounds = (four.rate.value, four.rate.low, four.rate.high)
    assert bounds == pytest.approx((one.rate.value, one.rate.low, one.rate.high), abs=2e-4)
    assert (four.rate.n, four.rate.method) == (800, "logistic model, L1; infinitesimal jackknife over clusters")
    unnamed = length_controlled(wins * 4, deltas * 4, gamma * 4)
    assert width(unnamed.rate) == pytest.approx(width(one.rate) / 2, rel=0.01)
    assert length_controlled(wins, deltas, gamma, clusters=names) == one


def test_the_interval_of_clusters_is_that_of_resampled_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 prompts with one to seven answers each, which share what the judge thinks of the prompt."""
    rng = np.random.default_rng(5)
    names = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    deltas = rng.normal(100, 500, len(names))
    p = 1 / (1 + np.exp(1.2 * np.tanh(deltas / 500) + rng.normal(0.2, 1.2, 60)[names]))
    wins = (rng.random(len(names)) < p).astype(float)
    fit = length_controlled(list(wins), list(deltas), clusters=list(names))
    apart = length_controlled(list(wins), list(deltas))
    monkeypatch.setattr("alignment.evaluation.metrics.length_control._best_c", lambda *_: fit.regularisation)
    rates = []
    for _ in range(300):
        drawn = np.concatenate([np.flatnonzero(names == one) for one in rng.integers(0, 60, 60)])
        rates.append(length_controlled(list(wins[drawn]), list(deltas[drawn])).rate.value)
    assert width(fit.rate) / 3.92 == pytest.approx(np.std(rates), rel=0.1)
    assert width(apart.rate) < 0.75 * width(fit.rate)


def test_clusters_that_are_all_alike_claim_no_certainty() -> None:
    """Sixty prompts with the same four answers: resampling whole prompts would give the same rate each time."""
    fit = length_controlled([1.0, 1.0, 0.0, 1.0] * 60, [-30.0, 20.0, 10.0, 5.0] * 60, clusters=np.repeat(range(60), 4))
    assert fit.rate.value is not None
    assert fit.rate.low is None
    assert "all clusters alike" in fit.rate.method


def test_a_cluster_is_never_learned_from_and_predicted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a gamed row of the cluster of an item, and an unscored item keeps its place."""
    split, dealt = GroupKFold.split, []

    def seen(self: Any, table: Any, y: Any = None, groups: Any = None) -> Any:
        dealt.append(list(groups))
        return split(self, table, y, groups)

    monkeypatch.setattr(GroupKFold, "split", seen)
    wins, deltas, gamma = judged(30)
    gamed = [GamedRow(0.3, 0.5, 0.1), GamedRow(0.6, -0.5, 0.1)]
    length_controlled([None, *wins[1:]], deltas, gamma, gamed, clusters=["a", "b", "c"] * 2 + [*range(24)])
    [groups] = dealt
    assert groups[:7] == [0, 1, 3, 4, 2, 3, 4]
    assert len(set(groups)) == 2 + 3 + 24
    fit = length_controlled(wins, deltas, clusters=["a", "b"] * 15)
    assert (fit.rate.value, fit.rate.method) == (None, "needs 5 clusters of scored items, there are 2")
    few = length_only_rate([*wins, *wins], [*deltas, *deltas], [*range(30)] * 2)
    assert (few.value, few.n) == (None, 60)
    assert few.method.endswith("undefined for 30 clusters, needs 50")


def test_gamed_rows_hold_the_coefficient_of_length() -> None:
    wins, deltas, gamma = judged(40)
    gamed = [GamedRow(1 / (1 + np.exp(3 * x)), x, 0.0, 10.0) for x in np.linspace(-1, 1, 200)]
    held = length_controlled(wins, deltas, gamma, gamed)
    assert held.weights is not None
    assert held.weights[0] == pytest.approx(-3, abs=0.1)


def test_an_unscored_item_is_predicted_but_not_learned_from() -> None:
    wins, deltas, gamma = judged(100)
    some: list[float | None] = [None, *wins[1:]]
    fit = length_controlled(some, deltas, gamma)
    assert fit.rate.n == 99
    assert fit.weights is not None
    everyone = 1 / (1 + np.exp(-(fit.weights[1] * np.asarray(gamma) + fit.weights[2])))
    assert fit.rate.value == pytest.approx(float(everyone.mean()))


@pytest.mark.parametrize(
    ("wins", "deltas", "reason"),
    [
        ([], [], "needs 5 scored items, there are 0"),
        ([0.5], [3.0], "needs 5 scored items, there are 1"),
        ([None] * 9, [1.0, 2.0, 3.0] * 3, "needs 5 scored items, there are 0"),
        ([0.2] * 9, [7.0] * 9, "all length differences are equal"),
    ],
)
def test_undefined(wins: list[float | None], deltas: list[float], reason: str) -> None:
    fit = length_controlled(wins, deltas, [0.0] * len(wins))
    assert fit.rate.value is None
    assert fit.rate.method == reason


def test_ties_only_are_half_and_claim_no_certainty() -> None:
    fit = length_controlled([0.5] * 20, [float(i) for i in range(20)])
    assert fit.rate.value == pytest.approx(0.5)
    assert fit.rate.low is None
    assert "no interval" in fit.rate.method


def test_ties_only_beside_gamed_rows_are_undefined() -> None:
    """The model would give the gamed rows' coefficient of length, moved to where these lengths tie."""
    deltas, gamma = [float(i % 7) for i in range(60)], [float(i % 5) for i in range(60)]
    gamed = [GamedRow(0.5 + x / 4, x, 0.3 * x, 1.0) for x in np.linspace(-1, 1, 40)]
    ties: list[float | None] = [0.5] * 59 + [None]
    rate = length_controlled(ties, deltas, gamma, gamed).rate
    assert (rate.value, rate.low, rate.n) == (None, None, 59)
    assert rate.method == "undefined: all preferences are ties, the rate would be the gamed rows' alone"
    assert length_controlled([0.6, *ties[1:]], deltas, gamma, gamed).rate.value is not None


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        length_controlled([0.5], [1.0, 2.0])
    with pytest.raises(ValueError, match="need the difficulty"):
        length_controlled([0.5] * 5, [1.0] * 5, None, [GamedRow(0.5, 0.1, 0.0)])


def test_length_alone_is_the_model_without_difficulty_and_needs_enough_items() -> None:
    preferences = [float((i * 7) % 3 == 0) for i in range(60)]
    deltas = [float((i * 13) % 29 - 14) for i in range(60)]
    found, expected = length_only_rate(preferences, deltas), length_controlled(preferences, deltas)
    assert (found.value, found.low, found.high, found.n) == (
        expected.rate.value,
        expected.rate.low,
        expected.rate.high,
        60,
    )
    assert found.method.startswith("AlpacaEval 2's model, length alone, no difficulties, without gamed rows; φ = ")
    few = length_only_rate([*preferences[:49], None], deltas[:50])
    assert (few.value, few.n) == (None, 49)
    assert few.method.endswith("undefined for 49 items, needs 50")
    assert length_only_rate(preferences, [1.0] * 60).method.endswith("undefined, all length differences are equal")


def test_a_penalty_that_leaves_nothing_is_no_fifty_percent() -> None:
    """Preferences that length does not explain and that favour nobody: every fit but the empty one is worse."""
    preferences = [0.0, 1.0, 1.0, 0.0] * 15
    deltas = [1.0, 1.0, -1.0, -1.0] * 15
    fit = length_controlled(preferences, deltas)
    assert fit.weights == (0.0, 0.0)
    found = length_only_rate(preferences, deltas)
    assert found.value is None
    assert "leaves no effect at all" in found.method


def test_few_wins_or_losses_are_fitted_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """A fold without the only loss cannot be fitted and is left out; liblinear and scikit-learn print nothing."""
    deltas = [float((i * 13) % 29 - 14) for i in range(60)]
    fit = length_controlled([0.0] + [1.0] * 59, deltas)
    assert fit.rate.value is not None
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_fitted_is_undefined() -> None:
    deltas = [float(i - 30) for i in range(60)]
    wins_alone = length_controlled([1.0] * 60, deltas)
    assert wins_alone.rate.value is None
    assert "no four fifths of the preferences hold both wins and losses" in wins_alone.rate.method
    apart = [delta + 40 if delta >= 0 else delta - 40 for delta in deltas]
    separated = length_controlled([float(delta < 0) for delta in deltas], apart)
    assert separated.rate.value is None
    assert "length separates the wins from the losses" in separated.rate.method


def test_equal_preferences_have_no_interval() -> None:
    deltas, gamma = [float(i % 7) for i in range(60)], [float(i % 5) for i in range(60)]
    alike = length_controlled([0.8] * 60, deltas)
    assert alike.rate.value == pytest.approx(0.8, abs=0.03)
    assert (alike.rate.low, alike.rate.high) == (None, None)
    assert "all preferences are equal" in alike.rate.method
    gamed = [GamedRow(0.5 + x / 4, x, 0.3 * x, 1.0) for x in np.linspace(-1, 1, 40)]
    wins = length_controlled([1.0] * 60, deltas, gamma, gamed)
    assert wins.rate.value is not None
    assert wins.rate.low is None
