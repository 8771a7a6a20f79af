"""Rows of published files with the place they stand at: JSONL, JSON, CSV and TSV, plain or .gz."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import DataError, nearest


@dataclass(frozen=True)
class Row:
    """A row of a file, and `FILE:LINE` (in a JSON array `FILE: row N`)."""

    where: str
    values: dict[str, Any]


def read_text(path: Path) -> str:
    """The text of a file, unzipped where its name ends in .gz. DataError when it is missing or no UTF-8 text."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder; name the file in it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); convert it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def read_json(path: Path) -> Any:
    """The one JSON value of a file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); mend or remove the file") from None
    except RecursionError:
        raise DataError(f"{path}: not usable JSON (nested too deeply)") from None


def read_rows(path: Path) -> list[Row]:
    """All rows of a file whose ending says its format: .jsonl, .json (an array of objects), .csv or .tsv, also .gz.

    An empty JSONL file or array has no rows; a CSV file needs its header at least.
    """
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".jsonl":
        return _json_lines(path)
    if kind == ".json":
        return json_rows(read_json(path), str(path))
    if kind in (".csv", ".tsv"):
        return _table(path, "," if kind == ".csv" else "\t")
    raise DataError(
        f"{path}: unknown kind of file; it must end in .jsonl, .json, .csv or .tsv (or one of them and .gz)"
    )


def json_rows(value: Any, place: str) -> list[Row]:
    """The objects of a JSON array as rows; `place` names it."""
    if not isinstance(value, list):
        raise DataError(f"{place}: expected an array of objects")
    for number, one in enumerate(value, 1):
        if not isinstance(one, dict):
            raise DataError(f"{place}: row {number}: expected an object, found {type(one).__name__}")
    return [Row(f"{place}: row {number}", one) for number, one in enumerate(value, 1)]


def columns(rows: Iterable[Row]) -> list[str]:
    """The columns of a file in order of first appearance: a row of JSON may leave out what is null in it."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def require_columns(rows: Sequence[Row], path: Path, names: Iterable[str]) -> None:
    """DataError naming the nearest when no row of a file has one of the columns."""
    known = columns(rows)
    for name in names if rows else ():
        if name not in known:
            raise DataError(f"{path}: no column {name!r}{nearest(name, known)}")


def files_in(paths: Sequence[Path], endings: tuple[str, ...]) -> list[Path]:
    """The files, and of every folder among them all files with one of the endings, by name."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.name.endswith(endings)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: no file in this folder ends in {' or '.join(endings)}")
        found += inside
    return found


def stem(path: Path) -> str:
    """`alpaca-7b` of `runs/alpaca-7b.csv.gz`: how the predictions of a file are called."""
    return Path(path.name.removesuffix(".gz")).stem


def _json_lines(path: Path) -> list[Row]:
    rows = []
    # Not splitlines(): JSON text may hold U+2028 and its like as they are.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise DataError(f"{path}:{number}: not valid JSON ({why}); mend or remove the line") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: expected an object, found {type(value).__name__}")
        rows.append(Row(f"{path}:{number}", value))
    return rows


def _table(path: Path, delimiter: str) -> list[Row]:
    # Published cells hold whole completions: longer than csv's 131,072 characters would be refused.
    csv.field_size_limit(2**31 - 1)
    # A TSV of these benchmarks has no quoting: a quotation mark is part of a sentence.
    text = io.StringIO(read_text(path), newline="")
    if delimiter == "\t":
        reader = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        header = next(reader, [])
        if not any(header):
            raise DataError(f"{path}: the file is empty; it needs a header line at least")
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}:1: column {twice!r} stands there twice; rename one")
        start = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(f"{path}:{start}: {len(cells)} cells, but the header has {len(header)}; mend the line")
            if cells:
                rows.append(Row(f"{path}:{start}", dict(zip(header, cells, strict=True))))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error}); mend the line") from None
    return rows
