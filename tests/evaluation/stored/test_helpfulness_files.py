"""`alignment score alpaca_eval | arena | agreement` on the published files and on small ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from anaesthetists import PATIENTS


def truth(real_data: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((real_data / "ground_truth.json").read_text(encoding="utf-8"))
    return figures


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("model", ["alpaca-7b", "vicuna-7b", "gpt-3.5-turbo-1106"])
def test_alpaca_eval_leaderboard(real_data: Path, score: Any, model: str) -> None:
    folder = real_data / "alpaca_eval"
    found = score("alpaca_eval", folder / "v2_compact" / f"{model}.csv")
    with (folder / "leaderboard.csv").open(encoding="utf-8") as stream:
        published = next(row for row in csv.DictReader(stream) if row[""] == model)
    for metric, column in (
        ("win_rate", "win_rate"),
        ("discrete_win_rate", "discrete_win_rate"),
        ("win_rate_standard_error", "standard_error"),
        ("avg_length", "avg_length"),
    ):
        assert found[metric, None]["value"] == pytest.approx(float(published[column]), abs=2e-6), metric
    figures = truth(real_data)["alpaca_eval_2"]
    controlled = found["length_controlled_win_rate", None]
    assert controlled["value"] == pytest.approx(figures["length_controlled_win_rate"][model], abs=0.15)
    assert controlled["ci_low"] < controlled["value"] < controlled["ci_high"]
    assert "length and difficulty, 1610 gamed rows" in controlled["method"]
    without = found["length_controlled_win_rate_without_gamed", None]
    assert "no gamed rows" in without["method"]
    assert abs(without["value"] - controlled["value"]) < 1.5
    assert "length alone" in found["length_only_win_rate", None]["method"]
    assert found["win_rate", "koala"]["n_scored"] == 156
    if model == "alpaca-7b":
        assert found["win_rate", None]["value"] == pytest.approx(figures["win_rate"][model], abs=1e-8)


def test_alpaca_eval_files_can_be_named(real_data: Path, tmp_path: Path, score: Any, error_of: Any) -> None:
    folder = real_data / "alpaca_eval"
    alone = tmp_path / "deep" / "alone.csv"
    alone.parent.mkdir()
    alone.write_bytes((folder / "v2_compact" / "alpaca-7b.csv").read_bytes())
    undefined = score("alpaca_eval", alone)["length_controlled_win_rate", None]
    assert undefined["value"] is None
    assert "--difficulty" in undefined["method"]
    named = ("--difficulty", folder / "instruction_difficulty.csv")
    plain = score("alpaca_eval", alone, *named)
    assert "no gamed rows" in plain["length_controlled_win_rate", None]["method"]
    whole = score("alpaca_eval", alone, *named, "--gamed", folder / "gamed_rows.csv")
    assert whole["length_controlled_win_rate", None]["value"] == pytest.approx(5.8755, abs=0.15)
    assert "needs --difficulty" in error_of("alpaca_eval", alone, "--gamed", folder / "gamed_rows.csv")


def test_alpaca_eval_annotations(real_data: Path, score: Any) -> None:
    path = real_data / "alpaca_eval" / "v1_annotations" / "claude-2.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    scored = [row["preference"] for row in rows if row["preference"] is not None]
    found = score("alpaca_eval", path)["win_rate", None]
    assert found["model"] == "claude-2"
    expected = sum({0: 0.5, 1.5: 0.5, 1: 0.0, 2: 1.0}[value] for value in scored) / len(scored)
    assert found["value"] == pytest.approx(100 * expected)
    assert found["n_unscored"] == len(rows) - len(scored)


def annotation(index: int, preference: Any, **more: Any) -> dict[str, Any]:
    texts = {"output_1": "x" * 10, "output_2": "y" * (index + 1)}
    return {"index": index, "preference": preference, "generator_1": "base", "generator_2": "m", **texts, **more}


def test_alpaca_eval_ties_and_unscored(tmp_path: Path, score: Any, error_of: Any) -> None:
    rows = [annotation(i, value) for i, value in enumerate([0, 1.5, 2, 1, None, float("nan")])]
    found = score("alpaca_eval", lines(tmp_path / "a.jsonl", rows))
    assert found["win_rate", None]["value"] == 50.0
    assert found["discrete_win_rate", None]["value"] == 50.0
    assert (found["win_rate", None]["n_scored"], found["win_rate", None]["n_unscored"]) == (4, 2)
    assert found["avg_length", None]["value"] == 3.0  # 3.5, truncated
    same = score("alpaca_eval", lines(tmp_path / "b.jsonl", [annotation(0, 1.5, generator_2="base")]))
    assert same["length_controlled_win_rate", None]["value"] == 50.0
    assert score("alpaca_eval", lines(tmp_path / "c.jsonl", []))["win_rate", None]["value"] is None
    one = score("alpaca_eval", lines(tmp_path / "d.jsonl", [annotation(0, 2)]))
    assert one["win_rate", None]["value"] == 100.0
    assert one["win_rate_standard_error", None]["value"] is None
    assert one["length_only_win_rate", None]["value"] is None
    twice = lines(tmp_path / "e.jsonl", [annotation(0, 2), annotation(0, 1)])
    assert f"{twice}:2 and {twice}:1 are both index 0; remove one" in error_of("alpaca_eval", twice)


def test_arena(tmp_path: Path, score: Any, error_of: Any) -> None:
    def battle(winner: Any, prompt: int, **more: Any) -> dict[str, Any]:
        return {"model_a": "m", "model_b": "n", "winner": winner, "question_id": prompt, **more}

    rows = [battle("model_a", i) for i in range(30)] + [battle("n", i) for i in range(10)]
    found = score("arena", lines(tmp_path / "battles.jsonl", [*rows, battle("?", 1), battle(None, 2)]))
    # Two models come as two rows of one metric; the fixture keeps the last, the weaker one.
    assert found["elo", None]["model"] == "n"
    assert found["elo", None]["value"] == pytest.approx(1000 - 200 * 0.4771212547)  # log10 of odds of 3
    assert found["elo", None]["n_unscored"] == 2
    assert found["tie_rate", None]["value"] == 0.0
    assert found["davidson_nu", None]["value"] == 0.0
    ties = score("arena", lines(tmp_path / "ties.jsonl", [battle("tie (bothbad)", i) for i in range(4)]))
    assert ties["elo", None]["value"] == pytest.approx(1000)
    assert ties["tie_rate", None]["value"] == 100.0
    assert ties["davidson_nu", None]["value"] is None
    assert score("arena", lines(tmp_path / "none.jsonl", []))["tie_rate", None]["value"] is None
    path = tmp_path / "battles.jsonl"
    assert f"{path} is given twice; give every file once" in error_of("arena", path, path)


ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_arena_with_a_column_per_outcome(tmp_path: Path, score: Any, error_of: Any, suffix: str) -> None:
    """The layout of the battles that LMSYS published says the same as a column `winner`."""
    pair = {"model_a": "m", "model_b": "n"}
    outcomes = [0, 0, 0, 1, 2, 0, 1]
    rows = [pair | {name: int(i == outcome) for i, name in enumerate(ONE_HOT)} for outcome in outcomes]

    def written(name: str, rows: list[dict[str, Any]]) -> Path:
        if suffix == "jsonl":
            return lines(tmp_path / f"{name}.jsonl", rows)
        path = tmp_path / f"{name}.csv"
        cells = [",".join(str(cell) for cell in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *cells]) + "\n", encoding="utf-8")
        return path

    named = [pair | {"winner": ("model_a", "model_b", "tie")[outcome]} for outcome in outcomes]
    hot, plain = score("arena", written("hot", rows)), score("arena", written("plain", named))
    assert hot == plain
    assert hot["tie_rate", None]["n_scored"] == 7
    two = written("two", [*rows, rows[0] | {"winner_tie": 1}])
    assert "winner_model_a 1, winner_model_b 0, winner_tie 1; one of the three is 1" in error_of("arena", two)


def test_answers_that_are_not_there_are_an_error(tmp_path: Path, error_of: Any) -> None:
    pair = {"model_a": "m", "model_b": "n"}
    path = lines(tmp_path / "b.jsonl", [pair] * 3)
    assert f"{path}: no column 'winner'" in error_of("arena", path)
    path = lines(tmp_path / "b.jsonl", [pair | {"winner": 1}] * 3)
    assert f"none of the 3 rows is an item: {path}:1: winner: " in error_of("arena", path)
    path = lines(tmp_path / "b.jsonl", [pair | {"winner": ""}, pair | {"winner": "1"}])
    assert f"{path}:2: winner '1' is neither model_a" in error_of("arena", path)
    path = lines(tmp_path / "a.jsonl", [{"row": i, "pref": 1} for i in range(3)])
    assert f"{path}: no column 'preference'; nearest: pref" in error_of("alpaca_eval", path)
    path = lines(tmp_path / "a.jsonl", [annotation(i, 3) for i in range(3)])
    assert f"none of the 3 rows is an item: {path}:1: preference: " in error_of("alpaca_eval", path)


WIDE = """unit,ann,bob,cyd
1,3,3,2
2,3,6,1
3,4,4,NA
4,2,2,2
"""


def test_agreement_long_and_wide_are_one(tmp_path: Path, score: Any, error_of: Any) -> None:
    wide = tmp_path / "judgements.csv"
    wide.write_text(WIDE, encoding="utf-8")
    found = score("agreement", wide)
    rows = list(csv.DictReader(WIDE.splitlines()))
    long = [{"unit": r["unit"], "rater": name, "value": r[name]} for r in rows for name in ("ann", "bob", "cyd")]
    again = score("agreement", lines(tmp_path / "long.jsonl", long[::-1]))
    expected = {
        "krippendorff_alpha_nominal",
        "krippendorff_alpha_ordinal",
        "krippendorff_alpha_interval",
        "krippendorff_alpha_ratio",
        "fleiss_kappa",
        "kendall_w",
        "percent_agreement",
        "dawid_skene_prior",
        "dawid_skene_prior_5_steps",
    }
    assert {metric for metric, _ in found} == expected
    for key, row in found.items():
        assert again[key]["value"] == pytest.approx(row["value"]), key
    for metric in ("fleiss_kappa", "kendall_w"):  # the third unit has two ratings
        assert (found[metric, None]["n_scored"], found[metric, None]["n_unscored"]) == (3, 1)
    assert found["percent_agreement", None]["value"] == pytest.approx(100 * (1 / 3 + 0 + 1 + 1) / 4)
    twice = lines(tmp_path / "twice.jsonl", [long[0], long[0]])
    assert f"{twice}:2 and {twice}:1 are both unit 1, rater ann; remove one" in error_of("agreement", twice)
    half = tmp_path / "half.csv"
    half.write_text("unit,rater\n1,ann\n", encoding="utf-8")
    assert "unit, rater and value; which one is the value?" in error_of("agreement", half)


def test_agreement_with_a_rater_who_rates_again(tmp_path: Path, score: Any, error_of: Any) -> None:
    """Dawid & Skene's anaesthetists: the first of them rated every patient three times."""
    rounds = [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (3, 1), (4, 1)]
    rows = [
        {"unit": i, "rater": f"r{rater}", "round": again, "value": int(said)}
        for i, row in enumerate(PATIENTS.split())
        for (rater, again), said in zip(rounds, row, strict=True)
    ]
    found = score("agreement", lines(tmp_path / "long.jsonl", rows))
    priors = [found["dawid_skene_prior", label]["value"] for label in "1234"]
    assert priors == pytest.approx([0.3996, 0.4220, 0.1118, 0.0667], abs=5e-5)
    assert found["krippendorff_alpha_nominal", None]["n_scored"] == 45
    again = error_of("agreement", lines(tmp_path / "twice.jsonl", [rows[0], rows[0]]))
    assert "are both unit 0, rater r0, round 1; remove one" in again


