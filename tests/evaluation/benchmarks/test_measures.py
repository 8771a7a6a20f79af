"""Two models' values of one metric, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation.benchmarks.test_changes_by_group import CASES, two_sides

from alignment.evaluation.benchmarks.benchmark import EvalContext
from alignment.evaluation.benchmarks.bias.crows_pairs import CrowsPairsRun
from alignment.evaluation.benchmarks.bias.winobias import WinoBiasRun
from alignment.evaluation.benchmarks.forgetting.gsm8k import GSM8KRun
from alignment.evaluation.benchmarks.measures import ItemValue, Measure, in_both
from alignment.evaluation.statistics import bootstrap, mcnemar_exact


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)  # nothing here reads an interval


def measure(values: Sequence[float | None], unit: str) -> Measure:
    return Measure("accuracy", {i: ItemValue(value, i) for i, value in enumerate(values)}, unit)


@pytest.mark.parametrize(("right", "unit"), [(1.0, "share"), (100.0, "percent")])
def test_right_and_wrong_items_are_tested_exactly_in_every_unit(right: float, unit: str) -> None:
    """More changes than sign flips are enumerated for: drawn flips could not come below 1 in 10,000."""
    gained, lost, same = 400, 200, 50
    old = [0.0] * gained + [right] * lost + [0.0, right] * same
    new = [right] * gained + [0.0] * lost + [0.0, right] * same
    both = in_both(measure(old, unit), measure(new, unit))
    found = both.mcnemar()
    assert found is not None
    assert (found.gained, found.lost) == (gained, lost)
    assert both.p(seed=1).value == mcnemar_exact(gained, lost) < 1e-12


def test_values_between_right_and_wrong_have_no_mcnemar() -> None:
    old, new = ([0.0, 50.0, 100.0], [100.0, 100.0, 0.0])
    assert in_both(measure(old, "percent"), measure(new, "percent")).mcnemar() is None


def test_the_unit_says_what_right_is_not_the_values() -> None:
    """1 of 100 percent is no right item, 0 and 1 points are no answers; 0 percent throughout is wrong throughout."""
    assert in_both(measure([0.0, 1.0], "percent"), measure([1.0, 1.0], "percent")).mcnemar() is None
    assert in_both(measure([0.0, 100.0], "share"), measure([100.0, 100.0], "share")).mcnemar() is None
    for unit in ("points", "characters", "bits/byte"):
        assert in_both(measure([0.0, 1.0], unit), measure([1.0, 1.0], unit)).mcnemar() is None
    assert in_both(measure([0.0, 1.0], "share"), measure([0.0, 1.0], "points")).mcnemar() is None
    wrong = in_both(measure([0.0, 0.0], "percent"), measure([0.0, 0.0], "percent")).mcnemar()
    assert wrong is not None
    assert (wrong.gained, wrong.lost, wrong.p.value) == (0, 0, None)


UNSCORED: Mapping[str, Mapping[str, Any]] = {
    "bbq": {"prediction": "neither"},
    "crows_pairs": {"sent_more": None},
    "stereoset": {"unrelated": None},
    "winogender": {"prediction": "nobody"},
    "truthfulqa": {"true": [None, -1.0]},
    "xstest": {"completion": None},
}


@pytest.mark.parametrize("name", UNSCORED)
@pytest.mark.parametrize("missing", [{"sft": 2}, {"dpo": 3}, {"sft": 3, "dpo": 3}], ids=str)
def test_scored_and_unscored_items_of_a_change_are_all_items(
    name: str, missing: Mapping[str, int], tmp_path: Path
) -> None:
    """Of one side, of the other, of both: nothing that was asked is lost."""
    benchmark, sides = CASES[name][0], two_sides(name)
    for model, n in missing.items():
        sides[model] = [{**row, **UNSCORED[name]} if i < n else row for i, row in enumerate(sides[model])]
    asked = {m.metric: set(m.items) for m in benchmark.measures(two_sides(name)["sft"])}
    context = EvalContext({"sft": "1", "dpo": "2"}, lambda model: (None, None), tmp_path, 0, baseline="sft")
    results = benchmark.score(context, sides)
    changes = {r.metric.removesuffix("_difference"): r for r in results if r.compared_to and r.group is None}
    unscored = 0
    for old, new in zip(*(benchmark.measures(sides[model]) for model in ("sft", "dpo")), strict=True):
        both = in_both(old, new)
        assert set(old.items) == set(new.items) == asked[old.metric]
        unscored += len(asked[old.metric]) - len(both.old)
        if old.metric in changes and name != "stereoset":  # whose changes are of the terms, as a set
            change = changes[old.metric]
            assert (change.n_scored, change.n_unscored) == (len(both.old), len(asked[old.metric]) - len(both.old))
    assert unscored >= max(missing.values())


def test_problems_without_an_answer_stay_in_the_measure(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{i}", "prompt": "?", "gold": "#### 1", "solution": ("#### 1", None, "#### 2")[i % 3]}
        | {"n_tokens": 3, "finished": True}
        for i in range(9)
    ]
    (found,) = GSM8KRun().measures(rows)
    assert [found.items[f"q{i}"].value for i in range(3)] == [100.0, None, 0.0]
    assert len(found.items) == 9


def test_sentences_without_a_link_stay_in_the_measure() -> None:
    rows = [
        {"id": str(i), "condition": condition, "gold": "the cook", "prediction": None if i == 0 else "the cook"}
        for i in range(4)
        for condition in ("pro", "anti")
    ]
    for found in WinoBiasRun().measures(rows):
        assert [item.value for item in found.items.values()] == [None, 100.0, 100.0, 100.0]


def test_ties_have_no_value_in_a_direction_and_stay_in_its_items() -> None:
    rows = [
        {"id": str(i), "sent_more": float(more), "sent_less": 0.0, "stereo_antistereo": "stereo", "bias_type": "age"}
        for i, more in enumerate((1, 0, -1))
    ]
    found = {m.metric: [item.value for item in m.items.values()] for m in CrowsPairsRun().measures(rows)}
    assert found["stereotype_score"] == [100.0, 0.0, 0.0]
    assert found["stereotype_score_stereo"] == [100.0, None, 0.0]
