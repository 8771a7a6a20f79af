"""AlpacaEval's files where something is missing: order, index, lengths, or anything to fit."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from alignment.evaluation.stored.alpaca_eval import AlpacaEvalItem
from alignment.evaluation.stored.alpaca_eval_files import BLOCKS


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def raw_annotations(folder: Path) -> list[dict[str, Any]]:
    """The compact rows of alpaca-7b in the form of annotations.json, which has no index."""
    with (folder / "v2_compact/alpaca-7b.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        {
            "instruction": f"instruction {row['row']}",
            "output_1": "x" * int(row["len_baseline"]),
            "generator_1": "gpt4_1106_preview",
            "dataset": row["dataset"],
            "output_2": "y" * int(row["len_model"]),
            "generator_2": "alpaca-7b",
            "preference": float(row["preference"]),
        }
        for row in rows
    ]


def test_row_order_is_used_only_where_it_can_be_checked(real_data: Path, tmp_path: Path, score: Any) -> None:
    folder = real_data / "alpaca_eval"
    rows = raw_annotations(folder)
    assert [name for name, n in BLOCKS for _ in range(n)] == [row["dataset"] for row in rows]
    options = ("--difficulty", folder / "instruction_difficulty.csv", "--gamed", folder / "gamed_rows.csv")
    found = score("alpaca_eval", lines(tmp_path / "in_order.jsonl", rows), *options)
    ordered = found["length_controlled_win_rate", None]
    assert ordered["value"] == pytest.approx(5.8755, abs=0.15)
    assert "difficulties by row order" in ordered["method"]
    assert "by row order" not in found["length_only_win_rate", None]["method"]
    compact = score("alpaca_eval", folder / "v2_compact/alpaca-7b.csv")["length_controlled_win_rate", None]
    assert compact["value"] == ordered["value"]
    assert "row order" not in compact["method"]
    shuffled = random.Random(0).sample(rows, len(rows))
    without = [{name: value for name, value in row.items() if name != "dataset"} for row in rows]
    for name, unordered in (("shuffled", shuffled), ("without", without), ("short", rows[:800])):
        found = score("alpaca_eval", lines(tmp_path / f"{name}.jsonl", unordered), *options)
        undefined = found["length_controlled_win_rate", None]
        assert (undefined["value"], undefined["ci_low"]) == (None, None), name
        assert "no index, and nothing shows that they are in AlpacaEval's order" in undefined["method"]
        assert found["win_rate", None]["n_scored"] == len(unordered)


def test_instructions_are_matched_where_the_difficulties_have_them(real_data: Path, tmp_path: Path, score: Any) -> None:
    folder = real_data / "alpaca_eval"
    with (folder / "instruction_difficulty.csv").open(encoding="utf-8", newline="") as stream:
        gammas = list(csv.DictReader(stream))
    named = tmp_path / "named.csv"
    with named.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["index", "instruction_difficulty", "instruction"])
        writer.writeheader()
        writer.writerows(row | {"instruction": f"instruction {row['index']}"} for row in gammas)
    rows = raw_annotations(folder)
    path = lines(tmp_path / "shuffled.jsonl", random.Random(0).sample(rows, len(rows)))
    found = score("alpaca_eval", path, "--difficulty", named, "--gamed", folder / "gamed_rows.csv")
    assert found["length_controlled_win_rate", None]["value"] == pytest.approx(5.8755, abs=0.15)


def test_an_unknown_index_is_an_error_that_names_its_row_once(tmp_path: Path, error_of: Any) -> None:
    gammas = tmp_path / "gammas.csv"
    gammas.write_text("index,instruction_difficulty\n0,1.0\n", encoding="utf-8")
    path = lines(tmp_path / "a.jsonl", [{"index": 7, "preference": 1.5}])
    message = error_of("alpaca_eval", path, "--difficulty", gammas)
    assert f"{path}:1 has no index that the difficulties know" in message
    assert message.count(str(path)) == 1


def test_the_win_rate_needs_no_lengths(tmp_path: Path, score: Any) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("row,preference\n" + "".join(f"{i},{1 + i % 4 / 4}\n" for i in range(60)), encoding="utf-8")
    found = score("alpaca_eval", path)
    assert found["win_rate", None]["value"] == pytest.approx(37.5)
    for metric in ("length_controlled_win_rate", "length_only_win_rate"):
        row = found[metric, None]
        assert (row["value"], row["n_scored"], row["n_unscored"]) == (None, 0, 60)
        assert "lengths of both answers" in row["method"]
    assert (found["avg_length", None]["value"], found["avg_length", None]["n_unscored"]) == (None, 60)


def test_null_outputs_leave_the_preference_scored(tmp_path: Path, score: Any) -> None:
    rows = [
        {"index": i, "preference": 1 + i % 2, "output_1": "x" * (50 + i % 7), "output_2": "y" * (40 + i % 11)}
        for i in range(63)
    ]
    for row in rows[:3]:
        row["output_2"] = None
    found = score("alpaca_eval", lines(tmp_path / "a.jsonl", rows))
    assert (found["win_rate", None]["n_scored"], found["win_rate", None]["n_unscored"]) == (63, 0)
    row = found["length_only_win_rate", None]
    assert (row["n_scored"], row["n_unscored"]) == (60, 3)
    assert (found["avg_length", None]["n_scored"], found["avg_length", None]["n_unscored"]) == (60, 3)


def test_both_spellings_of_the_lengths_are_read(tmp_path: Path, score: Any) -> None:
    body = "".join(f"{i},{1 + (i * 7 % 10) / 10},{100 + i % 13}.0,{90 + i % 17}\n" for i in range(60))
    found = []
    for head in ("row,preference,len_baseline,len_model", "row,preference,len(output_1),len(output_2)"):
        path = tmp_path / "a.csv"
        path.write_text(f"{head}\n{body}", encoding="utf-8")
        found.append(score("alpaca_eval", path))
    assert found[0] == found[1]
    assert found[0]["avg_length", None]["n_scored"] == 60


def test_records_of_the_schema_come_back_whole(tmp_path: Path, score: Any) -> None:
    """What a record says of itself is read: difficulty, the gamed rows, a baseline."""
    draw = random.Random(1)
    items = [
        AlpacaEvalItem(
            model="m",
            index=i,
            preference=1 + draw.random() * (0.3 + 0.5 * (i % 2)),
            len_baseline=draw.randint(50, 150),
            len_model=draw.randint(50, 150),
            difficulty=float(i % 2) - 0.5,
        )
        for i in range(60)
    ]
    items += [AlpacaEvalItem(preference=1.2, difficulty=0.1, tanh_length=(-1.0) ** i / 2, weight=0.3) for i in range(9)]
    found = score("alpaca_eval", lines(tmp_path / "a/b/r.jsonl", [item.model_dump() for item in items]))
    row = found["length_controlled_win_rate", None]
    assert row["value"] is not None
    assert "length and difficulty, 9 gamed rows" in row["method"]
    assert (row["model"], row["n_scored"]) == ("m", 60)
    base = lines(tmp_path / "a/b/base.jsonl", [items[0].model_dump() | {"is_baseline": True}])
    assert score("alpaca_eval", base)["length_controlled_win_rate", None]["value"] == 50.0


def test_one_half_by_a_penalty_says_so(real_data: Path, score: Any) -> None:
    """AlpacaEval's own fit gives 50.0 too: θ is 0 and no difficulty is there to differ by."""
    row = score("alpaca_eval", real_data / "alpaca_eval/v1_annotations/vicuna-13b.json")["length_only_win_rate", None]
    assert (row["value"], row["ci_low"]) == (50.0, None)
    assert "φ = -1.4672, θ = 0.0000" in row["method"]
    assert row["method"].endswith("θ was penalised to 0, which makes any rate one half: no interval")


def annotations(preferences: list[float]) -> list[dict[str, Any]]:
    return [
        {"index": i, "preference": value, "len_baseline": 100 + i % 7, "len_model": 90 + i % 11}
        for i, value in enumerate(preferences)
    ]


def test_nothing_to_fit_is_undefined_and_says_so(tmp_path: Path, score: Any) -> None:
    for preferences, reason in (
        ([1.5] * 60, "leaves no effect at all"),
        ([2.0] * 60, "no four fifths of the preferences hold both wins and losses"),
        ([2.0, 1.0] * 10, "undefined for 20 items without gamed rows, needs 50"),
    ):
        row = score("alpaca_eval", lines(tmp_path / "a.jsonl", annotations(preferences)))["length_only_win_rate", None]
        assert (row["value"], row["ci_low"]) == (None, None)
        assert reason in row["method"]
    alike = score("alpaca_eval", lines(tmp_path / "a.jsonl", annotations([1.8] * 60)))["length_only_win_rate", None]
    assert alike["value"] == pytest.approx(80, abs=3)
    assert (alike["ci_low"], alike["ci_high"]) == (None, None)
    assert "all preferences are equal: no interval" in alike["method"]
