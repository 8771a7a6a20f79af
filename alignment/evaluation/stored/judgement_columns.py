"""Which columns of a table of judgements are the units, the raters and what they said; what cannot be told is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import DataError, nearest
from alignment.evaluation.stored.rows import Row, columns

# What pandas reads as missing, in any case but for `None` (a class may be called `none`), and `*` and `.`, which tables
# of reliability data print for it. `-` and `?` are no sign of it: they are classes in some schemes.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "<na>", "#na", "#n/a", "*", "."})

# How columns are called, without case, `_` and `-`, and without a last word `id`, `name`, `no`.
UNIT = frozenset(
    ("unit", "item", "example", "question", "instance", "sample", "document", "doc", "task", "prompt", "subject")
)
NUMBER = frozenset(("id", "key", "idx", "index", "row", "unnamed: 0", ""))  # of a unit, where nothing else names it
RATER = frozenset(
    ("rater", "annotator", "coder", "judge", "worker", "user", "labeler", "labeller", "evaluator", "reviewer")
)
VALUE = frozenset(
    ("value", "label", "rating", "score", "judgement", "judgment", "annotation", "category", "code", "vote")
)
# Words of columns that were made of the raters' or stand beside them.
_BESIDE = frozenset(
    (
        "final",
        "gold",
        "majority",
        "consensus",
        "agreement",
        "truth",
        "adjudicated",
        "mean",
        "average",
        "median",
        "model",
    )
)
# `annotation_1`, `annotator_a`, `label1`, `Rater B`: a judgement or who made it, and which one.
_NUMBERED = re.compile(rf"({'|'.join(sorted(RATER | VALUE | {'human', 'expert'}))})(?:[ _-]?\d+|[ _-][a-z])")

LONGEST_LABEL = 60  # characters: what is longer is a text and no label
FEWEST_ROWS = 3  # that show what a column holds
ASK = "name the raters' columns with --raters a,b,c (one judgement a row: --unit, --raters and --value)"


@dataclass(frozen=True)
class Columns:
    """`value` None: a column for each of `raters`, else one judgement a row; `unit` None: every row is a unit."""

    unit: str | None
    raters: tuple[str, ...]
    value: str | None


def missing(value: Any) -> bool:
    """Whether a cell says that nobody rated here."""
    text = str(value).strip()
    return value is None or text == "None" or text.lower() in MISSING


def judgement_columns(rows: Sequence[Row], path: Path, options: Mapping[str, str]) -> Columns:
    """The columns of a table, as asked for with `unit`, `raters` and `value`, else by their names and contents.

    Raises:
        DataError: a column that is not there, or columns that cannot be told apart.
    """
    names = columns(rows)
    unit, value = (_there(options[role], names, path, role) if role in options else None for role in ("unit", "value"))
    raters = asked_raters(options, names, path)
    free = [name for name in names if name not in (unit, value, *raters)]
    one_a_row = _called(free, VALUE) if len(raters) == 1 else not raters and _called(free, RATER)
    if value is not None or one_a_row:
        values = [name for name in ("value",) if name in free] or _called(free, VALUE)
        found = {
            "unit": unit or _only(rows, _units(rows, free), "unit"),
            "rater": raters[0] if len(raters) == 1 else _only(rows, _called(free, RATER), "rater"),
            "value": value or (values[0] if len(values) == 1 else None),
        }
        lost = [role for role, name in found.items() if name is None]
        if lost or len(raters) > 1:
            which = f"which one is the {lost[0]}?" if lost else f"{', '.join(raters)} are several for the rater;"
            raise DataError(
                f"{path}: one judgement a row has a column each of unit, rater and value; {which} {_ask(rows)}"
            )
        return Columns(found["unit"], (str(found["rater"]),), found["value"])
    if unit is None:
        units = [*_called(free, UNIT), *_called(free, NUMBER)]
        unit = next((name for name in units if _partition(rows, name) == len(rows)), next(iter(units), None))
    return Columns(unit, raters or _wide(rows, [name for name in free if name != unit], path), None)


def numbered_raters(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """The columns that are numbered judgements or raters, such as `annotation_1, annotation_2`; () where none are.

    Raises:
        DataError: several such families, `label_1` beside `score_1`.
    """
    families: dict[str, list[str]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name.strip().lower()):
            families.setdefault(found[1], []).append(name)
    if len(families) > 1:
        shown = " or ".join(", ".join(family) for family in families.values())
        raise DataError(f"{path}: which are the raters, {shown}? {ASK}")
    return tuple(next(iter(families.values()), ()))


def asked_raters(options: Mapping[str, str], names: Sequence[str], path: Path) -> tuple[str, ...]:
    """The columns of `--raters a,b,c`; () where it is not given."""
    asked = [name.strip() for name in options.get("raters", "").split(",") if name.strip()]
    return tuple(_there(name, names, path, "raters") for name in dict.fromkeys(asked))


def _there(name: str, names: Sequence[str], path: Path, option: str) -> str:
    if name not in names:
        raise DataError(f"{path}: no column {name!r} for --{option}{nearest(name, names)}")
    return name


def _plain(name: str) -> str:
    """`item_id`, `Item ID` and `item` are one name."""
    return re.sub(r"(?<=.) (?:id|idx|index|no|name)$", "", re.sub(r"[ _-]+", " ", name.strip().lower()))


def _called(names: Sequence[str], known: frozenset[str]) -> list[str]:
    return [name for name in names if _plain(name) in known]


def _only(rows: Sequence[Row], names: Sequence[str], role: str) -> str | None:
    """The column of that very name, the only one, or the first of several that tell the rows apart alike."""
    if role in names:
        return role
    sizes = {_partition(rows, *chosen) for chosen in ((name,) for name in names)} | {_partition(rows, *names)}
    return names[0] if names and len(sizes) == 1 else None


def _units(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Columns that may name the unit of a judgement: what no two rows share counts the judgements."""
    named, numbered = _called(names, UNIT), _called(names, NUMBER)
    shared = ([name for name in some if _partition(rows, name) < len(rows)] for some in (named, numbered))
    return next((some for some in (*shared, named, numbered) if some), [])


