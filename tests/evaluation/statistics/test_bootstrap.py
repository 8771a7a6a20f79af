from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alignment.evaluation.statistics import (
    Interval,
    clustered_standard_error,
    mean_interval,
    paired_difference,
    rate_interval,
    ratio_interval,
    share_interval,
    statistic_interval,
    wilson,
)

VALUES = [0.2, 1.5, -0.7, 3.1, 0.0, 2.2, 1.1, -1.9, 0.4, 0.8, 2.7]
# Sums of eighths are exact, so a resample that ties with the estimate ties in every implementation.
SKEWED = [0.125, 0.25, 0.25, 0.5, 0.5, 0.875, 1.25, 2.5, 5.0, 11.0]


def test_the_mean_interval_is_scipys_percentile_bootstrap() -> None:
    expected = stats.bootstrap(
        (np.array(VALUES),), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    found = mean_interval(VALUES, seed=7)
    assert found.value == pytest.approx(np.mean(VALUES))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.n == len(VALUES)


def test_the_paired_difference_is_scipys_paired_bootstrap() -> None:
    other = [value * 0.5 + index % 3 for index, value in enumerate(VALUES)]
    expected = stats.bootstrap(
        (np.array(VALUES), np.array(other)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    found = paired_difference(VALUES, other, seed=3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_ratio_resamples_items_not_parts() -> None:
    above, below = [10.0, 1.0, 4.0, 30.0], [5.0, 2.0, 2.0, 10.0]
    expected = stats.bootstrap(
        (np.array(above), np.array(below)),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = ratio_interval(above, below, seed=1)
    assert found.value == 45 / 19
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="must be positive"):
        ratio_interval([1.0], [0.0], seed=0)
    with pytest.raises(ValueError, match="must be positive"):
        ratio_interval([1.0, 1.0], [2.0, -1.0], seed=0)


def test_a_ratio_with_items_of_denominator_0() -> None:
    """Their numerators are in the sum, in the estimate as in every resample; one without a denominator has no value."""
    above, below = [1.0, *(float(3 + i % 4) for i in range(19))], [0.0] * 3 + [float(1 + i % 3) for i in range(17)]
    found = ratio_interval(above, below, seed=1)
    drawn = np.random.default_rng(1).integers(0, 20, (2000, 20))
    ratios = np.array(above)[drawn].sum(axis=1) / np.array(below)[drawn].sum(axis=1)
    assert found.value == pytest.approx(sum(above) / sum(below))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))
    few = ratio_interval([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], seed=0)
    assert (few.value, few.low, few.high) == (2.0, None, None)
    assert few.method == "ratio of sums; too few items for an interval"
    # An item that has neither moves nothing; one with a numerator alone moves what would else be alike.
    empty, alone = ([top, *[2.0] * 40] for top in (0.0, 5.0))
    assert "all items alike" in ratio_interval(empty, [0.0, *[1.0] * 40], seed=0).method
    assert ratio_interval(alone, [0.0, *[1.0] * 40], seed=0).low is not None


def test_copies_of_an_item_in_one_cluster_are_no_evidence() -> None:
    clusters = [index for index in range(len(VALUES)) for _ in range(5)]
    copied = [value for value in VALUES for _ in range(5)]
    alone, clustered = mean_interval(VALUES, seed=0), mean_interval(copied, clusters, seed=0)
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))
    assert clustered.n == 55
    assert "clusters" in clustered.method
    naive = mean_interval(copied, seed=0)
    assert naive.low is not None
    assert clustered.low is not None
    assert naive.low > clustered.low + 0.1


def test_clusters_of_one_are_items() -> None:
    assert mean_interval(VALUES, list(range(len(VALUES))), seed=5) == mean_interval(VALUES, seed=5)


def test_the_bootstrap_agrees_with_the_clustered_standard_error() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 4)
    values = rng.normal(size=60)[clusters] + 0.1 * rng.normal(size=240)
    error = clustered_standard_error(values.tolist(), clusters.tolist())
    found = mean_interval(values.tolist(), clusters.tolist(), seed=0)
    assert error is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)


def test_the_seed_is_everything() -> None:
    assert mean_interval(VALUES, seed=1) == mean_interval(VALUES, seed=1)
    assert mean_interval(VALUES, seed=1) != mean_interval(VALUES, seed=2)


