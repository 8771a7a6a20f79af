"""`alignment score xstest | gsm8k | forgetting | perplexity | truthfulqa`."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from alignment.cli import main
from alignment.evaluation.stored.xstest import parse_label


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_xstest_figures_of_the_paper(real_data: Path, score: Any) -> None:
    published = json.loads((real_data / "ground_truth.json").read_text())["xstest_llama2orig_safe_prompts"]
    found = score("xstest", real_data / "xstest" / "xstest_v2_completions_llama2orig.csv")
    shares = [found[f"{name}_safe", None]["value"] for name in ("compliance", "full_refusal", "partial_refusal")]
    assert shares == pytest.approx(published["human_comply_refuse_partial"], abs=0.05)
    assert found["fleiss_kappa", None]["value"] == pytest.approx(published["fleiss_kappa"], abs=5e-5)
    assert found["compliance_safe", None]["n_scored"] == 250
    assert found["compliance_unsafe", None]["n_scored"] == 200
    assert found["full_refusal_unsafe", None]["value"] == 99.5
    assert found["compliance_safe", "homonyms"]["n_scored"] == 25


def test_xstest_any_column_and_the_rules(real_data: Path, score: Any, error_of: Any) -> None:
    path = real_data / "xstest" / "xstest_v2_completions_llama2orig.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        safe = [row for row in csv.DictReader(stream) if not row["type"].startswith("contrast")]
    first = score("xstest", path, "--prediction", "annotation_1")["full_refusal_safe", None]
    assert first["value"] == pytest.approx(100 * sum(r["annotation_1"] == "2_full_refusal" for r in safe) / 250)
    rules = score("xstest", path, "--prediction", "rules")["full_refusal_safe", None]
    assert "labels: rules" in rules["method"]
    assert rules["value"] == pytest.approx(38.0, abs=15)
    assert "no column 'anotation_1'; nearest: annotation_1" in error_of("xstest", path, "--prediction", "anotation_1")
    free = score("xstest", path, "--prediction", "prompt")["full_refusal_safe", None]
    assert (free["value"], free["n_unscored"]) == (None, 250)  # free text is no label


def test_xstest_says_what_is_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,type,judge\n1,a,full_refusal\n2,a,It refuses.\n3,a,2_full_compliance\n4,a,\n")
    monkeypatch.setattr("sys.argv", ["alignment", "score", "xstest", str(path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None)
    assert capsys.readouterr().err == f"{path}: 2 labels of judge were not read, e.g. 'It refuses.'\n"


def test_xstest_without_labels_or_with_too_many(tmp_path: Path, score: Any, error_of: Any) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,type,completion\n1,homonyms,I cannot help with that.\n2,contrast_homonyms,Sure.\n")
    found = score("xstest", path)
    assert found["full_refusal_safe", None]["value"] == 100.0
    assert found["compliance_unsafe", None]["value"] == 100.0
    assert found["fleiss_kappa", None]["value"] is None
    path.write_text("id,type,a,b\n1,homonyms,full_refusal,2_full_refusal\n")
    assert "several columns hold labels (a, b)" in error_of("xstest", path)
    path.write_text("id,type,final_label\n")
    assert score("xstest", path)["compliance_safe", None]["value"] is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1_full_compliance", "full_compliance"),
        (" 2_full_refusal ", "full_refusal"),
        ("Partial_Refusal", "partial_refusal"),
        ("2_full_compliance", None),
        ("The answer is a 2_full_refusal.", None),
        ("full refusal", None),
        ("", None),
        (None, None),
    ],
)
def test_labels_are_parsed_strictly(text: str | None, label: str | None) -> None:
    assert parse_label(text) == label


def test_gsm8k(tmp_path: Path, score: Any, error_of: Any) -> None:
    rows = [
        {"question": "q", "answer": "1+1\n#### 1,000", "solution": "so $1000.00"},
        {"question": "q", "answer": "#### -3", "solution": "#### 3"},
        {"question": "q", "answer": "#### 5", "solution": "no idea"},
        {"question": "q", "answer": "#### 5", "solution": None},
    ]
    found = score("gsm8k", lines(tmp_path / "m.jsonl", rows))
    assert found["accuracy", None]["value"] == pytest.approx(100 / 3)
    assert (found["accuracy", None]["n_scored"], found["accuracy", None]["n_unscored"]) == (3, 1)
    assert found["no_number", None]["value"] == pytest.approx(100 / 3)
    # the form of the authors' example_model_solutions.jsonl
    models = {"6b": {"is_correct": True, "solution": "A: 7"}, "175b": {"is_correct": False, "solution": "A: 8"}}
    nested = lines(tmp_path / "nested.jsonl", [{"question": "q", "ground_truth": "3+4\nA: 7", **models}])
    assert score("gsm8k", nested, "--prediction", "6b")["accuracy", None]["value"] == 100.0
    assert score("gsm8k", nested, "--prediction", "175b")["accuracy", None]["value"] == 0.0
    assert score("gsm8k", lines(tmp_path / "none.jsonl", []))["accuracy", None]["value"] is None
    assert "none of the columns" in error_of("gsm8k", lines(tmp_path / "x.jsonl", [{"answer": "1"}]))


def test_gsm8k_numbers_are_answers(tmp_path: Path, score: Any, error_of: Any) -> None:
    pairs = [(18, 18), (18, 18.0), ("#### 18", 17), (10**16, 1e16), (5, float("nan")), (5, True)]
    rows = [{"answer": gold, "prediction": said} for gold, said in pairs]
    found = score("gsm8k", lines(tmp_path / "m.jsonl", rows))["accuracy", None]
    assert (found["value"], found["n_scored"], found["n_unscored"]) == (75.0, 4, 2)
    path = lines(tmp_path / "flags.jsonl", [{"answer": "1", "prediction": True}] * 2)
    assert f"none of the 2 rows is an item: {path}:1: solution: " in error_of("gsm8k", path)


def test_gsm8k_a_model_missing_in_the_first_row_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row: dict[str, Any] = {"question": "q", "ground_truth": "#### 3", "m": {"solution": "3"}}
    path = lines(tmp_path / "m.jsonl", [row, row | {"n": {"solution": "4"}}])
    monkeypatch.setattr("sys.argv", ["alignment", "score", "gsm8k", str(path), "--json"])
    with pytest.raises(SystemExit):
        main()
    found = [row for row in json.loads(capsys.readouterr().out) if row["metric"] == "accuracy"]
    told = [(row["model"], row["value"], row["n_scored"], row["n_unscored"]) for row in found]
    assert told == [("m", 100.0, 2, 0), ("n", 0.0, 1, 1)]


def test_gsm8k_the_named_column_is_no_gold(tmp_path: Path, score: Any, error_of: Any) -> None:
    path = lines(tmp_path / "m.jsonl", [{"gold": "18", "answer": "so 18"}, {"gold": "18", "answer": "so 7"}])
    assert score("gsm8k", path, "--prediction", "answer")["accuracy", None]["value"] == 50.0
    alone = lines(tmp_path / "alone.jsonl", [{"answer": "so 18"}])
    assert "is there for the right answers" in error_of("gsm8k", alone, "--prediction", "answer")


def test_gsm8k_gold_solves_itself(real_data: Path, tmp_path: Path, score: Any) -> None:
    text = (real_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:500]
    rows = [{"gold": row["answer"], "solution": row["answer"]} for row in map(json.loads, text)]
    assert score("gsm8k", lines(tmp_path / "gold.jsonl", rows))["accuracy", None]["value"] == 100.0


MATRIX = {"tasks": ["a", "b", "c"], "baseline": [10, 20, 30], "matrix": [[80, 30, 20], [84, 90, 25], [60, 85, 95]]}


def test_forgetting(tmp_path: Path, score: Any, error_of: Any) -> None:
    path = tmp_path / "matrix.json"

    def of(**changes: Any) -> Path:
        path.write_text(json.dumps(MATRIX | changes), encoding="utf-8")
        return path

    found = score("forgetting", of())
    values = {metric: found[metric, None]["value"] for metric in ("acc", "bwt", "fwt", "forgetting")}
    assert values == {"acc": 80.0, "bwt": -12.5, "fwt": 2.5, "forgetting": 14.5}
    assert found["alignment_tax", "a"]["value"] == -50.0
    alone = score("forgetting", of(baseline=None))
    assert alone["fwt", None]["value"] is None
    assert alone["alignment_tax", "a"]["value"] == 20.0
    triangle = score("forgetting", of(matrix=[[80, None, None], [84, 90, None], [60, 85, 95]]))
    values = {metric: triangle[metric, None]["value"] for metric in ("acc", "bwt", "fwt", "forgetting")}
    assert values == {"acc": 80.0, "bwt": -12.5, "fwt": None, "forgetting": 14.5}
    assert "from a task's own on, as scores before it are missing" in triangle["forgetting", None]["method"]
    assert "of a task before its training is missing" in triangle["fwt", None]["method"]
    assert "task's own" not in found["forgetting", None]["method"]
    holed = score("forgetting", of(matrix=[[80, None, None], [None, 90, None], [60, 85, 95]]))
    assert (holed["forgetting", None]["value"], holed["fwt", None]["value"]) == (None, None)
    assert "square: 3 rows, but row 1 has 1 scores; null is one that was not measured" in error_of(
        "forgetting", of(matrix=[[80], [84, 90], [60, 85, 95]])
    )
    one = score("forgetting", of(tasks=["a"], baseline=[1], matrix=[[2]]))
    assert (one["acc", None]["value"], one["bwt", None]["value"]) == (2.0, None)
    assert score("forgetting", of(tasks=[], baseline=[], matrix=[]))["acc", None]["value"] is None
    assert "must be square" in error_of("forgetting", of(matrix=[[1, 2, 3]]))
    assert "not finite" in error_of("forgetting", of(baseline=[1, 2, float("nan")]))
    assert "one different name" in error_of("forgetting", of(tasks=["a", "a", "b"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basline": [1, 2, 3]}, "unknown key 'basline'; nearest: baseline"),
        ({"untrained": [1, 2, 3]}, "unknown key 'untrained'; known: tasks, matrix, baseline, model"),
        ({"matrix": [[True, 1, 1], [1, 1, 1], [1, 1, 1]]}, "matrix: Value error, a score is a number or null"),
        ({"baseline": [1, False, 3]}, "baseline: Value error, a score is a number or null"),
        ({"matrix": [[1, 2, 3]] * 4}, "4 rows for 3 tasks; a row of the untrained model is no row of the matrix"),
    ],
)
def test_forgetting_guesses_nothing(tmp_path: Path, error_of: Any, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps(MATRIX | changes), encoding="utf-8")
    assert f"{path}: " in (error := error_of("forgetting", path))
    assert message in error


def test_perplexity(tmp_path: Path, score: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "logprob": -20.0, "words": 4, "bytes": 20, "tokens": 8},
        {"id": 2, "logprob": -10.0, "words": 2, "bytes": 12, "tokens": 4},
    ]
    found = score("perplexity", lines(tmp_path / "m.jsonl", [*rows, {"id": 3, "logprob": None, "bytes": 3}]))
    assert found["word_perplexity", None]["value"] == pytest.approx(math.exp(5))
    assert found["token_perplexity", None]["value"] == pytest.approx(math.exp(2.5))
    assert found["bits_per_byte", None]["value"] == pytest.approx(30 / 32 / math.log(2))
    assert found["bits_per_byte", None]["n_unscored"] == 1
    some = score("perplexity", lines(tmp_path / "some.jsonl", [rows[0], {"id": 2, "logprob": -1.0, "bytes": 4}]))
    assert some["word_perplexity", None]["value"] == pytest.approx(math.exp(5))  # of the document with words
    assert [some["word_perplexity", None][n] for n in ("n_scored", "n_unscored")] == [1, 1]
    assert some["bits_per_byte", None]["value"] == pytest.approx(21 / 24 / math.log(2))
    assert [some["bits_per_byte", None][n] for n in ("n_scored", "n_unscored")] == [2, 0]
    bare = score("perplexity", lines(tmp_path / "bare.jsonl", [{"id": 1, "logprob": -1.0, "bytes": 4}]))
    assert bare["word_perplexity", None]["method"] == "undefined: no document has a count of words"
    assert [bare["word_perplexity", None][n] for n in ("n_scored", "n_unscored")] == [0, 1]
    swapped = [{"id": 1, "logprob": -2.0, "words": 20, "bytes": 4}, {"id": 3, "logprob": 3.0, "bytes": 4}, rows[1]]
    scored = score("perplexity", lines(tmp_path / "swapped.jsonl", swapped))["bits_per_byte", None]
    assert (scored["n_scored"], scored["n_unscored"]) == (1, 1)  # the one with 20 words in 4 bytes is no document
    assert score("perplexity", lines(tmp_path / "none.jsonl", []))["bits_per_byte", None]["value"] is None


def test_perplexity_of_a_document_without_words(tmp_path: Path, score: Any) -> None:
    """Σ log p / Σ words has the log-likelihood of an empty paragraph too."""
    sizes = [(-10.0, 0, 300), (-500.0, 100, 600), (-400.0, 90, 500)]
    rows = [{"id": i, "logprob": said, "words": words, "bytes": n} for i, (said, words, n) in enumerate(sizes)]
    found = score("perplexity", lines(tmp_path / "m.jsonl", rows))
    words = found["word_perplexity", None]
    assert words["value"] == pytest.approx(math.exp(910 / 190))
    assert (words["n_scored"], words["n_unscored"], words["ci_low"]) == (3, 0, None)
    assert "too few items for an interval" in words["method"]  # a resample of that document alone
    assert found["bits_per_byte", None]["value"] == pytest.approx(910 / 1400 / math.log(2))
    assert found["bits_per_byte", None]["ci_low"] is not None
    none = score("perplexity", lines(tmp_path / "none.jsonl", rows[:1]))["word_perplexity", None]
    assert (none["value"], none["method"]) == (None, "undefined: every count is 0")


def test_perplexity_without_logprobs(tmp_path: Path, score: Any, error_of: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "words": 3, "bytes": 12},
        {"id": 2, "logprob": -12.0, "words": 4, "bytes": 12},
    ]
    found = score("perplexity", lines(tmp_path / "m.jsonl", rows))
    assert found["word_perplexity", None]["value"] == pytest.approx(math.exp(3))
    assert (found["word_perplexity", None]["n_scored"], found["word_perplexity", None]["n_unscored"]) == (1, 1)
    none = lines(tmp_path / "none.jsonl", [{"id": 1, "logprobs": -3.0, "words": 3}])
    assert "no column 'logprob'; nearest: logprobs" in error_of("perplexity", none)
    nothing = score("perplexity", lines(tmp_path / "empty.jsonl", []))
    assert {row["method"] for row in nothing.values()} == {"no data"}


def test_truthfulqa(tmp_path: Path, score: Any, error_of: Any) -> None:
    log = math.log
    rows = [
        {"id": 1, "category": "Law", "true": [log(0.3), log(0.1)], "false": [log(0.4)]},
        {"id": 2, "category": "Law", "true": [log(0.6)], "false": [log(0.2)]},
        {"id": 3, "category": "Myth", "true": [float("nan")], "false": [-1.0]},
    ]
    found = score("truthfulqa", lines(tmp_path / "m.jsonl", rows))
    assert found["mc1", None]["value"] == 50.0
    assert found["mc2", None]["value"] == pytest.approx(100 * (0.5 + 0.75) / 2)
    assert found["mc2", None]["n_unscored"] == 1
    assert found["mc2", "Myth"]["value"] is None
    assert score("truthfulqa", lines(tmp_path / "none.jsonl", []))["mc1", None]["value"] is None
    path = tmp_path / "m.jsonl"
    assert f"{path} is given twice; give every file once" in error_of("truthfulqa", path, path)
    other = tmp_path / "other" / "m.jsonl"
    other.parent.mkdir()
    lines(other, rows)
    assert f"{other} and {path} would both be called m; rename one" in error_of("truthfulqa", path, other)
    twin = lines(tmp_path / "twin.jsonl", [*rows, rows[1]])
    assert f"{twin}:4 and {twin}:2 are both id 2; remove one" in error_of("truthfulqa", twin)
    shares = lines(tmp_path / "p.jsonl", [{"id": 1, "true": [0.5], "false": [0.2]}])
    assert f"{shares}:1: Value error, a log-likelihood is above 0" in error_of("truthfulqa", shares)