def _partition(rows: Sequence[Row], *names: str) -> int:
    """How many different values there are of some columns together."""
    return len({tuple(str(row.values.get(name)) for name in names) for row in rows})


def _wide(rows: Sequence[Row], names: Sequence[str], path: Path) -> tuple[str, ...]:
    """The raters' columns: numbered ones, whatever stands beside them, else all that name no unit, if all can be."""
    numbered = numbered_raters(names, path)
    if len(numbered) > 1:
        return numbered
    raters = [name for name in names if _plain(name) not in UNIT | NUMBER]
    rated = {name: [v for row in rows if not missing(v := row.values.get(name))] for name in raters}
    for name in raters:
        others = [value for other in raters if other != name for value in rated[other]]
        why = _odd_name(name) if len(raters) > 1 else None
        why = why or _odd(rated[name], others)
        if why:
            raise DataError(f"{path}: is {name!r} a rater? {why}; {_ask(rows)}")
    if not raters:
        raise DataError(f"{path}: no column is a rater's; {_ask(rows)}")
    return tuple(raters)


def _ask(rows: Sequence[Row]) -> str:
    return f"{ASK}; columns: {', '.join(columns(rows))}"


def _odd_name(name: str) -> str | None:
    words = set(_plain(name).split())
    return "it is called like what stands beside raters" if words & _BESIDE or _plain(name) in RATER | VALUE else None


def _odd(values: Sequence[Any], others: Sequence[Any]) -> str | None:
    """Why a column beside others does not look like a rater's, or None. A false alarm costs a word, a miss a number."""
    own, beside = {str(value).strip() for value in values}, {str(value).strip() for value in others}
    if any(len(text) > LONGEST_LABEL for text in own):
        return "it holds texts"
    numbers, theirs = _numbers(own), _numbers(beside)
    if numbers is not None and [float(value) for value in values] in _counted(len(values)):
        return "it counts the rows"
    if len(values) < FEWEST_ROWS or not others:
        return None
    if numbers is None or theirs is None:
        return None if own & beside else "it shares no value with the other columns (labels must be coded alike)"
    low, high = min(theirs), max(theirs)
    if max(numbers) < low or min(numbers) > high:
        return "its numbers are outside the range of the others"
    whole = all(number.is_integer() for number in numbers)
    unique = len(numbers) == len(values) and len(beside) < len(others)
    outside = sum(not low <= number <= high for number in numbers) > len(numbers) / 2
    return "it numbers the rows, outside the range of the others" if whole and unique and outside else None


def _numbers(texts: set[str]) -> list[float] | None:
    """All as numbers, or None where one is none."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _counted(n: int) -> list[list[float]]:
    """0, 1, ... and 1, 2, ...; of fewer than FEWEST_ROWS rows, nothing."""
    return [[float(first + i) for i in range(n)] for first in (0, 1)] if n >= FEWEST_ROWS else []
