"""GSM8K: worked solutions of school problems, right when they end in the right number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from alignment.errors import DataError, nearest
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import share_interval
from alignment.evaluation.stored.rows import Row, columns, read_rows, stem
from alignment.evaluation.stored.stored import (
    Read,
    StoredBenchmark,
    StoredItem,
    by_model,
    parse_rows,
    refuse_same_names,
)
from reward.verifiable import final_number

GOLD = ("ground_truth", "answer", "gold", "reference")
SOLUTION = ("solution", "completion", "response", "prediction", "output")


def _written(value: Any) -> Any:
    """A number as its digits, 18.0 and 1e16 without an exponent (a file may hold the number itself); NaN is nothing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return format(Decimal(str(value)), "f") if math.isfinite(value) else None


class GSM8KItem(StoredItem):
    """A worked answer of the data set and a model's solution."""

    predictions = ("solution",)

    gold: str = Field(description="Ends in the right number: `#### 18`, `A: 18` or the number alone.")
    solution: str | None = Field(description="What the model wrote; null is unscored, a text without number wrong.")

    @field_validator("gold", mode="before")
    @classmethod
    def _ends_in_a_number(cls, value: Any) -> str:
        text = str(_written(value))
        if final_number(text) is None:
            raise ValueError("the reference has no final number")
        return text

    @field_validator("solution", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return _written(value)


class GSM8K(StoredBenchmark[GSM8KItem]):
    name = "gsm8k"
    version = 3
    suite = "forgetting"
    record = GSM8KItem
    options = ("prediction",)
    about = "Share of school problems solved (Cobbe et al. 2021): the number after the last `####`, or the last number."
    files = (
        "JSONL with the worked answer (`ground_truth`, `answer`, `gold` or `reference`) and the model's solution "
        "(`solution`, `completion`, `response`, `prediction` or `output`), or as in the authors' "
        "`example_model_solutions.jsonl` an object with a `solution` per model; `--prediction` names another column or "
        "chooses one of the models. Commas, currency and units do not count: 18 = 18.00 = $18."
    )
    example = "gsm8k solutions.jsonl"

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[GSM8KItem]:
        refuse_same_names(paths)
        items: list[GSM8KItem] = []
        refused: list[tuple[str, str]] = []
        for path in paths:
            rows = read_rows(path)
            named = options.get("prediction")
            gold = _one_of([name for name in GOLD if name != named], rows, path, "the right answers")
            for column in _columns(rows, path, named):
                nested = any(isinstance(row.values.get(column), dict) for row in rows)
                found = parse_rows(
                    [Row(row.where, {"gold": row.values.get(gold), "solution": _text(row, column)}) for row in rows],
                    GSM8KItem,
                    model=column if nested or "prediction" in options else stem(path),
                )
                items += found.items
                refused += found.refused
        return Read(items, refused)

    def score(self, items: Sequence[GSM8KItem], *, seed: int) -> list[EvalResult]:
        results = []
        for model, own in by_model(items).items():
            given = [(item.gold, item.solution) for item in own if item.solution is not None]
            answers = [(final_number(gold), final_number(solution)) for gold, solution in given]
            right = share_interval([float(gold == answer) for gold, answer in answers], seed=seed)
            silent = share_interval([float(answer is None) for _, answer in answers], seed=seed)
            shared: dict[str, Any] = {"seed": seed, "unscored": len(own) - len(given)}
            results.append(self.figure(model, "accuracy", right, higher_is_better=True, primary=True, **shared))
            results.append(self.figure(model, "no_number", silent, higher_is_better=False, **shared))
        return results


def _columns(rows: Sequence[Row], path: Path, name: str | None) -> list[str]:
    """The column of the solutions; without one, those of every model that the file has solutions of."""
    known = columns(rows)
    if name is not None:
        if rows and name not in known:
            raise DataError(f"{path}: no column {name!r}{nearest(name, known)}")
        return [name]
    models = [column for column in known if any(_nested(row.values.get(column)) for row in rows)]
    return models or [_one_of(SOLUTION, rows, path, "the model's solutions; name it with --prediction")]


def _nested(value: Any) -> bool:
    return isinstance(value, dict) and "solution" in value


def _one_of(names: Sequence[str], rows: Sequence[Row], path: Path, what: str) -> str:
    known = columns(rows)
    found = [name for name in names if not rows or name in known]
    if not found:
        raise DataError(f"{path}: none of the columns {', '.join(names)} is there for {what}")
    if rows and len(found) > 1:
        raise DataError(f"{path}: {' and '.join(found)} may both be {what}; keep one")
    return found[0]


def _text(row: Row, column: str) -> Any:
    value = row.values.get(column)
    return value.get("solution") if isinstance(value, dict) else value
