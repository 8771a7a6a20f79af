"""Files of records: what is read, what is refused and where, and that writing is atomic."""

from __future__ import annotations

import gzip
import hashlib
import json
import stat
from pathlib import Path

import pytest

from alignment.errors import DataError, StorageError
from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response, dump
from alignment.preferences.store import file_digest, read_records, scan, write_lines, write_records


def record(question: str = "Why?", *answers: str) -> PreferenceRecord:
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=question),)),
        responses=tuple(Response(messages=(Message(role="assistant", content=a),)) for a in answers or ("a", "b")),
    )


LINE = dump(record()).encode()
OTHER = dump(record("Who?")).encode()


def written(folder: Path, content: bytes, name: str = "r.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    records = [record("Größe?\u2028x"), record("Who?", "x" * 5_000_000, "y")]
    write_records(tmp_path / name, records)
    assert read_records(tmp_path / name) == records
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(LINE + b"\n" + OTHER, id="no newline at the end"),
        pytest.param(LINE + b"\r\n" + OTHER + b"\r\n", id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + LINE + b"\n" + OTHER + b"\n", id="byte order mark"),
        pytest.param(LINE + b"\n" + OTHER + b"\n\n \r\n\n", id="blank lines at the end"),
    ],
)
def test_harmless_differences_are_read(tmp_path: Path, content: bytes) -> None:
    assert read_records(written(tmp_path, content)) == [record(), record("Who?")]


def with_value(key: str, value: str) -> bytes:
    return LINE[:-1] + f',"{key}":{value}}}'.encode()


BAD = {
    "blank line": (b"", "blank line between records; delete it"),
    "cut off": (LINE[:50], r"malformed JSON: .* at column \d+; mend the line"),
    "two on a line": (OTHER + OTHER, "malformed JSON: Extra data at column"),
    "Latin-1": (b'{"id": "\xe9"}', "invalid UTF-8 at byte 8 of the line"),
    "second byte order mark": (b"\xef\xbb\xbf" + OTHER, "malformed JSON"),
    "a list": (b"[" + OTHER + b"]", "expected a JSON object, not a list; write one object a line"),
    "a number": (b"3", "expected a JSON object, not a int"),
    "NaN": (with_value("raw", "NaN"), "NaN is not a JSON number"),
    "Infinity": (with_value("raw", "-Infinity"), "-Infinity is not a JSON number"),
    "a number too large": (with_value("raw", "1e999"), "raw: must be plain JSON"),
    "an endless number": (with_value("raw", "9" * 5000), "malformed JSON: Exceeds the limit"),
    "endless nesting": (with_value("raw", "[" * 100_000), "malformed JSON: nested too deeply"),
    "key twice": (with_value("prompt", "{}"), "the key 'prompt' appears twice"),
    "half a surrogate": (with_value("raw", '"\\ud83d"'), "Invalid JSON|must be plain JSON"),
    "no responses": (
        b'{"prompt":{"messages":[{"role":"user","content":"q"}]}}',
        "responses: this key is missing; add it",
    ),
    "unknown key": (with_value("langauge", "3"), "langauge: unknown key; remove it or mend its spelling"),
    "wrong type": (OTHER.replace(b'"Who?"', b"7"), r"prompt.messages.0.content: .*valid string, not '7'"),
    "edited text": (OTHER.replace(b"Who?", b"Whom?"), "record id .* does not fit its text"),
    "the same record": (LINE, "is already in line 1; keep one"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named(tmp_path: Path, case: str) -> None:
    line, message = BAD[case]
    path = written(tmp_path, LINE + b"\n" + line + b"\n" + dump(record("When?")).encode() + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


def test_scan_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    path = written(tmp_path, LINE + b"\n{}\n" + OTHER + b"\n3\n")
    assert [(line, isinstance(found, str)) for line, found in scan(path)] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        read_records(written(tmp_path, content))


def test_a_missing_file_names_close_ones(tmp_path: Path) -> None:
    written(tmp_path, LINE, "rankings.jsonl")
    with pytest.raises(DataError, match=r"no such file; did you mean .*/rankings\.jsonl\?"):
        read_records(tmp_path / "ranking.jsonl")
    with pytest.raises(DataError, match=r"the folder .*nowhere does not exist either"):
        read_records(tmp_path / "nowhere" / "r.jsonl")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this is a folder"):
        read_records(tmp_path)


@pytest.mark.parametrize("content", [LINE, gzip.compress(LINE)[:-9]])
def test_a_broken_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"r\.jsonl\.gz: not a complete gzip file"):
        read_records(written(tmp_path, content, "r.jsonl.gz"))


def test_the_digest_is_of_the_uncompressed_bytes(tmp_path: Path) -> None:
    plain, packed = tmp_path / "r.jsonl", tmp_path / "r.jsonl.gz"
    write_records(plain, [record()])
    write_records(packed, [record()])
    assert file_digest(plain) == file_digest(packed) == hashlib.sha256(LINE + b"\n").hexdigest()


def test_equal_records_give_equal_gzip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "a.jsonl.gz", [record()])
    monkeypatch.setattr("time.time", lambda: 0.0)
    write_records(tmp_path / "b.jsonl.gz", [record()])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    ("records", "message"), [([], "no records to write"), ([record(), record()], "would be written twice")]
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, records: list[PreferenceRecord], message: str
) -> None:
    path = written(tmp_path, b"before")
    with pytest.raises(DataError, match=message):
        write_records(path, records)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_not_rewritten(tmp_path: Path) -> None:
    path = written(tmp_path, b"before")
    (tmp_path / "reader").hardlink_to(path)  # stands for a process that has the old file open
    write_records(path, [record()])
    assert read_records(path) == [record()]
    assert (tmp_path / "reader").read_bytes() == b"before"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path, b"before")

    def lines():  # type: ignore[no-untyped-def]
        yield "new"
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="space"):
        write_lines(path, lines())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["nowhere/r.jsonl", "file/r.jsonl"])
def test_a_place_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    written(tmp_path, b"", "file")
    with pytest.raises(StorageError, match="cannot write"):
        write_records(tmp_path / where, [record()])


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [record()])
    usual = written(tmp_path, b"", "usual")
    assert stat.S_IMODE((tmp_path / "r.jsonl").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_lines_are_utf8_and_compact(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [record("Größe?")])
    text = (tmp_path / "r.jsonl").read_text(encoding="utf-8")
    assert "Größe" in text
    assert ": " not in text
    assert json.loads(text)["prompt"]["messages"][0]["content"] == "Größe?"
