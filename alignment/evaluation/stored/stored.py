"""What a stored benchmark is: it reads published prediction files as they are and turns them into numbers, no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from alignment.errors import DataError
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval
from alignment.evaluation.stored.rows import Row, stem

# The command's options that name a file or a column -> their help. A benchmark's `options` are keys of this table.
OPTIONS: Mapping[str, str] = {
    "prediction": "The column that holds the predictions.",
    "gold": "The file of the benchmark's items, where the predictions come without them.",
    "scores": "A file of scores per item.",
    "difficulty": "The difficulty of every instruction, for the length-controlled win rate.",
    "gamed": "Rows of gamed baselines, for the length-controlled win rate.",
    "unit": "The column that names the units of judgements.",
    "raters": "The raters' columns, `a,b,c`; of one judgement a row the column that names the rater.",
    "value": "The column of the values, where a row is one judgement.",
}


class StoredItem(BaseModel):
    """One item with what was predicted for it. Fields of the file that no metric needs are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    predictions: ClassVar[tuple[str, ...]] = ()  # fields that may be None, what was predicted: then it is unscored

    model: str = Field("", description="Whose predictions these are: the prediction column's or the file's name.")

    _where: str = PrivateAttr("")
    _refused: bool = PrivateAttr(False)

    @property
    def where(self) -> str:
        """`FILE:LINE` of the row that it was read from; empty for an item that was made in Python."""
        return self._where

    @property
    def refused(self) -> bool:
        """Whether it is what is left of a refused row, without its predictions."""
        return self._refused

    def read_at(self, where: str, *, refused: bool = False) -> Self:
        """Itself, with the place of its row."""
        self._where, self._refused = where, refused
        return self


ItemT = TypeVar("ItemT", bound=StoredItem)


@dataclass(frozen=True)
class Read(Generic[ItemT]):
    """The items of some files, the rows that are none (file and line, reason), and what else is to be told of them."""

    items: list[ItemT]
    refused: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class StoredBenchmark(ABC, Generic[ItemT]):
    """One benchmark. The class attributes are its documentation: docs/formats.md is made of them."""

    name: ClassVar[str]
    version: ClassVar[int]  # raise it when the same files start to give other numbers
    suite: ClassVar[str]  # helpfulness | bias | safety | forgetting | ...
    record: type[ItemT]  # its JSON schema is what `alignment score NAME --schema` prints
    options: ClassVar[tuple[str, ...]] = ()  # which of OPTIONS it takes
    about: ClassVar[str]  # one line: what the numbers say, and whose definition they are
    files: ClassVar[str]  # the formats it reads, in a few lines of Markdown
    example: ClassVar[str]  # what follows `alignment score `
    notes: ClassVar[tuple[str, ...]] = ()  # what everybody who sees the numbers has to know
    needs_predictions: ClassVar[bool] = True  # False: an option can take the place of PREDICTIONS

    @abstractmethod
    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[ItemT]:
        """The items of all files; `options` holds those that were given. DataError names file, line and fix."""

    @abstractmethod
    def score(self, items: Sequence[ItemT], *, seed: int) -> list[EvalResult]:
        """All numbers, of all models among the items; also for no items at all, then undefined."""

    def groups(self, items: Sequence[ItemT]) -> Mapping[str, Sequence[ItemT]]:
        """The items of one model by every group that has numbers of its own; an item may be of several."""
        return {}

    def parts(self, items: Sequence[ItemT]) -> dict[str | None, Sequence[ItemT]]:
        """All items under None, then those of every group."""
        found: dict[str | None, Sequence[ItemT]] = {None: items}
        found.update((group, own) for group, own in self.groups(items).items())
        return found

    def figure(
        self,
        model: str,
        metric: str,
        interval: Interval,
        *,
        seed: int,
        unscored: int = 0,
        unit: str = "percent",
        higher_is_better: bool | None = None,
        **more: Any,
    ) -> EvalResult:
        """One row of the result. An interval in natural units is multiplied by 100 where the unit is percent."""
        times = 100.0 if unit == "percent" else 1.0
        value, low, high = (None if x is None else x * times for x in (interval.value, interval.low, interval.high))
        fields: dict[str, Any] = {
            "model": model,
            "benchmark": self.name,
            "version": self.version,
            "suite": self.suite,
            "metric": metric,
            "value": value,
            "ci_low": low,
            "ci_high": high,
            "n_scored": interval.n,
            "n_unscored": unscored,
            "seed": seed,
            "higher_is_better": higher_is_better,
            "samples_path": None,
            "unit": unit,
            "method": interval.method,
        }
        return EvalResult(**fields | more)


def by_model(items: Sequence[ItemT]) -> dict[str, list[ItemT]]:
    """Items by model, in order of first appearance; one nameless model without items where there are none."""
    found: dict[str, list[ItemT]] = {}
    for item in items:
        found.setdefault(item.model, []).append(item)
    return found or {"": []}


def by_name(items: Sequence[ItemT], name: Callable[[ItemT], str | None]) -> dict[str, list[ItemT]]:
    """Items by a name that they share, in order of first appearance; those without one are left out."""
    found: dict[str, list[ItemT]] = {}
    for item in items:
        if shared := name(item):
            found.setdefault(shared, []).append(item)
    return found


def parse_rows(rows: Sequence[Row], record: type[ItemT], **more: Any) -> Read[ItemT]:
    """Every row as a record, with the fields `more` beside the row's own; a row that is none is refused.

    One that would be a record without its predictions is both: its reason is told, and the item counts as unscored.
    """
    items: list[ItemT] = []
    refused: list[tuple[str, str]] = []
    for row in rows:
        try:
            items.append(record.model_validate(row.values | more).read_at(row.where))
        except ValidationError as error:
            refused.append((row.where, first_problem(error)))
            items += _without_predictions(row, record, more)
    return Read(items, refused)


def _without_predictions(row: Row, record: type[ItemT], more: Mapping[str, Any]) -> list[ItemT]:
    """The record with no prediction in it, where it is one then."""
    if not record.predictions:
        return []
    try:
        item = record.model_validate({**row.values, **more, **dict.fromkeys(record.predictions)})
    except ValidationError:
        return []
    return [item.read_at(row.where, refused=True)]


def refuse_twins(items: Iterable[StoredItem], *names: str) -> None:
    """DataError when two items of one model have the same values of these fields: they would count twice."""
    refuse_same((item.where, {name: getattr(item, name) for name in names}, item.model) for item in items)


def refuse_same(rows: Iterable[tuple[str, Mapping[str, object], str]]) -> None:
    """DataError when two rows, each (file and line, what names it, its model), have one name in one model."""
    first: dict[tuple[object, ...], str] = {}
    for where, named, model in rows:
        key = (model, *named.values())
        if key not in first:
            first[key] = where
            continue
        shown = ", ".join(f"{name} {value}" for name, value in named.items() if value not in ("", None))
        if where == first[key]:
            raise DataError(f"{where} is read twice ({shown}); give every file once")
        raise DataError(f"{where} and {first[key]} are both {shown}; remove one")


def refuse_same_names(paths: Iterable[Path]) -> None:
    """DataError when two files have one name, which is what their predictions are called."""
    first: dict[str, Path] = {}
    for path in paths:
        other = first.get(stem(path))
        if other is not None and other.resolve() == path.resolve():
            raise DataError(f"{path} is given twice; give every file once")
        if other is not None:
            raise DataError(f"{path} and {other} would both be called {stem(path)}; rename one")
        first[stem(path)] = path


def first_problem(error: ValidationError) -> str:
    """`answer_info.ans0: Field required`: the first thing that is wrong with a row."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
