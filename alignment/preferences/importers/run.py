"""Runs an importer over a file: every row becomes a record or a refusal with its reason; none is mended."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignment.errors import DataError
from alignment.preferences.importers import IMPORTERS, Parse
from alignment.preferences.record import PreferenceRecord, Source, first_problem
from alignment.preferences.store import numbered_lines, parse_object

DUPLICATE = "the same prompt and responses as an earlier row"
BROKEN = "the line is not a JSON object"
NO_RECORD = "the row makes no valid record"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was not taken. `reason` is the same for all rows of a kind, `detail` is about this one."""

    line: int
    reason: str
    detail: str
    row: Any  # the JSON object, or the text of a line that is none


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the rows of a file: len(records) + len(refused) == n_rows."""

    records: list[PreferenceRecord]
    refused: list[Refusal]

    @property
    def n_rows(self) -> int:
        return len(self.records) + len(self.refused)

    def reasons(self) -> Counter[str]:
        """Refused rows by reason."""
        return Counter(refusal.reason for refusal in self.refused)


def importer(format: str) -> Parse:
    """The importer of a format; DataError names the nearest one."""
    if format not in IMPORTERS:
        close = difflib.get_close_matches(format, IMPORTERS, n=1, cutoff=0.3)
        nearest = f"; did you mean {close[0]}?" if close else ";"
        raise DataError(f"unknown format {format!r}{nearest} known formats: {', '.join(IMPORTERS)}")
    return IMPORTERS[format]


def import_file(format: str, path: Path | str, dataset: str | None = None) -> ImportReport:
    """Import a JSONL file (plain or .gz). `dataset` goes into every record's source; default: the file's name.

    DataError for an unknown format, a file that cannot be read, and one of which no row could be taken.
    """
    parse = importer(format)
    path = Path(path)
    dataset = dataset or path.name.removesuffix(".gz").removesuffix(".jsonl")
    report = ImportReport([], [])
    first: dict[str, int] = {}
    for number, line in numbered_lines(path):
        taken = _take(parse, number, line)
        if isinstance(taken, PreferenceRecord):
            earlier = first.setdefault(taken.id, number)
            if earlier != number:
                taken = Refusal(number, DUPLICATE, f"line {earlier}", taken.raw)
        if isinstance(taken, Refusal):
            report.refused.append(taken)
        else:
            source = (taken.source or Source()).model_copy(update={"dataset": dataset})
            report.records.append(taken.model_copy(update={"source": source}))
    if not report.records:
        reason, count = report.reasons().most_common(1)[0]
        raise DataError(
            f"{path}: none of {report.n_rows} rows could be imported as {format} ({count}: {reason}); "
            f"check the format, known: {', '.join(IMPORTERS)}"
        )
    return report


def _take(parse: Parse, number: int, line: bytes) -> PreferenceRecord | Refusal:
    row: Any = line.decode(errors="backslashreplace")
    try:
        row = parse_object(line)
    except DataError as error:
        return Refusal(number, BROKEN, str(error), row)
    try:
        return parse(row, number)
    except ValidationError as error:
        return Refusal(number, NO_RECORD, first_problem(error), row)
    except DataError as error:
        return Refusal(number, str(error), "", row)
