"""Statistics of a whole set of items: compared as the evaluation itself computes their changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from comparison.fake_evaluation import answered, chosen, ranked, write_evaluation
from evaluation.benchmarks.test_changes_by_group import two_sides

from alignment.comparison.paired import compare
from alignment.comparison.rows import PairedRow, PairedTable
from alignment.comparison.sets import NO_TEST
from alignment.comparison.sides import pairs, read_operand
from alignment.evaluation.frame import read_results
from alignment.evaluation.paired_tests import level_of
from alignment.evaluation.statistics import bootstrap

SETS = {
    "bbq": {"bias_score_ambiguous", "bias_score_disambiguated"},
    "stereoset": {"icat"},
    "winogender": {"bls_correlation", "female_minus_male"},
    "winobias": {"f1_gap"},
    "bold": {"sentiment_gap", "negative_gap", "positive_gap", "profanity_gap"},
}


def winobias(rng: random.Random) -> list[dict[str, Any]]:
    persons = ("the cook", "the maid")
    return [
        {"id": f"type1.test.{i}", "condition": condition, "gold": persons[i % 2], "other": persons[1 - i % 2]}
        | {"sentence": "s", "prediction": rng.choice(persons)}
        for i in range(12)
        for condition in ("pro", "anti")
    ]


def sides(name: str) -> dict[str, list[dict[str, Any]]]:
    if name == "winobias":
        return {model: winobias(random.Random(model)) for model in ("sft", "dpo")}
    return two_sides(name)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)  # as many as the evaluations here are made with


def compared(out: Path, models: Sequence[str] = ("sft", "dpo"), **options: Any) -> PairedTable:
    return compare(pairs([read_operand(f"{out}:{model}") for model in models]), seed=1, **options)


def told(row: PairedRow) -> tuple[Any, ...]:
    return row.difference, row.ci_low, row.ci_high, row.unit, row.higher_is_better


@pytest.mark.parametrize("name", list(SETS))
@pytest.mark.parametrize("groups", [False, True])
def test_every_change_of_an_evaluation_is_a_row(name: str, groups: bool, tmp_path: Path) -> None:
    """The same difference and interval, whether samples are compared when they are made or later."""
    out = write_evaluation(tmp_path / "out", {name: sides(name)})
    table = compared(out, groups=groups)
    rows = {(row.metric, row.group): row for row in table.rows}
    assert {r.version for r in read_results(out)} == {row.version for row in table.rows}  # one, whoever computed it
    assert len(rows) == len(table.rows)
    results = [r for r in read_results(out) if r.model == "dpo"]
    changes = {
        (level_of(r.metric), r.group): r
        for r in results
        if r.metric.endswith("_difference") and (groups or r.group is None) and "_from_mean" not in r.metric
    }
    assert SETS[name] <= {metric for metric, group in rows if group is None}
    assert {key for key in changes if key in rows} == set(changes)
    for key in changes.keys() & rows.keys():
        change, row = changes[key], rows[key]
        expected = (change.value, change.ci_low, change.ci_high, change.unit, change.higher_is_better)
        assert told(row) == pytest.approx(expected), key
        assert key[0] not in SETS[name] or row.method == change.method
    levels = {(r.metric, r.group): r.value for r in results if r.compared_to is None}
    for row in (row for row in table.rows if row.metric in SETS[name] and row.difference is not None):
        assert (row.p, row.p_adjusted, row.standard_error, row.p_method) == (None, None, None, NO_TEST)
        assert row.value_b == levels[row.metric, row.group]
    tests = sum(row.p is not None for row in table.rows if row.group is None)
    assert {row.correction for row in table.rows if row.group is None} == {f"Holm over {tests} tests"}
    assert all(row.correction.endswith("tests of groups") for row in table.rows if row.group is not None)
    assert any(row.group is not None for row in table.rows) == (groups and name != "winobias")  # which has no groups


def test_a_level_over_other_items_is_not_shown(tmp_path: Path) -> None:
    """The difference is over the items of both; the evaluation of one of them had more."""
    samples = sides("bbq")
    out = write_evaluation(tmp_path / "out", {"bbq": {"sft": samples["sft"][::2], "dpo": samples["dpo"]}})
    half = write_evaluation(tmp_path / "half", {"bbq": {model: rows[::2] for model, rows in samples.items()}})
    for metric in SETS["bbq"]:
        (own,), (whole,) = (compared(place, metrics=[metric]).rows for place in (out, half))
        assert (own.difference, own.ci_low) == (whole.difference, whole.ci_low)
        assert (own.value_a, own.value_b, own.n_only_b) == (None, None, len(samples["dpo"]) // 2)
        assert None not in (whole.value_a, whole.value_b)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    samples = {
        "win_rate": {"sft": answered(1), "dpo": answered(2)},
        "reward_accuracy": {"sft": ranked(1), "dpo": ranked(2)},
        "multiple_choice": {"sft": chosen([True, False]), "dpo": chosen([False, False])},
    }
    notes = compared(write_evaluation(tmp_path / "out", samples)).notes
    wins = "win_rate: left out, each is against another model already: "
    assert any(note.startswith(wins) and "win_rate/…" in note and "tie_rate/…" in note for note in notes)
    alone = "reward_accuracy: left out, no paired difference is defined: "
    (reward,) = [note for note in notes if note.startswith(alone)]
    assert "calibration_error" in reward
    assert not any(note.startswith("multiple_choice") for note in notes)
    assert not compared(tmp_path / "out", metrics=["acc"]).notes


@pytest.mark.parametrize("groups", [False, True])
def test_items_of_one_side_alone_change_no_difference(groups: bool, tmp_path: Path) -> None:
    """An item of StereoSet weighs by how many its term has: among the common items, not among all of a side."""
    rows = two_sides("stereoset")["sft"]
    out = write_evaluation(tmp_path / "out", {"stereoset": {"sft": rows[: len(rows) // 2], "dpo": rows}})
    table = compared(out, groups=groups)
    assert {"lms", "ss", "icat"} <= {row.metric for row in table.rows}
    assert {row.difference for row in table.rows if row.value_a is not None} == {0.0}
