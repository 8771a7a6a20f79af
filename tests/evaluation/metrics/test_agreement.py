"""Agreement against the tables of the papers and against evalica and statsmodels."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from published_ratings import ANXIETY, FLEISS, UNITS
from sklearn.metrics import cohen_kappa_score

from alignment.evaluation.metrics.agreement import (
    LEVELS,
    cohen_kappa,
    fleiss_kappa,
    kendall_w,
    krippendorff_alpha,
    percent_agreement,
)
from alignment.evaluation.statistics import wilson

PUBLISHED = {"nominal": 0.743421, "ordinal": 0.815388, "interval": 0.849107, "ratio": 0.797403}


@pytest.mark.parametrize(("level", "alpha"), PUBLISHED.items())
def test_krippendorffs_own_example(level: str, alpha: float) -> None:
    found = krippendorff_alpha(UNITS, level, seed=0)
    assert found.value == pytest.approx(alpha, abs=5e-7)
    assert found.low is not None
    assert found.high is not None
    assert found.low < alpha < found.high
    assert found.n == 11  # one unit has a single rating


def test_alpha_is_evalicas(monkeypatch: pytest.MonkeyPatch) -> None:
    import evalica

    monkeypatch.setattr("alignment.evaluation.statistics.bootstrap.RESAMPLES", 2)  # the value alone is compared
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.choice([np.nan, 0.0, 1.0, 2.0, 5.0], (rng.integers(3, 9), 3))
        ratings = [[None if np.isnan(value) else float(value) for value in row] for row in table]
        for level in LEVELS:
            ours = krippendorff_alpha(ratings, level, seed=0).value
            assert ours == pytest.approx(evalica.alpha(pd.DataFrame(table.T), level).alpha, abs=1e-9)


def test_fleiss_own_example() -> None:
    ratings = [[c for c, n in zip("abcde", row, strict=True) for _ in range(int(n))] for row in FLEISS]
    assert fleiss_kappa(ratings, seed=0).value == pytest.approx(0.43024, abs=5e-6)
    # P̄ of the paper is 0.5556
    assert percent_agreement(ratings, seed=0).value == pytest.approx(0.5556, abs=5e-5)


def test_kendalls_w_with_ties() -> None:
    found = kendall_w(ANXIETY, seed=0)
    assert found.value == pytest.approx(0.5397, abs=5e-5)
    assert "no interval" in found.method
    more = kendall_w([*ANXIETY, (1.0, None, 2.0)], seed=0)
    assert (more.value, more.n) == (found.value, 20)  # an incomplete unit is left out
    assert "over the 20 of 21 units that all 3 raters rated" in more.method
    assert kendall_w([(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)], seed=0).value == 1.0
    assert kendall_w([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], seed=0).value == 0.0


def test_cohens_kappa_of_two() -> None:
    # 45 both yes, 15 and 25 of two minds, 15 both no: p_o = .6, p_e = .7·.6 + .3·.4
    first = ["y"] * 60 + ["n"] * 40
    second = ["y"] * 45 + ["n"] * 15 + ["y"] * 25 + ["n"] * 15
    expected = (0.6 - (0.6 * 0.7 + 0.4 * 0.3)) / (1 - (0.6 * 0.7 + 0.4 * 0.3))
    found = cohen_kappa(first, second, seed=0)
    assert found.value == pytest.approx(expected) == cohen_kappa_score(first, second)
    assert found.low is not None
    assert found.low < expected
    assert cohen_kappa(["y", None], ["y", "n"], seed=0).value is None  # one unit, one category


def test_raters_of_one_mind_are_undefined_not_one() -> None:
    same = [["a", "a"]] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert krippendorff_alpha(same, "nominal", seed=0).value is None
        assert fleiss_kappa(same, seed=0).value is None
        assert cohen_kappa(["a"] * 5, ["a"] * 5, seed=0).value is None
        assert kendall_w([[1.0, 1.0]] * 5, seed=0).value is None
    assert percent_agreement(same, seed=0).value == 1.0
    # agreed on units that differ: that is agreement
    assert krippendorff_alpha([["a", "a"], ["b", "b"]], "nominal", seed=0).value == 1.0


def test_unanimous_raters_are_no_certainty() -> None:
    units = [["a", "a"], ["b", "b"]] * 12
    first, second = ([row[rater] for row in units] for rater in (0, 1))
    for found in (
        krippendorff_alpha(units, "nominal", seed=0),
        fleiss_kappa(units, seed=0),
        cohen_kappa(first, second, seed=0),
    ):
        assert (found.value, found.low, found.high) == (1.0, None, None)
        assert "resamples of items agree, resampling cannot say how sure that is: no interval" in found.method
    agreed = percent_agreement(units, seed=0)  # a share of units
    assert (agreed.low, agreed.high) == (wilson(24, 24).low, 1.0)


def test_nothing_to_compare_is_undefined() -> None:
    for ratings in ([], [["a"]], [["a"], ["b"]], [["a", None], [None, "b"]]):
        assert krippendorff_alpha(ratings, "nominal", seed=0).value is None
        assert fleiss_kappa(ratings, seed=0).value is None
        assert kendall_w(ratings, seed=0).value is None
        assert percent_agreement(ratings, seed=0).value is None


def test_words_have_no_distance_and_a_ratio_scale_no_negative_numbers() -> None:
    assert krippendorff_alpha([["a", "b"], ["b", "b"]], "nominal", seed=0).value is not None
    assert "not numbers" in krippendorff_alpha([["a", "b"], ["b", "b"]], "interval", seed=0).method
    assert "negative" in krippendorff_alpha([[-1.0, 2.0]], "ratio", seed=0).method
    assert krippendorff_alpha([[0.0, 0.0], [1.0, 2.0]], "ratio", seed=0).value is not None  # 0 and 0 are 0 apart


def test_kappa_is_of_the_units_with_the_same_number_of_ratings() -> None:
    whole = [["a", "b", "a"], ["b", "b", "b"], ["a", "a", "a"], ["a", "b", "b"]]
    found = fleiss_kappa([*whole, ["a", "b", None], [None, None, "a"], [None] * 3], seed=0)
    assert found.value == fleiss_kappa(whole, seed=0).value
    assert found.n == 4
    assert "over the 4 of 7 units with 3 ratings each" in found.method
    # nobody rated all: the usual number of ratings, whoever gave them
    apart = [["a", "b", None, None], [None, None, "b", "b"], ["a", None, None, "a"]]
    assert fleiss_kappa([*apart, ["a", "b", "b", None]], seed=0).value == fleiss_kappa(apart, seed=0).value
    ragged = fleiss_kappa([["a", "b", "a"], ["a", "b"]], seed=0)
    assert (ragged.n, ragged.value) == (1, pytest.approx(-0.5))  # P = 1/3, P_e = 5/9
    assert "over the" not in fleiss_kappa(whole, seed=0).method


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        krippendorff_alpha([[1.0, float("nan")]], "nominal", seed=0)
    with pytest.raises(ValueError, match="level"):
        krippendorff_alpha([[1.0, 2.0]], "cardinal", seed=0)
