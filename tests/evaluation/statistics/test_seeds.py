import numpy as np
import pytest
from scipy import stats

from alignment.evaluation.statistics import difference_over_seeds, over_seeds

A = {1: 0.70, 2: 0.74, 3: 0.66}
B = {1: 0.68, 2: 0.73, 3: 0.60}


def test_mean_spread_and_interval_by_hand() -> None:
    """Mean .70, s = .04, t_(.975, 2) = 4.3027: .70 ± 4.3027 · .04/√3."""
    found = over_seeds(A)
    half = 4.302652730 * 0.04 / np.sqrt(3)
    assert (found.interval.value, found.spread) == pytest.approx((0.70, 0.04))
    assert (found.interval.low, found.interval.high) == pytest.approx((0.70 - half, 0.70 + half))
    assert found.values == A
    assert found.interval.n == 3
    assert "3 seeds" in found.interval.method


def test_one_seed_is_a_number_without_an_interval() -> None:
    found = over_seeds({7: 0.7})
    assert (found.interval.value, found.interval.low, found.interval.high, found.spread) == (0.7, None, None, None)
    assert found.interval.method == "mean of one seed: no interval"


def test_an_undefined_seed_leaves_no_mean() -> None:
    found = over_seeds({1: 0.7, 2: None, 3: 0.6})
    assert found.interval.value is None
    assert found.interval.method == "undefined for seed 2"
    assert found.values == {1: 0.7, 2: None, 3: 0.6}
    assert over_seeds({}).interval.method == "no seeds"
    assert difference_over_seeds(A, {1: 0.1, 2: None, 3: 0.2}).p.value is None


@pytest.mark.parametrize("second", [0.3, 0.1 + 0.2])  # the same but for rounding
def test_seeds_alike_have_no_interval(second: float) -> None:
    found = over_seeds({1: 0.3, 2: second})
    assert (found.interval.value, found.spread) == pytest.approx((0.3, 0.0))
    assert (found.interval.low, found.interval.high) == (None, None)
    told = "mean; all 2 seeds alike, their spread cannot say how sure that is: no interval"
    assert found.interval.method == told


def test_the_same_seeds_are_paired() -> None:
    found = difference_over_seeds(A, dict(reversed(B.items())))
    expected = stats.ttest_rel(list(A.values()), list(B.values()))
    bounds = expected.confidence_interval(0.95)
    assert found.paired
    assert found.values == pytest.approx({1: 0.02, 2: 0.01, 3: 0.06})
    assert (found.interval.low, found.interval.high) == pytest.approx((bounds.low, bounds.high))
    assert found.p.value == pytest.approx(expected.pvalue)
    assert found.spread == pytest.approx(np.std([0.02, 0.01, 0.06], ddof=1))


def test_other_seeds_are_not_paired() -> None:
    found = difference_over_seeds(A, {4: 0.68, 5: 0.73, 6: 0.60, 7: 0.61})
    expected = stats.ttest_ind(list(A.values()), [0.68, 0.73, 0.60, 0.61], equal_var=False)
    bounds = expected.confidence_interval(0.95)
    assert not found.paired
    assert found.values == {}
    assert (found.interval.low, found.interval.high) == pytest.approx((bounds.low, bounds.high))
    assert found.p.value == pytest.approx(expected.pvalue)
    assert "not the same ones" in found.interval.method


def test_differences_without_spread_have_no_p_value() -> None:
    shifted = difference_over_seeds({1: 0.5, 2: 0.6}, {1: 0.25, 2: 0.35})
    assert shifted.interval.value == pytest.approx(0.25)
    assert shifted.p.value is None
    assert "no spread" in shifted.p.method
    assert (shifted.interval.low, shifted.interval.high) == (None, None)
    same = difference_over_seeds({1: 0.3, 2: 0.1 + 0.2, 3: 0.6}, {1: 0.3, 2: 0.3, 3: 0.6})
    assert (same.p.value, same.interval.low) == (None, None)
    one_side = difference_over_seeds({1: 0.5, 2: 0.5}, B | {4: 0.61})  # the other has spread
    assert (one_side.interval.low or 0) < (one_side.interval.value or 0) < (one_side.interval.high or 0)
    apart = difference_over_seeds({1: 0.3, 2: 0.1 + 0.2}, {3: 0.5, 4: 0.5})  # no warning of lost digits either
    assert (apart.interval.value, apart.interval.low, apart.p.value) == (pytest.approx(-0.2), None, None)
    one = difference_over_seeds({1: 0.5}, {1: 0.4})
    assert (one.interval.value, one.interval.low, one.p.value) == (pytest.approx(0.1), None, None)
    single = difference_over_seeds({1: 0.5}, {2: 0.4, 3: 0.5})
    assert (single.interval.value, single.interval.low, single.p.value) == (pytest.approx(0.05), None, None)
