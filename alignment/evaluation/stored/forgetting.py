"""Forgetting: the matrix of scores of a chain of stages on the tasks that it learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from alignment.errors import DataError, nearest
from alignment.evaluation.metrics import forgetting as metrics
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval
from alignment.evaluation.stored.rows import read_json, stem
from alignment.evaluation.stored.stored import (
    Read,
    StoredBenchmark,
    StoredItem,
    first_problem,
    refuse_same_names,
)

_ONE = "no interval: one matrix is one sequence of trainings"
_OWN = "the best stage from a task's own on, as scores before it are missing"


class ForgettingMatrix(StoredItem):
    """R[i][j] = score on task j after stage i, which trained task i; higher scores are better."""

    tasks: list[str] = Field(description="T names, in the order of training.")
    matrix: list[list[float | None]] = Field(
        description="T rows of T scores; null was not measured, as tasks before their training often are not."
    )
    baseline: list[float | None] | None = Field(None, description="T scores of the untrained model.")

    @field_validator("matrix", "baseline", mode="before")
    @classmethod
    def _scores(cls, value: Any) -> Any:
        rows = value if isinstance(value, list) else []
        cells = [cell for row in rows for cell in (row if isinstance(row, list) else [row])]
        if any(isinstance(cell, bool) for cell in cells):
            raise ValueError("a score is a number or null, not true or false")
        return value

    @model_validator(mode="after")
    def _whole(self) -> ForgettingMatrix:
        if self.tasks and len(self.matrix) == len(self.tasks) + 1:
            raise ValueError(
                f"{len(self.matrix)} rows for {len(self.tasks)} tasks; a row of the untrained model is no row of the "
                "matrix: put it under `baseline`"
            )
        metrics.check(self.matrix, self.baseline)
        if len(self.tasks) != len(self.matrix) or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"{len(self.tasks)} tasks for {len(self.matrix)} rows; one different name for each")
        return self


class Forgetting(StoredBenchmark[ForgettingMatrix]):
    name = "forgetting"
    version = 1
    suite = "forgetting"
    record = ForgettingMatrix
    about = (
        "What a chain of stages forgets: ACC, BWT, FWT (Lopez-Paz & Ranzato 2017, divided by T - 1 as in the paper) "
        "and F (Chaudhry et al. 2018), in the unit of the matrix, and the alignment tax of every task."
    )
    files = (
        'JSON: `{"tasks": [...], "baseline": [...], "matrix": [[...], ...]}`; a row per stage, a column per task, '
        "the baseline may be left out. What was not measured is `null`. With nulls above the diagonal (tasks that were "
        "not evaluated before they were trained) F takes the best of the stages from a task's own on, for every task; "
        "FWT, which is of those scores, is undefined."
    )
    example = "forgetting matrix.json"
    notes = ("averages hide changes that offset each other: read the alignment tax task by task",)

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[ForgettingMatrix]:
        refuse_same_names(paths)
        items = []
        for path in paths:
            value = read_json(path)
            if not isinstance(value, dict):
                raise DataError(f"{path}: expected an object with tasks and matrix")
            _only_known(value, path)
            try:
                items.append(ForgettingMatrix.model_validate(value | {"model": stem(path)}))
            except ValidationError as error:
                raise DataError(f"{path}: {first_problem(error)}") from None
        return Read(items)

    def score(self, items: Sequence[ForgettingMatrix], *, seed: int) -> list[EvalResult]:
        whole: Sequence[ForgettingMatrix] = items or [ForgettingMatrix(tasks=[], matrix=[])]
        return [result for item in whole for result in self._figures(item, seed)]

    def _figures(self, item: ForgettingMatrix, seed: int) -> Iterator[EvalResult]:
        size = len(item.tasks)
        no_baseline = "undefined: no baseline" if item.baseline is None else None
        for metric, value, better, reason in (
            ("acc", metrics.average_accuracy(item.matrix), True, None),
            ("bwt", metrics.backward_transfer(item.matrix), True, None),
            ("fwt", metrics.forward_transfer(item.matrix, item.baseline), True, no_baseline),
            ("forgetting", metrics.forgetting(item.matrix), False, None),
        ):
            used = size if metric == "acc" else max(size - 1, 0)
            why = reason or _why(size, metric)
            primary = metric == "bwt"
            best = metric == "forgetting" and metrics.from_training(item.matrix)
            interval = _point(value, used, why, f"{_OWN}; {_ONE}" if best else _ONE)
            yield self.figure(
                item.model, metric, interval, seed=seed, unit="score", higher_is_better=better, primary=primary
            )
        if size:
            yield from self._tax(item, seed)

    def _tax(self, item: ForgettingMatrix, seed: int) -> Iterator[EvalResult]:
        before = item.matrix[0] if item.baseline is None else item.baseline
        named = "the first stage" if item.baseline is None else "the untrained model"
        for task, tax in zip(item.tasks, metrics.alignment_tax(before, item.matrix[-1]), strict=True):
            interval = _point(tax, 1, "undefined: a score is missing", f"{named} minus the last stage; {_ONE}")
            shared: dict[str, Any] = {"unit": "score", "higher_is_better": False, "group": task}
            yield self.figure(item.model, "alignment_tax", interval, seed=seed, **shared)


def _only_known(value: Mapping[str, Any], path: Path) -> None:
    """DataError for a key that is none: a misspelt `baseline` would change what the alignment tax is taken from."""
    known = ("tasks", "matrix", "baseline", "model")
    for key in value:
        if key not in known:
            raise DataError(f"{path}: unknown key {key!r}{nearest(key, known)}")


def _why(size: int, metric: str) -> str:
    if size == 0:
        return "no data"
    if size == 1 and metric != "acc":
        return "undefined for one task"
    if metric == "fwt":
        return "undefined: a score or baseline of a task before its training is missing"
    return "undefined: a score it needs is missing"


def _point(value: float | None, n: int, why: str, method: str = _ONE) -> Interval:
    return Interval(None, None, None, why, 0) if value is None else Interval(value, None, None, method, n)
