"""Files of rows: JSON arrays beside JSONL, and formats that make one record of several rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import DataError
from alignment.preferences.importers import IMPORTERS
from alignment.preferences.importers.run import BROKEN, DUPLICATE, import_file
from alignment.preferences.sources import DataSpec, data_digest, load

PAIR = {"prompt": "q", "chosen": "yes", "rejected": "no"}
SCORES = dict.fromkeys(("understandability", "naturalness", "coherence", "engagingness", "groundedness", "overall"), 1)


def rated(dialogue: str, output: Any, system: str = "s") -> dict[str, Any]:
    row = {"source": f"{dialogue} \n\n", "context": "_nofact\n", "system_id": system, "system_output": output}
    return {**row, "scores": SCORES}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["toy.json", "toy.json.gz"])
def test_an_array_gives_what_lines_give(tmp_path: Path, name: str, indent: int | None) -> None:
    rows = [PAIR, {**PAIR, "prompt": "Ä"}, {**PAIR, "rejected": ""}, PAIR]
    text = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = import_file("trl", tmp_path / name)
    assert report == import_file("trl", tmp_path / "toy.jsonl")
    assert [(refusal.line, refusal.reason) for refusal in report.refused] == [
        (3, "a response is empty"),
        (4, DUPLICATE),
    ]
    assert {record.source.dataset for record in report.records if record.source} == {"toy"}


def test_a_row_of_an_array_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([PAIR, "text", None, [PAIR]]))
    report = import_file("trl", tmp_path / "x.json")
    assert [(refusal.line, refusal.reason, refusal.detail) for refusal in report.refused] == [
        (2, BROKEN, "a str in the array"),
        (3, BROKEN, "a NoneType in the array"),
        (4, BROKEN, "a list in the array"),
    ]
    assert [refusal.row for refusal in report.refused] == ["text", None, [PAIR]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"prompt": 1},\n {"prompt": ]', r"malformed JSON: .* at line 2, column 13"),
        ("[1]\n[2]\n", r"malformed JSON: Extra data .*begins with \[ is read as one JSON array"),
        ('[{"a": NaN}]', "NaN is not a JSON number"),
        ('[{"a": 1, "a": 2}]', "the key 'a' appears twice"),
        ("[]", "the array is empty"),
    ],
)
def test_a_broken_array_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        import_file("trl", tmp_path / "x.json")


def test_rows_of_one_record_are_found_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        rated("one", "a"),
        rated("two", "a"),
        rated("one", " "),  # refused alone
        rated("one", "b"),
        rated("three", "a"),  # alone in its dialogue
        rated("two", "a"),  # says the same as row 2: neither can be taken
        rated("one", "c"),
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    report = import_file("usr", tmp_path / "x.json")
    (record,) = report.records
    assert record.raw == [rows[0], rows[3], rows[6]]
    assert record.source is not None
    assert record.source.row == "1,4,7"
    assert [(refusal.line, refusal.reason) for refusal in report.refused] == [
        (2, "two systems gave the same response"),
        (3, "a response is empty"),
        (5, "the dialogue has one response; there is nothing to compare it with"),
        (6, "two systems gave the same response"),
    ]
    assert [refusal.row for refusal in report.refused] == [rows[1], rows[2], rows[4], rows[5]]
    assert (report.n_rows, report.n_taken) == (7, 3)


def test_every_format_complains_about_rows_of_another(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"unknown": 1}\n')
    for format in IMPORTERS:
        with pytest.raises(DataError, match=f"none of 1 rows could be imported as {format}"):
            import_file(format, tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("format", "file", "criterion", "n_records", "n_refused"),
    [
        ("pandalm", "pandalm/testset-v1.json", None, 670, 113),
        ("qa-feedback", "qa_feedback/dev_feedback.json", None, 392, 0),
        ("usr", "usr_topical_chat/topical_chat.json", "overall", 46, 0),
    ],
)
def test_real_files_are_sources_of_a_recipe(
    real_data: Path, format: str, file: str, criterion: str | None, n_records: int, n_refused: int
) -> None:
    spec = DataSpec.model_validate({"source": str(real_data / file), "format": format, "criterion": criterion})
    loaded = load(spec)
    assert (loaded.n_records, len(loaded.refused)) == (n_records, n_refused)
    assert loaded.digest == data_digest(spec)
    by_group: dict[str, set[str | None]] = {}
    for record in loaded.records:
        by_group.setdefault(record.group_id, set()).add(record.split)
    assert all(len(splits) == 1 for splits in by_group.values())
