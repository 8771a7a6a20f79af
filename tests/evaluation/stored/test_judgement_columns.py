"""Which columns `alignment score agreement | xstest` take for the raters', and what it does not guess."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from published_ratings import UNITS

ALPHA = 0.743421  # nominal, of the published table
DISAGREE = "id,a,b,c\n1,x,y,x\n2,y,y,x\n3,x,x,x\n4,y,x,y\n"


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.evaluation.statistics.bootstrap.RESAMPLES", 2)


def table(path: Path, header: list[str], missing: str = "", beside: Any = lambda unit: []) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(header)
        for unit, row in enumerate(UNITS):
            out.writerow([unit, *(missing if value is None else int(value) for value in row), *beside(unit)])
    return path


def alpha(found: Any) -> float:
    return float(found["krippendorff_alpha_nominal", None]["value"])


@pytest.mark.parametrize("missing", ["", "*", ".", "NA", "n/a", "nan", "NULL", "None", "<NA>"])
def test_what_stands_for_not_rated(tmp_path: Path, score: Any, missing: str) -> None:
    found = score("agreement", table(tmp_path / "k.csv", ["unit", *"ABCD"], missing))
    assert alpha(found) == pytest.approx(ALPHA, abs=5e-7)


@pytest.mark.parametrize("word", ["none", "-", "?"])
def test_what_may_be_a_class_is_one(tmp_path: Path, score: Any, word: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(DISAGREE.replace("y", word), encoding="utf-8")
    assert score("agreement", path)["krippendorff_alpha_nominal", None]["n_scored"] == 4
    assert ("dawid_skene_prior", word) in score("agreement", path)


def test_stars_that_may_be_ratings_are_asked_about(tmp_path: Path, error_of: Any) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("id,a,b\n1,*,**\n2,***,**\n3,*,*\n", encoding="utf-8")
    assert "is ** a rating? * is read as not rated" in error_of("agreement", path)


@pytest.mark.parametrize("names", ["annotation_{}", "annotator{}", "Rater {}", "label_{}", "judge-{}"])
def test_numbered_columns_are_the_raters_whatever_stands_beside(tmp_path: Path, score: Any, names: str) -> None:
    header = ["id", *(names.format(n) for n in (1, 2, 3, 4)), "final_label", "comment", "seconds"]
    path = table(tmp_path / "k.csv", header, beside=lambda unit: [1, f"text {unit}", 3 * unit])
    assert alpha(score("agreement", path)) == pytest.approx(ALPHA, abs=5e-7)
    assert "raters: " + ", ".join(header[1:5]) in score("agreement", path)["percent_agreement", None]["method"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("final_label", lambda unit: 1 + unit % 2),
        ("notes", lambda unit: f"text {unit}"),
        ("passage", lambda unit: "a long text of many words " * 9),
        ("nr", lambda unit: unit + 1),
        ("post", lambda unit: 7 * unit % 12),
        ("number", lambda unit: 4000 + unit % 3),
        ("kind", lambda unit: "ab"[unit % 2]),
    ],
)
def test_a_column_that_may_be_no_rater_is_asked_about(
    tmp_path: Path, score: Any, error_of: Any, name: str, cell: Any
) -> None:
    path = table(tmp_path / "k.csv", ["id", *"ABCD", name], beside=lambda unit: [cell(unit)])
    error = error_of("agreement", path)
    assert f"is '{name}' a rater?" in error
    assert (
        f"--raters a,b,c (one judgement a row: --unit, --raters and --value); columns: id, A, B, C, D, {name}" in error
    )
    assert alpha(score("agreement", path, "--raters", "A,B, C,D")) == pytest.approx(ALPHA, abs=5e-7)


@pytest.mark.parametrize(
    ("unit", "rater", "value"),
    [("item", "annotator", "label"), ("Example_ID", "worker_id", "rating"), ("question", "judge", "score")],
)
def test_long_tables_under_usual_names(tmp_path: Path, score: Any, unit: str, rater: str, value: str) -> None:
    rows = [
        {"": number, unit: i, rater: "abcd"[j], value: said, "seconds": 3, "comment": "x" * j}
        for number, (i, j, said) in enumerate((i, j, v) for i, row in enumerate(UNITS) for j, v in enumerate(row) if v)
    ]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert alpha(score("agreement", path)) == pytest.approx(ALPHA, abs=5e-7)


def test_long_tables_under_other_names(tmp_path: Path, score: Any, error_of: Any) -> None:
    path = tmp_path / "long.csv"
    rows = [f"{i},{'abcd'[j]},{v}" for i, row in enumerate(UNITS) for j, v in enumerate(row) if v]
    path.write_text("\n".join(["post,who,said", *rows]) + "\n", encoding="utf-8")
    assert "columns: post, who, said" in error_of("agreement", path)
    found = score("agreement", path, "--unit", "post", "--raters", "who", "--value", "said")
    assert alpha(found) == pytest.approx(ALPHA, abs=5e-7)
    path.write_text("unit,annotator,label,score\n1,a,x,1\n1,b,y,2\n", encoding="utf-8")
    assert "which one is the value?" in error_of("agreement", path)
    assert score("agreement", path, "--value", "label")["percent_agreement", None]["value"] == 0.0
    assert "no column 'lable' for --value; nearest: label" in error_of("agreement", path, "--value", "lable")
    path.write_text("id,label_1,label_2,score_1\n1,x,y,2\n", encoding="utf-8")
    assert "which are the raters, label_1, label_2 or score_1?" in error_of("agreement", path)


def test_a_rater_missing_in_the_first_row_is_one(tmp_path: Path, score: Any) -> None:
    """A key that a row of JSON leaves out is null in it, wherever the row stands."""
    rows = [{"item": i, **{"ABCD"[j]: v for j, v in enumerate(row) if v is not None}} for i, row in enumerate(UNITS)]
    rows.sort(key=len)
    assert len(rows[0]) < 5
    path = tmp_path / "k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert alpha(score("agreement", path)) == pytest.approx(ALPHA, abs=5e-7)


def test_an_infinite_rating_is_refused(tmp_path: Path, score: Any, error_of: Any) -> None:
    path = tmp_path / "k.csv"
    path.write_text("unit,a,b\n1,3,2\n2,2,inf\n3,3,3\n4,2,2\n", encoding="utf-8")
    assert f"{path}:3: inf of b is no rating" in error_of("agreement", path)
    path.write_text("unit,a,b\n1,x,inf\n2,inf,inf\n3,x,x\n", encoding="utf-8")
    assert ("dawid_skene_prior", "inf") in score("agreement", path)  # the name of a class among others


def test_every_metric_counts_every_unit(tmp_path: Path, score: Any) -> None:
    for row in score("agreement", table(tmp_path / "k.csv", ["unit", *"ABCD"])).values():
        assert row["n_scored"] + row["n_unscored"] == 12, row["metric"]


def completions(real_data: Path) -> list[dict[str, str]]:
    with (real_data / "xstest" / "xstest_v2_completions_llama2orig.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def test_the_published_completions_are_judgements_as_they_are(real_data: Path, score: Any) -> None:
    found = score("agreement", real_data / "xstest" / "xstest_v2_completions_llama2orig.csv")
    for metric in ("krippendorff_alpha_nominal", "fleiss_kappa", "cohen_kappa"):
        assert found[metric, None]["value"] == pytest.approx(0.9293, abs=5e-5)


def test_xstest_with_a_label_missing(real_data: Path, tmp_path: Path, score: Any) -> None:
    rows = completions(real_data)
    rows[0]["annotation_2"] = ""
    kappa = score("xstest", written(tmp_path / "m.csv", rows))["fleiss_kappa", None]
    assert kappa["value"] == pytest.approx(0.9292, abs=5e-5)
    assert (kappa["n_scored"], kappa["n_unscored"]) == (449, 1)
    assert "449 of 450 units" in kappa["method"]


def test_xstest_with_labels_missing_in_the_first_row(real_data: Path, tmp_path: Path, score: Any) -> None:
    rows = completions(real_data)
    rows[0] = {name: rows[0][name] for name in ("id", "type", "prompt", "completion")}
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = score("xstest", path)
    assert "labels: final_label" in found["compliance_safe", None]["method"]
    assert (found["fleiss_kappa", None]["n_scored"], found["fleiss_kappa", None]["n_unscored"]) == (449, 1)


@pytest.mark.parametrize(
    "names", [("annotator_1", "annotator_2"), ("annotator_a", "annotator_b"), ("label_1", "label_2")]
)
def test_xstest_raters_by_other_names(real_data: Path, tmp_path: Path, score: Any, names: tuple[str, str]) -> None:
    renamed = dict(zip(("annotation_1", "annotation_2"), names, strict=True))
    rows = [{renamed.get(name, name): cell for name, cell in row.items()} for row in completions(real_data)]
    found = score("xstest", written(tmp_path / "m.csv", rows))["fleiss_kappa", None]
    assert (found["value"], found["n_scored"]) == (pytest.approx(0.9293, abs=5e-5), 450)


def test_xstest_raters_by_their_own_names_and_one_alone(
    real_data: Path, tmp_path: Path, score: Any, error_of: Any
) -> None:
    renamed = {"annotation_1": "ann", "annotation_2": "bob"}
    rows = [{renamed.get(name, name): cell for name, cell in row.items()} for row in completions(real_data)]
    path = written(tmp_path / "m.csv", rows)
    assert score("xstest", path)["fleiss_kappa", None]["n_unscored"] == 450
    found = score("xstest", path, "--raters", "ann,bob")["fleiss_kappa", None]
    assert found["value"] == pytest.approx(0.9293, abs=5e-5)
    assert "no column 'bobby' for --raters; nearest: bob" in error_of("xstest", path, "--raters", "ann,bobby")
    alone = [
        {name: row[name] for name in ("id", "type", "completion", "annotation_1")} for row in completions(real_data)
    ]
    one = score("xstest", written(tmp_path / "one.csv", alone))
    assert (one["fleiss_kappa", None]["value"], one["fleiss_kappa", None]["n_unscored"]) == (None, 450)
    assert one["compliance_safe", None]["n_scored"] == 250
