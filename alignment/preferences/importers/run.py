"""Runs an importer over a file: every row becomes (part of) a record or a refusal with its reason; none is mended.

A file is JSONL, or one JSON array of rows. Rows are numbered from 1: lines there, places in the array here.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignment.errors import DataError
from alignment.preferences.importers import IMPORTERS, Gathered, Parse
from alignment.preferences.record import PreferenceRecord, Source, first_problem
from alignment.preferences.store import numbered_lines, parse_object, strict_json

DUPLICATE = "the same prompt and responses as an earlier row"
BROKEN = "the row is not a JSON object"
NO_RECORD = "the row makes no valid record"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was not taken. `reason` is the same for all rows of a kind, `detail` is about this one."""

    line: int
    reason: str
    detail: str
    row: Any  # the JSON value, or the text of a line that is none


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the rows of a file: each is in one record or among the refused, in the order of the file."""

    records: list[PreferenceRecord]
    refused: list[Refusal]
    n_rows: int

    @property
    def n_taken(self) -> int:
        """Rows that are in a record: as many as records, but for formats whose records have several rows."""
        return self.n_rows - len(self.refused)

    def reasons(self) -> Counter[str]:
        """Refused rows by reason."""
        return Counter(refusal.reason for refusal in self.refused)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one record, and their numbers."""

    numbers: list[int]
    rows: list[dict[str, Any]]

    def refused(self, reason: str, detail: str = "") -> list[Refusal]:
        return [Refusal(number, reason, detail, row) for number, row in zip(self.numbers, self.rows, strict=True)]


def importer(format: str) -> Parse | Gathered:
    """The importer of a format; DataError names the nearest one."""
    if format not in IMPORTERS:
        close = difflib.get_close_matches(format, IMPORTERS, n=1, cutoff=0.3)
        nearest = f"; did you mean {close[0]}?" if close else ";"
        raise DataError(f"unknown format {format!r}{nearest} known formats: {', '.join(IMPORTERS)}")
    return IMPORTERS[format]


def import_file(format: str, path: Path | str, dataset: str | None = None) -> ImportReport:
    """Import a JSONL file or a JSON array (plain or .gz). `dataset` goes into every record's source; default: its name.

    DataError for an unknown format, a file that cannot be read, and one of which no row could be taken.
    """
    chosen = importer(format)
    path = Path(path)
    dataset = dataset or path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    records: list[PreferenceRecord] = []
    refused: list[Refusal] = []
    n_rows = 0
    first: dict[str, int] = {}
    for part in _parts(chosen, path):
        n_rows += 1 if isinstance(part, Refusal) else len(part.rows)
        taken = [part] if isinstance(part, Refusal) else _take(chosen, part)
        if isinstance(part, _Rows) and isinstance(taken, PreferenceRecord):
            earlier = first.setdefault(taken.id, part.numbers[0])
            if earlier != part.numbers[0]:
                taken = part.refused(DUPLICATE, f"line {earlier}")
        if isinstance(taken, PreferenceRecord):
            source = (taken.source or Source()).model_copy(update={"dataset": dataset})
            records.append(taken.model_copy(update={"source": source}))
        else:
            refused += taken
    report = ImportReport(records, sorted(refused, key=lambda refusal: refusal.line), n_rows)
    if not records:
        reason, count = report.reasons().most_common(1)[0]
        raise DataError(
            f"{path}: none of {n_rows} rows could be imported as {format} ({count}: {reason}); "
            f"check the format, known: {', '.join(IMPORTERS)}"
        )
    return report


def _take(chosen: Parse | Gathered, part: _Rows) -> PreferenceRecord | list[Refusal]:
    try:
        if isinstance(chosen, Gathered):
            return chosen.parse(part.rows, part.numbers)
        return chosen(part.rows[0], part.numbers[0])
    except ValidationError as error:
        return part.refused(NO_RECORD, first_problem(error))
    except DataError as error:
        return part.refused(str(error))


def _parts(chosen: Parse | Gathered, path: Path) -> Iterator[_Rows | Refusal]:
    """The rows of every record to be, in the order of their first rows; rows that belong to none come as refusals."""
    together: dict[Any, _Rows] = {}
    for number, row in _numbered_rows(path):
        if isinstance(row, Refusal):
            yield row
        elif isinstance(chosen, Gathered):
            try:
                part = together.setdefault(chosen.key(row), _Rows([], []))
            except DataError as error:
                yield Refusal(number, str(error), "", row)
                continue
            part.numbers.append(number)
            part.rows.append(row)
        else:
            yield _Rows([number], [row])
    yield from together.values()


def _numbered_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    lines = numbered_lines(path)
    opening = next(lines)
    if opening[1].lstrip().startswith(b"["):
        yield from _array(path, [opening[1], *(line for _, line in lines)])
        return
    for number, line in chain([opening], lines):
        yield number, _object(number, line)


def _object(number: int, line: bytes) -> dict[str, Any] | Refusal:
    try:
        return parse_object(line)
    except DataError as error:
        return Refusal(number, BROKEN, str(error), line.decode(errors="backslashreplace"))


def _array(path: Path, lines: Sequence[bytes]) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    """The rows of a file that is one JSON array. A row that is no object is refused, a broken array is an error."""
    try:
        values = strict_json(b"\n".join(lines))
    except DataError as error:
        raise DataError(f"{path}: {error} (a file that begins with [ is read as one JSON array of rows)") from None
    if not values:
        raise DataError(f"{path}: the array is empty; expected one JSON object for each row")
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield number, value
        else:
            yield number, Refusal(number, BROKEN, f"a {type(value).__name__} in the array", value)
