"""Agreement of raters: who gave which unit which value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from alignment.errors import DataError
from alignment.evaluation.metrics import agreement as measures
from alignment.evaluation.metrics.agreement import LEVELS, Value, cohen_kappa, krippendorff_alpha
from alignment.evaluation.metrics.dawid_skene import dawid_skene
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval
from alignment.evaluation.stored.judgement_columns import judgement_columns, missing
from alignment.evaluation.stored.rows import Row, read_rows, stem
from alignment.evaluation.stored.stored import (
    Read,
    StoredBenchmark,
    StoredItem,
    by_model,
    parse_rows,
    refuse_same_names,
    refuse_twins,
)

MOST_CLASSES = 20
MOST_NAMED = 8  # raters whose names stand in the method
PRINTED_STEPS = 5  # of expectation-maximisation: after these are the priors in print (decisions/0010)
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
UNITS = {"fleiss_kappa": "kappa", "kendall_w": "W", "percent_agreement": "percent"}


class Judgement(StoredItem):
    """What one rater said of one unit. `model` is the table's name."""

    predictions = ("value",)

    unit: str = Field(min_length=1)
    rater: str = Field(min_length=1)
    value: float | str | None = Field(description="A number or a category; null, or what stands for it, is not rated.")
    round: str = Field("", description="Tells the judgements of a rater who rates a unit several times apart.")

    @field_validator("unit", "rater", "round", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return str(int(value))  # a column of numbers with a gap comes as 1.0
        return str(value) if isinstance(value, (int, float)) else value

    @field_validator("value", mode="before")
    @classmethod
    def _rated(cls, value: Any) -> Any:
        return None if missing(value) else value.strip() if isinstance(value, str) else value


class Agreement(StoredBenchmark[Judgement]):
    name = "agreement"
    version = 3
    suite = "agreement"
    record = Judgement
    options = ("unit", "raters", "value")
    about = (
        "Agreement of raters beyond chance: Krippendorff's alpha on four levels of measurement, Fleiss' kappa, "
        "Kendall's W (corrected for ties), mean pairwise agreement, Cohen's kappa of two raters, and the share of each "
        "class by raters with errors of their own (Dawid & Skene 1979)."
    )
    files = (
        "CSV, TSV or JSONL, long (`unit, rater, value`, one judgement a row; with a column `round` a rater may rate a "
        "unit again) or wide (one unit a row, a column per rater). Usual names will do (`item`, `example_id`, "
        "`question`, `id`; `annotator`, `coder`, `judge`, `worker`, `user`; `label`, `rating`, `score`), and of a wide "
        "table numbered columns (`annotation_1`, `annotator_a`, `label_2`) are the raters whatever else is there. "
        "Where columns cannot be told apart by name and content, `--raters a,b,c` names the raters', or `--unit`, "
        "`--raters` and `--value` the three of a long table. Not rated: empty cells, null, `NA`, `N/A`, `NaN`, `NULL` "
        "in any case, `None` (`none` is a class), `*` and `.`; `-` and `?` are classes. Values are numbers if all of "
        "them are. Ordinal, interval and ratio alphas and Kendall's W need numbers. Choose the level that fits the "
        "scale beforehand. Fleiss' kappa and Kendall's W are of the units that every rater rated (kappa, where "
        "there is none, of those with the usual number of ratings); the others are unscored. `dawid_skene_prior` "
        "is the share of greatest likelihood, `dawid_skene_prior_5_steps` the one after five steps of "
        "expectation-maximisation, as printed for the paper's anaesthetists."
    )
    example = "agreement judgements.csv"
    notes = ("raters who all say the same have no agreement beyond chance to measure: undefined, not 1",)

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[Judgement]:
        refuse_same_names(paths)
        items: list[Judgement] = []
        refused: list[tuple[str, str]] = []
        for path in paths:
            found = parse_rows(_long(read_rows(path), path, options), Judgement, model=stem(path))
            items += found.items
            refused += found.refused
        refuse_twins(items, "unit", "rater", "round")
        stars = next((item for item in items if re.fullmatch(r"\s*\*{2,}\s*", str(item.value))), None)
        if stars is not None:
            raise DataError(f"unit {stars.unit}: is {stars.value} a rating? * is read as not rated; use numbers")
        for own in by_model(items).values():
            _refuse_infinite(own)
        return Read(items, refused)

    def score(self, items: Sequence[Judgement], *, seed: int) -> list[EvalResult]:
        return [result for model, own in by_model(items).items() for result in self._figures(model, own, seed)]

    def _figures(self, model: str, items: Sequence[Judgement], seed: int) -> Iterator[EvalResult]:
        ratings = table(items)
        rated = {item.rater for item in items if item.value is not None}
        raters = [rater for rater in dict.fromkeys(item.rater for item in items) if rater in rated]
        named = f"{len(raters)} raters" if len(raters) > MOST_NAMED else f"raters: {', '.join(raters)}"
        for metric, unit, interval in _measured(ratings, seed):
            yield self.figure(
                model,
                metric,
                interval,
                unit=unit,
                seed=seed,
                unscored=len(ratings) - interval.n,
                higher_is_better=True,
                primary=metric == "krippendorff_alpha_nominal",
                method=f"{interval.method}; {named}" if raters and interval.value is not None else interval.method,
            )
        yield from self._classes(model, items, len(ratings), seed)

    def _classes(self, model: str, items: Sequence[Judgement], units: int, seed: int) -> Iterator[EvalResult]:
        """The share of each class; for more values than a scale of classes has, they are measurements."""
        rated = [item for item in items if item.value is not None]
        unit_of, rater_of = ({one: i for i, one in enumerate(dict.fromkeys(names))} for names in _names(rated))
        labels = _labels(rated)
        if len(set(labels)) > MOST_CLASSES:
            return
        said = [(unit_of[i.unit], rater_of[i.rater], label) for i, label in zip(rated, labels, strict=True)]
        for metric, steps in (("dawid_skene_prior", None), (f"dawid_skene_prior_{PRINTED_STEPS}_steps", PRINTED_STEPS)):
            fitted = dawid_skene(said, steps=steps)
            for label, share in zip(map(str, fitted.classes), fitted.prior, strict=True) if fitted else ():
                which = "maximum likelihood, after" if steps is None else "not the maximum: after"
                method = f"Dawid-Skene, {which} {fitted.n_steps} steps; no interval" if fitted else ""
                prior = Interval(float(share), None, None, method, len(unit_of))
                shared: dict[str, Any] = {"group": label, "unit": "share", "unscored": units - len(unit_of)}
                yield self.figure(model, metric, prior, seed=seed, **shared)


def _measured(ratings: Sequence[Sequence[Value | None]], seed: int) -> Iterator[tuple[str, str, Interval]]:
    """(metric, unit, value) of a whole table."""
    for level in LEVELS:
        yield f"krippendorff_alpha_{level}", "alpha", krippendorff_alpha(ratings, level, seed=seed)
    for metric, measure in measures.MEASURES.items():
        yield metric, UNITS[metric], measure(ratings, seed=seed)
    if ratings and len(ratings[0]) == 2:
        first, second = ([row[side] for row in ratings] for side in (0, 1))
        yield "cohen_kappa", "kappa", cohen_kappa(first, second, seed=seed)


def table(items: Sequence[Judgement]) -> list[list[Value | None]]:
    """Units by the raters who rated any, in order of first appearance; numbers if every value is one."""
    rated = {(item.rater, item.round) for item in items if item.value is not None}
    known = dict.fromkeys(one for item in items if (one := (item.rater, item.round)) in rated)
    raters = {rater: place for place, rater in enumerate(known)}
    numbers = all(item.value is None or _is_number(item.value) for item in items)
    rows: dict[str, list[Value | None]] = {}
    for item in items:
        row = rows.setdefault(item.unit, [None] * len(raters))
        if item.value is not None:
            row[raters[item.rater, item.round]] = float(item.value) if numbers else str(item.value)
    return list(rows.values())


def _labels(items: Sequence[Judgement]) -> list[str]:
    """The values as names of classes: 1 and 1.0 are one where all are numbers."""
    if all(item.value is not None and _is_number(item.value) for item in items):
        return [f"{float(item.value):g}" for item in items if item.value is not None]
    return [str(item.value) for item in items]


def _names(items: Sequence[Judgement]) -> tuple[list[str], list[str]]:
    return [item.unit for item in items], [item.rater for item in items]


def _is_number(value: Value) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _refuse_infinite(items: Sequence[Judgement]) -> None:
    """DataError for an infinite value among numbers: for its sake all of them would be read as names of classes."""
    odd = [item for item in items if item.value is not None and not _is_number(item.value)]
    infinite = [item for item in odd if INFINITE.fullmatch(str(item.value))]
    if odd and len(infinite) == len(odd) < sum(item.value is not None for item in items):
        first = odd[0]
        raise DataError(f"{first.where}: {first.value} of {first.rater} is no rating; an empty cell is not rated")


def _long(rows: Sequence[Row], path: Path, options: Mapping[str, str]) -> list[Row]:
    """One row per judgement, out of either form."""
    if not rows:
        return []
    columns = judgement_columns(rows, path, options)
    found = []
    for number, row in enumerate(rows, 1):
        unit = str(number) if columns.unit is None else row.values.get(columns.unit)
        if columns.value is None:
            said = [{"rater": rater, "value": row.values.get(rater)} for rater in columns.raters]
        else:
            rater, again = row.values.get(columns.raters[0]), row.values.get("round")
            said = [{"rater": rater, "value": row.values.get(columns.value), "round": "" if again is None else again}]
        found += [Row(row.where, {"unit": unit, **one}) for one in said]
    return found
