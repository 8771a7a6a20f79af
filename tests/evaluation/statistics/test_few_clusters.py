"""Resampling a handful of clusters varies too little: there the clustered t interval stands in, or none."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy import stats

from alignment.evaluation.metrics.classification import classification
from alignment.evaluation.statistics import (
    error_interval,
    mean_interval,
    paired_difference,
    paired_error_interval,
    rate_interval,
    ratio_interval,
    ratio_standard_error,
    share_interval,
    statistic_interval,
)

TOO_FEW = "t interval with 1 degree of freedom over 2 clusters (too few to resample)"


@pytest.mark.parametrize("bootstrap", ["percentile", "bca"])
def test_a_difference_in_two_clusters_by_hand(bootstrap: Literal["percentile", "bca"]) -> None:
    """Changes sum to 2 and 1: residuals ±1/2, error √(1/2)/8 · √2 = 1/8, and t with one degree of freedom is 12.706."""
    a, b, clusters = [1, 1, 1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1, 0], list("aaaabbbb")
    found = paired_difference(a, b, clusters, seed=0, bootstrap=bootstrap)
    half = 12.7062047 / 8
    assert (found.value, found.low, found.high) == pytest.approx((0.375, 0.375 - half, 0.375 + half))
    assert found.method == f"paired difference, {TOO_FEW}"
    errors = paired_error_interval(a, b, clusters)
    assert (found.low, found.high) == pytest.approx((errors.low, errors.high))


def test_a_ratio_has_the_error_of_its_residuals() -> None:
    above, below, clusters = [10.0, 1.0, 4.0, 30.0, 2.0, 9.0], [5.0, 2.0, 2.0, 10.0, 1.0, 3.0], list("aabbbc")
    found, error = ratio_interval(above, below, clusters, seed=0), ratio_standard_error(above, below, clusters)
    assert error is not None
    half = stats.t.ppf(0.975, 2) * error
    assert (found.value, found.low, found.high) == pytest.approx((56 / 23, 56 / 23 - half, 56 / 23 + half))
    assert "2 degrees of freedom over 3 clusters" in found.method


def test_ten_clusters_are_resampled_and_items_always() -> None:
    values = [float(i * i % 7) for i in range(20)]
    ten, nine = [i % 10 for i in range(20)], [i % 9 for i in range(20)]
    assert "percentile bootstrap over clusters" in mean_interval(values, ten, seed=0).method
    few, errors = mean_interval(values, nine, seed=0), error_interval(values, nine)
    assert "t interval with 8 degrees of freedom over 9 clusters" in few.method
    assert (few.low, few.high) == pytest.approx((errors.low, errors.high))
    for clusters in (None, [*range(5)]):
        assert "percentile bootstrap over items" in mean_interval(values[:5], clusters, seed=0).method


def test_shares_stay_within_their_bounds() -> None:
    right, clusters = [1.0, 1.0, 1.0, 0.0], list("aabb")
    for interval in (share_interval, rate_interval):
        found = interval(right, clusters, seed=0)
        assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)
        assert found.method == f"mean, {TOO_FEW}"
    truth, predicted = [True, True, True, False], [True, True, False, True]
    f1 = classification(truth, predicted, clusters, seed=0).f1
    assert (f1.low, f1.high) == (0.0, 1.0)


def test_any_statistic_wants_five_clusters() -> None:
    values = np.array([0.3, 1.5, 2.5, 0.1, 4.0, 2.0, 1.0, 7.0, 3.0, 5.0])

    def median(drawn: np.ndarray) -> float:
        return float(np.median(values[drawn]))

    four = statistic_interval(median, 10, [i % 4 for i in range(10)], seed=0, name="median")
    assert (four.value, four.low, four.high) == (2.25, None, None)
    assert four.method == "median; too few clusters (4) to resample: no interval"
    five = statistic_interval(median, 10, [i % 5 for i in range(10)], seed=0, name="median")
    assert five.low is not None
    assert "percentile bootstrap over clusters" in five.method
    assert statistic_interval(median, 4, seed=0, name="median").low is not None  # items


@pytest.mark.parametrize("groups", [2, 3, 5, 8])
def test_the_interval_covers_what_it_says(groups: int) -> None:
    """300 draws of clusters of 20 items, intracluster correlation .2, where percentiles cover in .58 to .89."""
    rng, p, covered = np.random.default_rng(groups), 0.6, []
    clusters = np.repeat(np.arange(groups), 20).tolist()
    for _ in range(300):
        shares = rng.beta(4 * p, 4 * (1 - p), groups)
        right = (rng.random((groups, 20)) < shares[:, None]).astype(float).ravel().tolist()
        found = share_interval(right, clusters, seed=0)
        if found.low is not None and found.high is not None:  # none where all clusters are alike
            covered.append(found.low <= p <= found.high)
    assert len(covered) > 250
    assert np.mean(covered) > 0.91
