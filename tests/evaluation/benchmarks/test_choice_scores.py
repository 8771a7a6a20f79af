"""The test named in a row's method is the one whose p-value stands in the row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alignment.evaluation.benchmarks.benchmark import EvalContext
from alignment.evaluation.benchmarks.forgetting.choice_tasks import ChoiceTask
from alignment.evaluation.paired_tests import group_values, item_values, with_p_values
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import mcnemar_exact, sign_flip_test

SCORES = {1.0: [-1.0, -2.0], 0.5: [-1.0, -1.0], 0.0: [-2.0, -1.0]}  # credit of the first choice


def samples(credits: list[float], clusters: list[str] | None = None) -> list[dict[str, Any]]:
    row = {"choices": ["yes", "no"], "answer": 0}
    return [
        {"id": f"q{i}", **row, "logprobs": SCORES[credit], "group": "odd" if i % 2 else "even"}
        | ({"cluster": clusters[i]} if clusters else {"cluster": f"c{i}"})
        for i, credit in enumerate(credits)
    ]


def changes(tmp_path: Path, *rows: list[dict[str, Any]]) -> dict[str | None, EvalResult]:
    """Group -> acc_difference of dpo, with its p-value."""
    context = EvalContext({"base": "", "dpo": ""}, load=None, out_dir=tmp_path, seed=3, baseline="base", origin="base")  # type: ignore[arg-type]
    benchmark, kept = ChoiceTask(name="mmlu"), dict(zip(("base", "dpo"), rows, strict=True))
    stored = {"mmlu": kept}
    results = benchmark.score(context, kept)
    tested = with_p_values(context, results, item_values([benchmark], stored), group_values([benchmark], stored))
    return {r.group: r for r in tested if r.metric == "acc_difference"}


def told(change: EvalResult) -> float:
    """The p-value in a method."""
    found = re.search(r"p = ([0-9.e-]+)$", change.method)
    assert found is not None, change.method
    return float(found[1])


OLD = [1.0, 1.0, 1.0, 0.5, 0.0, 1.0, 1.0, 1.0]
NEW = [0.5, 0.5, 0.5, 0.0, 1.0, 0.5, 0.0, 1.0]


def test_shared_credit_is_tested_by_sign_flips(tmp_path: Path) -> None:
    found = changes(tmp_path, samples(OLD), samples(NEW))
    change = found[None]
    assert change.p_value == sign_flip_test(NEW, OLD, seed=3).value
    assert change.p_value != pytest.approx(mcnemar_exact(1, 6), rel=0.01)
    assert "gained 1, lost 6, exact sign flips of 7 items that differ, p = " in change.method
    for one in found.values():
        assert one.p_value is not None
        assert told(one) == pytest.approx(one.p_value, rel=5e-3)
    assert len(found) == 3


def test_right_and_wrong_are_tested_by_mcnemar_and_clusters_by_sign_flips(tmp_path: Path) -> None:
    old, new = [1.0] * 7 + [0.0], [1.0, 1.0] + [0.0] * 5 + [1.0]
    change = changes(tmp_path, samples(old), samples(new))[None]
    assert change.p_value == mcnemar_exact(1, 5)
    assert change.method.endswith(f"gained 1, lost 5, exact McNemar, p = {mcnemar_exact(1, 5):.3g}")
    clusters = [f"c{i // 2}" for i in range(8)]
    change = changes(tmp_path, samples(old, clusters), samples(new, clusters))[None]
    assert change.p_value == sign_flip_test(new, old, clusters, seed=3).value
    assert told(change) == pytest.approx(change.p_value, rel=5e-3)


def test_where_nothing_changed_there_is_no_p(tmp_path: Path) -> None:
    change = changes(tmp_path, samples(NEW), samples(NEW))[None]
    assert (change.value, change.p_value) == (0.0, None)
    assert change.method.endswith("nothing to test")
