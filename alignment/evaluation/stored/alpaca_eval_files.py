"""AlpacaEval's files as rows: annotations, the difficulties of the instructions, and the answers of gamed baselines."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from alignment.errors import DataError
from alignment.evaluation.stored.rows import Row, read_rows, require_columns

# The 805 instructions in the order of alpaca_eval.json: how many are of which data set.
BLOCKS = (("helpful_base", 129), ("koala", 156), ("oasst", 188), ("selfinstruct", 252), ("vicuna", 80))
BY_INDEX, BY_TEXT, BY_ORDER = "difficulties by index", "difficulties by instruction", "difficulties by row order"
UNORDERED = (
    "undefined: the annotations have no index, and nothing shows that they are in AlpacaEval's order (805 rows whose "
    "column dataset runs through its five blocks); give the column index or row"
)
# The fields of a record that a row may have itself; lengths, index and model are found under several names.
OWN = ("preference", "dataset", "is_baseline", "difficulty", "difficulty_from", "tanh_length", "weight")
SIDES = (("output_1", "len_baseline"), ("output_2", "len_model"))


@dataclass(frozen=True)
class Difficulties:
    """γ of every instruction: by its index, and by its text where the file has that."""

    by_index: Mapping[int, float]
    by_text: Mapping[str, float] = field(default_factory=dict)


def beside(paths: Sequence[Path], options: Mapping[str, str], option: str, name: str) -> Path | None:
    """The file that was named, or the one of the usual name in the predictions' folder or one up, or None."""
    if option in options:
        return Path(options[option])
    folder = paths[0].resolve().parent if paths else Path()
    return next((place / name for place in (folder, folder.parent) if paths and (place / name).is_file()), None)


def difficulties(path: Path | None) -> Difficulties | None:
    """The difficulties of a file; None for no file."""
    if path is None:
        return None
    rows = read_rows(path)
    require_columns(rows, path, ["index", "instruction_difficulty"])
    by_index: dict[int, float] = {}
    by_text: dict[str, float] = {}
    for row in rows:
        try:
            gamma = float(row.values["instruction_difficulty"])
            index = int(row.values["index"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{row.where}: index and instruction_difficulty must be numbers") from None
        if not math.isfinite(gamma) or index in by_index:
            raise DataError(f"{row.where}: a difficulty is finite and stands there once per index")
        by_index[index] = gamma
        if isinstance(text := row.values.get("instruction"), str):
            by_text[text] = gamma
    return Difficulties(by_index, by_text if len(by_text) == len(by_index) else {})


def gamed_rows(path: Path) -> list[Row]:
    """Rows of `gamed_rows.csv` as items; its preferences are in 0..1 where the items' are in 1..2."""
    rows = read_rows(path)
    require_columns(rows, path, ["preference", "tanh_std_delta_len", "instruction_difficulty"])
    found = []
    for row in rows:
        values = {
            "difficulty": row.values.get("instruction_difficulty"),
            "tanh_length": row.values.get("tanh_std_delta_len"),
        }
        if row.values.get("weight") not in (None, ""):
            values["weight"] = row.values["weight"]
        try:
            values["preference"] = float(row.values["preference"]) + 1
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{row.where}: preference must be a number in 0..1") from None
        found.append(Row(row.where, values))
    return found


def as_item(row: Row, file: str) -> Row:
    """A row of any of the formats with the fields of the record; texts are only measured."""
    given = row.values
    values: dict[str, Any] = {name: given[name] for name in OWN if given.get(name) not in (None, "")}
    if "preference" in given:
        values["preference"] = given["preference"]
    for side, name in SIDES:
        text = given.get(side)
        values[name] = len(text) if isinstance(text, str) else given.get(name, given.get(f"len({side})"))
    values["index"] = _index(given.get("index", given.get("row")))
    values["instruction"] = given.get("instruction")
    values["model"] = given.get("generator_2") or given.get("model") or file
    if "generator_1" in given and "generator_2" in given:
        values["is_baseline"] = given["generator_1"] == given["generator_2"]
    return Row(row.where, values)


def with_difficulty(rows: Sequence[Row], known: Difficulties | None, *, asked: bool) -> list[Row]:
    """Every row that has none itself with the difficulty of its instruction, where it is certain which that is.

    `asked`: the difficulties were named, so that an index that they do not know is an error.
    """
    lacking = [row for row in rows if row.values.get("difficulty") is None]
    if known is None or not lacking:
        return list(rows)
    if any(row.values["index"] is not None for row in lacking):
        found = {row.where: _by_index(row, known, asked=asked) for row in lacking}
    elif known.by_text:
        found = {row.where: (known.by_text.get(str(row.values["instruction"])), BY_TEXT) for row in lacking}
    elif _in_order(lacking, known):
        found = {
            row.where: (known.by_index[index], BY_ORDER)
            for row, index in zip(lacking, sorted(known.by_index), strict=True)
        }
    else:
        found = {row.where: (None, UNORDERED) for row in lacking}
    return [
        Row(row.where, row.values | {"difficulty": found[row.where][0], "difficulty_from": found[row.where][1]})
        if row.where in found
        else row
        for row in rows
    ]


def _by_index(row: Row, known: Difficulties, *, asked: bool) -> tuple[float | None, str | None]:
    index = row.values["index"]
    gamma = known.by_index.get(index) if isinstance(index, int) else None
    if gamma is None and asked:
        raise DataError(f"{row.where} has no index that the difficulties know; give `index` or `row`")
    return gamma, None if gamma is None else BY_INDEX


def _in_order(rows: Sequence[Row], known: Difficulties) -> bool:
    """Whether the rows are the instructions one by one, as far as the blocks of their data sets can show."""
    runs = [(name, len(list(own))) for name, own in groupby(row.values.get("dataset") for row in rows)]
    return len(rows) == len(known.by_index) and runs == list(BLOCKS)


def _index(value: Any) -> Any:
    """An index as a whole number, also written as 3.0; anything else as it is, for the record to judge."""
    written = re.fullmatch(r"(\d+)(?:\.0*)?", str(value).strip(), re.ASCII)
    return int(written[1]) if written else None if str(value).strip().lower() in ("", "nan", "none") else value