def test_agreement_of_two_and_of_one(tmp_path: Path, score: Any) -> None:
    path = tmp_path / "two.csv"
    path.write_text("a,b\nyes,yes\nno,no\nyes,no\nno,no\n", encoding="utf-8")
    found = score("agreement", path)
    assert found["cohen_kappa", None]["value"] == pytest.approx(0.5)
    assert found["krippendorff_alpha_interval", None]["value"] is None
    path.write_text("a\nyes\nno\n", encoding="utf-8")
    assert all(row["value"] is None for row in score("agreement", path).values())
    path.write_text("a,b\nyes,yes\nyes,yes\n", encoding="utf-8")
    same = score("agreement", path)
    assert same["krippendorff_alpha_nominal", None]["value"] is None
    assert same["percent_agreement", None]["value"] == 100.0
    path.write_text("a,b\n", encoding="utf-8")
    assert all(row["value"] is None for row in score("agreement", path).values())


def test_agreement_of_the_published_raters(real_data: Path, tmp_path: Path, score: Any) -> None:
    """XSTest's two raters as a table of judgements: the same kappa by another road."""
    with (real_data / "xstest" / "xstest_v2_completions_llama2orig.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    path = tmp_path / "xstest.csv"
    cells = [f"{row['id']},{row['annotation_1']},{row['annotation_2']}" for row in rows]
    path.write_text("\n".join(["unit,one,two", *cells]) + "\n", encoding="utf-8")
    kappa = truth(real_data)["xstest_llama2orig_safe_prompts"]["fleiss_kappa"]
    assert score("agreement", path)["fleiss_kappa", None]["value"] == pytest.approx(kappa, abs=5e-5)
