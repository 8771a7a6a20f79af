"""What a comparison could have seen: by hand, by Kish's formula, and as rows say it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from comparison.fake_evaluation import chosen, ranked, write_run

from alignment.comparison.detectable import detectable
from alignment.comparison.paired import compare
from alignment.comparison.rows import PairedRow
from alignment.comparison.sides import pairs, read_operand
from alignment.evaluation.statistics import (
    design_effect,
    intracluster_correlation,
    power,
    ratio_standard_error,
    standard_error,
)

Z = 1.9599639845 + 0.8416212336  # of alpha 0.05 two-sided and of a power of 80%


def rows(run: Path, a: str, b: str) -> list[PairedRow]:
    found = compare(pairs([read_operand(f"{run}:{a}"), read_operand(f"{run}:{b}")]), seed=0)
    return list(found.rows)


def test_right_and_wrong_answers_by_hand(tmp_path: Path) -> None:
    before = [True, False] * 10
    after = [True, True] * 7 + [True, False] * 2 + [False, False]
    run = write_run(tmp_path, {"multiple_choice": {"a": chosen(before), "b": chosen(after)}})
    row = next(row for row in rows(run, "a", "b") if row.metric == "acc")
    changes = [float(new) - float(old) for new, old in zip(after, before, strict=True)]
    error = standard_error(changes)
    assert error is not None
    assert row.difference == pytest.approx(0.3)
    assert row.mde == pytest.approx(Z * error)
    assert row.units_needed == math.ceil(20 * (Z * error / 0.3) ** 2)
    assert row.design_effect is None  # every item stands alone
    assert power(row.mde, error).value == pytest.approx(0.8, abs=1e-3)
    # with so many items the observed difference is what 80% find
    assert power(0.3, error * math.sqrt(20 / row.units_needed)).value == pytest.approx(0.8, abs=0.03)


def test_clusters_count_in_what_is_seen(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"reward_accuracy": {"a": ranked(1, 0.3), "b": ranked(2, 2.0)}})
    (row,) = rows(run, "a", "b")
    assert (row.n_common, row.n_clusters) == (36, 6)
    assert row.standard_error is not None
    assert row.difference is not None
    assert row.mde == pytest.approx(Z * row.standard_error)
    assert row.units_needed == math.ceil(36 * (Z * row.standard_error / row.difference) ** 2)
    assert row.design_effect is not None


def test_the_design_effect_is_kishs_in_equal_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(300), 4).tolist()
    changes = (rng.normal(size=300)[clusters] + rng.normal(size=1200)).tolist()
    error = ratio_standard_error(changes, [1.0] * 1200, clusters)
    found = detectable(changes, [1.0] * 1200, clusters, float(np.mean(changes)), error)
    correlation = intracluster_correlation(changes, clusters).value
    assert correlation is not None
    assert found.design_effect == pytest.approx(design_effect([4] * 300, correlation), rel=0.01)
    assert found.design_effect > 2


def test_without_spread_or_difference_there_is_no_number(tmp_path: Path) -> None:
    one = ["a", "b", "c", "d"]
    assert detectable([0.0] * 4, [1.0] * 4, one, 0.0, 0.0) == detectable([], [], [], None, None)
    no_change = detectable([1.0, -1.0, 1.0, -1.0], [1.0] * 4, one, 0.0, 0.5)
    assert no_change.mde == pytest.approx(Z * 0.5)
    assert no_change.units_needed is None
    assert detectable([0.3, -0.1, 0.2, 0.1], [1.0] * 4, one, 1e-17, 0.5).units_needed is None  # of rounding
    same = chosen([True, False, True])
    run = write_run(tmp_path, {"multiple_choice": {"a": same, "b": same}})
    for row in rows(run, "a", "b"):
        assert (row.difference, row.mde, row.units_needed, row.design_effect) == (0.0, None, None, None)