def test_degenerate_data() -> None:
    assert mean_interval([], seed=0) == Interval(None, None, None, "no data", 0)
    assert paired_difference([], [], seed=0).value is None
    one = mean_interval([0.3], seed=0)
    assert (one.value, one.low, one.high, one.n) == (0.3, None, None, 1)
    one_cluster = mean_interval([0.3, 0.5], ["a", "a"], seed=0)
    assert (one_cluster.value, one_cluster.low) == (0.4, None)
    assert "one cluster" in one_cluster.method
    alike = mean_interval([0.7] * 4, seed=0)
    assert (alike.value, alike.low, alike.high) == (pytest.approx(0.7), None, None)
    assert alike.method == "mean; all items alike, resampling cannot say how sure that is: no interval"


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="not finite"):
        mean_interval([1.0, float("nan")], seed=0)
    with pytest.raises(ValueError, match="2 values but 1 cluster"):
        mean_interval([1.0, 2.0], ["a"], seed=0)
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1.0], [], seed=0)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        share_interval([0.5, 1.5], seed=0)


def test_a_share_never_claims_certainty() -> None:
    assert share_interval([1.0] * 9, seed=0) == wilson(9, 9)
    assert share_interval([1.0, 0.0, 1.0], seed=0) == wilson(2, 3)
    clustered = share_interval([1.0] * 9, [0, 0, 0, 1, 1, 1, 2, 2, 2], seed=0)
    assert (clustered.low, clustered.high) == (wilson(3, 3).low, 1.0)
    assert clustered.n == 9
    assert "bootstrap" in share_interval([1.0, 0.5, 0.0], seed=0).method


