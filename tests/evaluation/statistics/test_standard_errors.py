import json
import random
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alignment.evaluation.statistics import (
    clustered_standard_error,
    error_interval,
    paired_error_interval,
    paired_standard_error,
    ratio_standard_error,
    standard_error,
)

VALUES = [0.2, 1.5, -0.7, 3.1, 0.0, 2.2, 1.1, -1.9, 0.4, 0.8, 2.7]
CLUSTERS = list("aabbbccdddd")
VALUES_LISTS = st.lists(st.floats(-100, 100), min_size=2, max_size=20)


def test_standard_errors_by_hand() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(np.sqrt((5 / 3) / 4))
    assert standard_error([1.0]) is None
    # residuals -1, -1, 1, 1 in two clusters: √((-2)² + 2²) / 4
    assert clustered_standard_error([0, 0, 2, 2], ["a", "a", "b", "b"]) == pytest.approx(np.sqrt(8) / 4)
    assert clustered_standard_error([0, 1], ["a", "a"]) is None


def test_published_clustered_errors_of_bbq(real_data: Path) -> None:
    """Accuracy of UnifiedQA (RACE format) on ambiguous Age items: SE .01161 naive, .07120 and .07267 clustered."""
    right, clusters = [], []
    for line in (real_data / "bbq/unifiedqa/preds_Age.jsonl").read_text().splitlines():
        item = json.loads(line)
        if item["context_condition"] == "ambig":
            answer = item["unifiedqa-t5-11b_pred_race"].strip().lower().rstrip(".")
            right.append(float(answer == item[f"ans{item['label']}"].strip().lower().rstrip(".")))
            clusters.append(item["question_index"])
    assert standard_error(right) == pytest.approx(0.01161, abs=5e-6)
    clustered = clustered_standard_error(right, clusters)
    assert clustered == pytest.approx(0.07120, abs=5e-6)
    assert clustered_standard_error(right, clusters, correct=True) == pytest.approx(0.07267, abs=5e-6)


def test_clustered_errors_are_those_of_a_regression_on_a_constant() -> None:
    codes = np.array([ord(c) for c in CLUSTERS])
    for correct in (False, True):
        fit = sm.OLS(VALUES, np.ones(11)).fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False})
        expected = fit.bse[0] * (np.sqrt(4 / 3) if correct else 1)
        assert clustered_standard_error(VALUES, CLUSTERS, correct=correct) == pytest.approx(expected)


def test_paired_errors_are_those_of_the_differences() -> None:
    other = [value * 0.5 + index % 3 for index, value in enumerate(VALUES)]
    changes = [a - b for a, b in zip(VALUES, other, strict=True)]
    assert paired_standard_error(VALUES, other) == pytest.approx(standard_error(changes))
    clustered = paired_standard_error(VALUES, other, CLUSTERS, correct=False)
    assert clustered == pytest.approx(clustered_standard_error(changes, CLUSTERS))
    with pytest.raises(ValueError, match="same items"):
        paired_standard_error([1.0], [])


def test_the_paired_t_interval_is_scipys() -> None:
    other = [value * 0.5 + index % 3 for index, value in enumerate(VALUES)]
    expected = stats.ttest_rel(VALUES, other).confidence_interval(0.95)
    found = paired_error_interval(VALUES, other)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    mean = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (error_interval(VALUES).low, error_interval(VALUES).high) == pytest.approx((mean.low, mean.high))


def test_clustered_t_interval_by_hand() -> None:
    """Cluster means 0 and 2: error √8/4 · √2 = 1, and t with one degree of freedom is 12.706."""
    found = error_interval([0, 0, 2, 2], ["a", "a", "b", "b"])
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 - 12.7062047, 1 + 12.7062047))
    assert "2 clusters" in found.method
    assert error_interval([0, 0, 2, 2]).high < 3  # as if all four were evidence of their own


def test_the_error_of_a_ratio_is_linearised() -> None:
    """R = 45/19; residuals n - R d in units of 1/19: -35, -71, -14, 120."""
    above, below = [10.0, 1.0, 4.0, 30.0], [5.0, 2.0, 2.0, 10.0]
    residuals = np.array([-35, -71, -14, 120]) / 19
    expected = np.sqrt((residuals**2).sum() * 4 / 3) / 19
    assert ratio_standard_error(above, below) == pytest.approx(expected)
    assert ratio_standard_error(VALUES, [1.0] * 11) == pytest.approx(standard_error(VALUES))


def test_one_item_or_one_cluster_has_no_error() -> None:
    assert paired_standard_error([1.0], [2.0]) is None
    assert ratio_standard_error([1.0, 2.0], [1.0, 1.0], ["a", "a"]) is None
    assert "one cluster: no interval" in error_interval([1.0, 2.0], ["a", "a"]).method
    assert error_interval([]).value is None
    alike = error_interval([0.7] * 4)
    assert (alike.value, alike.low, alike.high) == (pytest.approx(0.7), None, None)
    assert alike.method == "mean; all items alike, their spread cannot say how sure that is: no interval"
    assert "all clusters alike" in error_interval([0, 1, 0, 1], ["a", "a", "b", "b"]).method
    assert paired_error_interval([0.1 + 0.2, 0.3, 0.4], [0.3, 0.3, 0.4]).low is None
    with pytest.raises(ValueError, match="not finite"):
        error_interval([1.0, float("inf")])


@given(values=VALUES_LISTS)
def test_clusters_of_one_are_items(values: list[float]) -> None:
    alone = clustered_standard_error(values, list(range(len(values))), correct=True)
    assert alone == pytest.approx(standard_error(values), rel=1e-9, abs=1e-12)


@given(values=VALUES_LISTS, seed=st.integers(0, 1000))
def test_the_order_of_items_changes_nothing(values: list[float], seed: int) -> None:
    clusters = [index % 3 for index in range(len(values))]
    moved = list(zip(values, clusters, strict=True))
    random.Random(seed).shuffle(moved)
    expected = clustered_standard_error(values, clusters)
    assert clustered_standard_error([v for v, _ in moved], [c for _, c in moved]) == pytest.approx(expected, abs=1e-9)
