"""Gaps between groups: by hand, against scipy's permutation test, and where there is nothing to find."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from alignment.evaluation.metrics.group_gaps import (
    PERMUTATIONS,
    Observation,
    from_domain_mean,
    gap,
    gap_change,
    pooled_deviation,
    preference,
    standardised_gap,
)


def matched(values: np.ndarray, domain: str = "d") -> list[Observation]:
    """Rows are templates, columns groups."""
    cells = itertools.product(range(values.shape[0]), range(values.shape[1]))
    return [Observation(domain, f"g{group}", f"t{row}", float(values[row, group])) for row, group in cells]


VALUES = np.array(
    [[0.1, 0.5, 0.2], [0.0, 0.9, 0.1], [0.3, 0.4, 0.6], [0.2, 0.8, 0.3], [0.1, 0.1, 0.0], [0.5, 0.7, 0.2]]
)


def test_the_gap_is_the_largest_mean_minus_the_smallest_of_one_domain() -> None:
    found, _ = gap(matched(VALUES), seed=0)
    means = VALUES.mean(axis=0)
    assert found.value == pytest.approx(means.max() - means.min())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    other = matched(VALUES[:, :2] + 5.0, "other")  # compared with each other, not with the first domain
    both, _ = gap(matched(VALUES) + other, seed=0)
    assert both.value == pytest.approx(found.value)
    assert both.n == 30
    wide, _ = gap(matched(VALUES) + matched(VALUES[:, :2] * 3, "other"), seed=0)
    assert wide.value == pytest.approx(3 * (means[1] - means[0]))


def test_the_p_is_that_of_scipys_test_which_permutes_within_templates() -> None:
    def span(*groups: np.ndarray, axis: int = -1) -> np.ndarray:
        means = np.stack([group.mean(axis=axis) for group in groups])
        return np.asarray(means.max(axis=0) - means.min(axis=0))

    ours = gap(matched(VALUES), seed=0)[1].value
    theirs = permutation_test(
        tuple(VALUES.T),
        span,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=np.random.default_rng(1),
    )
    assert ours == pytest.approx(theirs.pvalue, abs=4 * math.sqrt(theirs.pvalue / PERMUTATIONS))
    assert ours is not None
    assert 0.01 < ours < 0.2


def test_articles_are_exchanged_whole() -> None:
    rng = np.random.default_rng(0)
    articles = [(f"a{i}", f"g{i % 2}", rng.normal(i % 2 * 0.5)) for i in range(16)]
    seen = [Observation("d", group, name, value) for name, group, value in articles for _ in range(10)]
    ours = gap(seen, seed=0)
    once = [Observation("d", group, name, value) for name, group, value in articles]
    assert ours[0].value == pytest.approx(gap(once, seed=0)[0].value)
    assert ours[1].value == gap(once, seed=0)[1].value  # ten copies of an article are no more evidence than one
    assert "whole articles" in ours[1].method
    halves = [np.array([value for _, group, value in articles if group == f"g{g}"]) for g in (0, 1)]
    theirs = permutation_test(
        tuple(halves), lambda a, b: abs(a.mean() - b.mean()), permutation_type="independent", alternative="greater"
    )
    assert ours[1].value == pytest.approx(theirs.pvalue, abs=4 * math.sqrt(theirs.pvalue / PERMUTATIONS))


def test_groups_that_are_treated_alike_get_a_gap_above_0_but_small_ps_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    ps = []
    for trial in range(60):
        found, p = gap(matched(rng.normal(size=(8, 6))), seed=trial)
        assert found.low is not None
        assert found.low > 0
        assert p.value is not None
        ps.append(p.value)
    assert sum(p < 0.05 for p in ps) <= 9
    assert 0.35 < float(np.mean(ps)) < 0.65


def test_what_is_undefined_says_so() -> None:
    assert gap([], seed=0)[0].value is None
    assert gap([], seed=0)[1].value is None
    lonely, p = gap(matched(VALUES[:, :1]), seed=0)
    assert (lonely.value, p.value) == (None, None)
    assert "two groups" in lonely.method
    single, _ = gap(matched(VALUES[:1]), seed=0)
    assert single.value == pytest.approx(0.4)
    assert single.low is None
    alike, p = gap(matched(np.ones((4, 3))), seed=0)
    assert (alike.value, alike.low, alike.high, p.value) == (0.0, None, None, None)
    assert "resamples of templates or articles agree" in alike.method


def test_a_change_of_gaps_is_paired() -> None:
    here, there = matched(VALUES * 2), matched(VALUES)
    change = gap_change(here, there, seed=0)
    assert change.value == pytest.approx(gap(there, seed=0)[0].value)
    assert gap_change(there, there, seed=0).value == 0.0
    assert (gap_change(there, there, seed=0).low, gap_change(there, there, seed=0).high) == (None, None)
    assert gap_change([], [], seed=0).value is None
    with pytest.raises(ValueError, match="same prompts"):
        gap_change(here, there[:-1], seed=0)


def test_a_group_is_set_beside_the_mean_of_its_domains_groups() -> None:
    found = from_domain_mean(matched(VALUES) + matched(VALUES[:, :1], "alone"), seed=0)
    means = VALUES.mean(axis=0)
    assert {group: one.value for group, one in found.items()} == {
        ("d", f"g{i}"): pytest.approx(means[i] - means.mean()) for i in range(3)
    }
    assert sum(one.value or 0.0 for one in found.values()) == pytest.approx(0.0)
    assert from_domain_mean([], seed=0) == {}


def test_pairs_of_scores() -> None:
    a, b, units = [1.0, 3.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0], ["x", "x", "y", "z"]
    deviation = pooled_deviation(a, b)
    assert deviation == pytest.approx(math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2))
    found = standardised_gap(a, b, units, deviation, seed=0)
    assert found.value == pytest.approx((np.mean(a) - np.mean(b)) / deviation)
    assert preference(a, b, units, seed=0).value == pytest.approx(2.5 / 4)
    assert standardised_gap([1.0, 1.0], [1.0, 1.0], ["x", "y"], pooled_deviation([1, 1], [1, 1]), seed=0).value is None
    assert pooled_deviation([1.0], [2.0]) is None
    assert standardised_gap([], [], [], None, seed=0).n == 0
    with pytest.raises(ValueError, match="both"):
        pooled_deviation([1.0], [])