def test_ties_only_are_a_value_without_an_interval() -> None:
    assert (share_interval([0.5] * 20, seed=0).value, share_interval([0.5] * 20, seed=0).low) == (0.5, None)
    # each cluster has one right and one wrong item, so every resample of clusters has as many of both
    halves = share_interval([1.0, 0.0] * 5, [i // 2 for i in range(10)], seed=0)
    assert (halves.value, halves.low, halves.high) == (0.5, None, None)
    assert "all clusters alike" in halves.method


def test_a_rate_is_bootstrapped_where_items_differ_and_wilsons_where_none_does() -> None:
    mixed = [1.0, 0.0, 1.0, 1.0]
    assert rate_interval(mixed, seed=3) == mean_interval(mixed, seed=3)
    for k in (0, 3):
        assert rate_interval([float(k > 0)] * 3, seed=0) == wilson(k, 3)
    clustered = rate_interval([1.0] * 9, [i // 3 for i in range(9)], seed=0)
    assert (clustered.low, clustered.high, clustered.n) == (wilson(3, 3).low, 1.0, 9)
    assert rate_interval([], seed=0).value is None
    with pytest.raises(ValueError, match=r"0\.\.1"):
        rate_interval([2.0, 2.0], seed=0)


@pytest.mark.parametrize("bootstrap", ["percentile", "bca"])
@pytest.mark.parametrize(
    ("a", "b", "value", "why"),
    [
        ([1, 0, 1], [1, 0, 1], 0.0, "no item changed"),
        ([1, 1, 1], [0, 0, 0], 1.0, "every item changed by the same"),
        ([0.1 + 0.2, 0.3, 1.0], [0.3, 0.1 + 0.2, 1.0], 0.0, "no item changed"),  # but for rounding
    ],
)
def test_a_difference_that_no_resample_moves_has_no_interval(
    bootstrap: Literal["percentile", "bca"], a: list[float], b: list[float], value: float, why: str
) -> None:
    found = paired_difference(a, b, seed=0, bootstrap=bootstrap)
    assert (found.value, found.low, found.high) == (pytest.approx(value), None, None)
    assert found.method == f"paired difference; {why}, resampling cannot say how sure that is: no interval"


def test_resamples_that_agree_up_to_rounding_are_no_interval() -> None:
    """Sums in another order: .1 + .2 + .3 and .3 + .2 + .1 differ in the last digit."""
    parts = np.array([0.1, 0.2, 0.3])
    found = statistic_interval(
        lambda drawn: float(sum(parts[np.argsort(drawn, kind="stable")])), 3, seed=0, name="total"
    )
    assert (found.value, found.low, found.high) == (pytest.approx(0.6), None, None)
    assert "resamples of items agree" in found.method
    # one resample in a thousand differs: the bounds are still one number
    rare = statistic_interval(lambda drawn: float(len(set(drawn.tolist())) == 1), 6, seed=0, name="rare")
    assert (rare.value, rare.low, rare.high) == (0.0, None, None)


@pytest.mark.parametrize("clusters", [None, list("abacadbeafag"), list("gfedcbabcdef")])
def test_a_resample_is_the_members_of_the_clusters_drawn(clusters: list[str] | None) -> None:
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(clusters or "abcdefghijkl"):
        groups.setdefault(name, []).append(place)
    members, rng = list(groups.values()), np.random.default_rng(3)
    drawn: list[list[int]] = []
    statistic_interval(lambda items: drawn.append(items.tolist()) or 0.0, 12, clusters, seed=3, name="none")
    expected = [[i for g in rng.integers(0, len(members), len(members)) for i in members[g]] for _ in range(2000)]
    assert drawn == [list(range(12)), *expected]


def test_any_statistic_with_clusters() -> None:
    data = np.array(VALUES)
    found = statistic_interval(lambda drawn: float(data[drawn].mean()), len(data), seed=7, name="mean")
    expected = mean_interval(VALUES, seed=7)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert statistic_interval(lambda drawn: None, 3, seed=0, name="rho").value is None
    sometimes = statistic_interval(lambda drawn: 1.0 if 0 in drawn else None, 3, seed=0, name="rho")
    assert (sometimes.value, sometimes.low) == (1.0, None)


def scipys_bca(data: tuple[np.ndarray, ...], statistic: object, seed: int) -> tuple[float, float]:
    found = stats.bootstrap(
        data,
        statistic,
        paired=len(data) > 1,
        n_resamples=2000,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def test_bca_is_scipys() -> None:
    found = mean_interval(SKEWED, seed=7, bootstrap="bca")
    assert (found.low, found.high) == pytest.approx(scipys_bca((np.array(SKEWED),), np.mean, 7), abs=1e-12)
    assert "BCa" in found.method
    percentile = mean_interval(SKEWED, seed=7)
    assert found.value == percentile.value
    assert found.high is not None
    assert percentile.high is not None
    assert found.high > percentile.high + 0.3  # the long tail is on the right


def test_bca_of_ratios_differences_and_any_statistic_is_scipys() -> None:
    other = np.array(SKEWED) * 0.5 + np.arange(10) % 3
    ratio = scipys_bca((np.array(SKEWED), other), lambda a, b, axis: a.sum(axis) / b.sum(axis), 1)
    found = ratio_interval(SKEWED, other.tolist(), seed=1, bootstrap="bca")
    assert (found.low, found.high) == pytest.approx(ratio)
    change = scipys_bca((np.array(SKEWED), other), lambda a, b, axis: np.mean(a - b, axis=axis), 1)
    found = paired_difference(SKEWED, other.tolist(), seed=1, bootstrap="bca")
    assert (found.low, found.high) == pytest.approx(change)
    data = np.array(SKEWED)
    by_hand = statistic_interval(lambda drawn: float(data[drawn].mean()), 10, seed=1, name="mean", bootstrap="bca")
    mean = mean_interval(SKEWED, seed=1, bootstrap="bca")
    assert (by_hand.low, by_hand.high) == pytest.approx((mean.low, mean.high))


def test_bca_leaves_whole_clusters_out() -> None:
    """Copies in a cluster are one item: the same draws, and the same jackknife of the mean."""
    copied, clusters = [value for value in SKEWED for _ in range(3)], [i for i in range(10) for _ in range(3)]
    alone, clustered = (
        mean_interval(SKEWED, seed=2, bootstrap="bca"),
        mean_interval(copied, clusters, seed=2, bootstrap="bca"),
    )
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))


def test_bca_that_is_undefined_has_no_interval() -> None:
    """A statistic that leaving an item out never changes has no acceleration, and no percentile in its place."""
    found = statistic_interval(lambda drawn: 1.0, 5, seed=0, name="constant", bootstrap="bca")
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert "undefined" in found.method


@pytest.mark.parametrize("bootstrap", ["percentile", "bca"])
@given(values=st.lists(st.integers(-50, 50), min_size=2, max_size=30), seed=st.integers(0, 3))
def test_clusters_of_one_change_nothing(bootstrap: Literal["percentile", "bca"], values: list[int], seed: int) -> None:
    alone = mean_interval(values, seed=seed, bootstrap=bootstrap)
    assert mean_interval(values, [f"c{i}" for i in range(len(values))], seed=seed, bootstrap=bootstrap) == alone
