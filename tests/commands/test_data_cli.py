"""`alignment data`: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from alignment.commands.data import data_app
from alignment.errors import DataError, StorageError
from alignment.preferences.record import json_schema
from alignment.preferences.store import read_records

GOOD = {"prompt": "q", "chosen": "yes", "rejected": "no"}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(data_app, [str(a) for a in arguments])


def ok(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exception is None, result.exception
    return result.stdout


def fails(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, DataError | StorageError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source.jsonl", [GOOD, {**GOOD, "rejected": " "}, GOOD, {**GOOD, "prompt": "[bold]Q"}])


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_import_accounts_for_every_row(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    shown = ok("import", "trl", source, "--out", out, "--dataset", "toy")
    assert "rows read 4, taken 2, refused 2" in shown
    assert "1 refused: a response is empty" in shown
    assert "1 refused: the same prompt and responses as an earlier row" in shown
    records = read_records(out)
    assert [(r.source.dataset, r.source.row, r.split) for r in records if r.source] == [
        ("toy", 1, None),
        ("toy", 4, None),
    ]
    refused = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text().splitlines()]
    assert refused == [
        {"line": 2, "reason": "a response is empty", "row": {**GOOD, "rejected": " "}},
        {"line": 3, "reason": "the same prompt and responses as an earlier row", "detail": "line 1", "row": GOOD},
    ]


def test_import_counts_rows_and_the_records_they_make(tmp_path: Path) -> None:
    names = ("understandability", "naturalness", "coherence", "engagingness", "groundedness", "overall")
    row = {"source": "hi \n\n", "context": "_nofact\n", "system_id": "s", "scores": dict.fromkeys(names, 1)}
    rows = [{**row, "system_output": text} for text in ("a", "b", "", "c")]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    shown = ok("import", "usr", tmp_path / "rows.json", "--out", out)
    assert "rows read 4, taken 3, refused 1" in shown
    assert f"1 records: {out}" in shown


@pytest.mark.parametrize(
    ("format", "file", "n_records"),
    [
        ("pandalm", "pandalm/testset-v1.json", 670),
        ("qa-feedback", "qa_feedback/dev_feedback.json", 392),
        ("usr", "usr_topical_chat/topical_chat.json", 46),
    ],
)
def test_real_files_are_imported_checked_and_counted(
    format: str, file: str, n_records: int, real_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.jsonl"
    ok("import", format, real_data / file, "--out", out)
    assert ok("validate", out).endswith(f"{n_records} records, all valid\n")
    found = json.loads(ok("stats", out, "--json"))
    assert found["records"] == n_records
    assert found["ties"]["tied"] > 0


def test_import_overwrites_only_when_told_to(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl.gz"
    ok("import", "trl", source, "--out", out)
    rejected = tmp_path / "out.rejected.jsonl"
    assert rejected.exists()
    assert "exists already; give another --out, or --force" in fails("import", "trl", source, "--out", out)
    write(source, [GOOD])
    assert "refused" not in ok("import", "trl", source, "--out", out, "--force").splitlines()[1]
    assert len(read_records(out)) == 1
    assert not rejected.exists()  # it would speak of another import


def test_import_spares_the_refused_rows_of_an_earlier_import(source: Path, tmp_path: Path) -> None:
    rejected = write(tmp_path / "out.rejected.jsonl", ["keep me"])
    assert f"{rejected}: exists already" in fails("import", "trl", source, "--out", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_import_never_replaces_its_source(source: Path) -> None:
    assert "would replace the source file" in fails("import", "trl", source, "--out", source, "--force")


def test_import_fills_splits_when_asked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ok("import", "trl", source, "--out", out, "--split-fractions", "validation=1.0")
    assert {r.split for r in read_records(out)} == {"validation"}


@pytest.mark.parametrize(
    ("fractions", "message"),
    [("0.8,0.2", "write train=0.8"), ("train=x", "write train=0.8"), ("train=0.5", "add up to 1"), ("dev=1", "'dev'")],
)
def test_wrong_fractions_are_named(source: Path, tmp_path: Path, fractions: str, message: str) -> None:
    assert message in fails("import", "trl", source, "--out", tmp_path / "out.jsonl", "--split-fractions", fractions)


def test_a_wrong_format_names_the_nearest(source: Path, tmp_path: Path) -> None:
    assert "did you mean trl?" in fails("import", "tlr", source, "--out", tmp_path / "out.jsonl")
    assert "none of 4 rows could be imported as hh-rlhf" in fails(
        "import", "hh-rlhf", source, "--out", tmp_path / "out.jsonl"
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_source_and_a_missing_folder_are_named(source: Path, tmp_path: Path) -> None:
    assert "did you mean" in fails("import", "trl", tmp_path / "sourc.jsonl", "--out", tmp_path / "out.jsonl")
    assert "cannot write" in fails("import", "trl", source, "--out", tmp_path / "nowhere" / "out.jsonl")


def imported(source: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out.jsonl"
    ok("import", "trl", source, "--out", out, "--split-fractions", "train=0.5,test=0.5")
    return out


def test_stats(source: Path, tmp_path: Path) -> None:
    out = imported(source, tmp_path)
    shown = ok("stats", out)
    assert "unknown (aggregate) 2" in shown
    assert "lengths overall chosen longer           1" in shown  # "yes" has a character more than "no"
    found = json.loads(ok("stats", out, "--json"))
    assert (found["records"], found["ties"]["rate"]) == (2, 0)


def test_stats_of_no_judgement_are_undefined(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    out = tmp_path / "out.jsonl"
    ok("import", "messages", write(tmp_path / "m.jsonl", [{"messages": messages}]), "--out", out)
    assert "rate undefined" in ok("stats", out)


def test_validate(source: Path, tmp_path: Path) -> None:
    out = imported(source, tmp_path)
    assert "2 records, all valid" in ok("validate", out)
    assert json.loads(ok("validate", out, "--json")) == {"file": str(out), "records": 2, "problems": []}


def test_validate_lists_every_bad_line(source: Path, tmp_path: Path) -> None:
    good = imported(source, tmp_path)
    out = tmp_path / "[bold]bad.jsonl"  # looks like markup, and is not
    out.write_text(good.read_text() + "{}\n[bold]\n", encoding="utf-8")
    assert "2 of 4 lines are wrong, first line 3" in fails("validate", out)
    shown = call("validate", out).stdout
    assert f"{out}:3: prompt: this key is missing; add it" in shown
    assert f"{out}:4: malformed JSON" in shown
    problems = json.loads(call("validate", out, "--json").stdout)["problems"]
    assert [problem["line"] for problem in problems] == [3, 4]


def test_schema_prints_the_schema() -> None:
    assert json.loads(ok("schema")) == json_schema()
