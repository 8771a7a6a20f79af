"""The stage x benchmark matrix for reading: scores with their alignment tax, and the measures below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignment.evaluation.forgetting import LABELS, NAME, columns
from alignment.evaluation.result import EvalResult
from alignment.report.display import NOT_AVAILABLE, metric_name, shown, undefined_reason
from alignment.report.heat import level
from alignment.report.load import Run
from alignment.report.tables import RECORD_FIELDS, Table, result_record


@dataclass(frozen=True)
class Score:
    """A model on a benchmark. `step` -3..3: how many half-intervals of its tax it lies below or above the origin."""

    result: EvalResult | None
    tax: EvalResult | None
    step: int | None


@dataclass(frozen=True)
class BenchmarkRow:
    """`averaged`: whether it enters the measures."""

    name: str
    averaged: bool
    scores: tuple[Score, ...]  # one per model


@dataclass(frozen=True)
class MeasureRow:
    """ACC, BWT, F, FWT; None where a model has none (the origin)."""

    name: str
    results: tuple[EvalResult | None, ...]
    steps: tuple[int | None, ...]


@dataclass(frozen=True)
class Matrix:
    models: tuple[str, ...]
    origin: str
    benchmarks: tuple[BenchmarkRow, ...]
    measures: tuple[MeasureRow, ...]


def matrix(run: Run) -> Matrix | None:
    """None for a run that has no forgetting measures."""
    taxes = {(r.group, r.model): r for r in run.results if r.benchmark == NAME and r.metric == "alignment_tax"}
    if not taxes:
        return None
    origin = str(next(iter(taxes.values())).compared_to)
    found = columns(run.results, origin)
    named = {origin, *(model for column in found for model in column.levels)}
    models = tuple(name for name in run.models if name in named)
    rows = []
    for column in found:
        own = [(column.levels.get(model), taxes.get((column.benchmark, model))) for model in models]
        scores = tuple(Score(result, tax, None if tax is None else level(tax, None)) for result, tax in own)
        rows.append(BenchmarkRow(metric_name(next(iter(column.levels.values()))), column.averaged, scores))
    return Matrix(models, origin, tuple(rows), tuple(_measures(run.results, models)))


def _measures(results: Sequence[EvalResult], models: Sequence[str]) -> list[MeasureRow]:
    rows = []
    for metric in LABELS:
        own = {r.model: r for r in results if r.benchmark == NAME and r.metric == metric and r.group is None}
        if any(r.value is not None for r in own.values()):
            cells = tuple(own.get(model) for model in models)
            steps = tuple(None if r is None or r.compared_to is None else level(r, None) for r in cells)
            rows.append(MeasureRow(metric_name(next(iter(own.values()))), cells, steps))
    return rows


def undefined(run: Run) -> list[str]:
    """Measures that no model has, and why."""
    found: dict[str, str] = {}
    for metric in LABELS:
        own = [r for r in run.results if r.benchmark == NAME and r.metric == metric]
        if own and all(r.value is None for r in own):
            found[metric_name(own[0])] = undefined_reason(own[0])
    return [f"{name} is undefined: {why}." for name, why in found.items()]


def matrix_table(found: Matrix, caption: str) -> Table:
    """As a paper's table: the score, and in brackets the tax; every digit is in the CSV."""
    rows, records = [], []
    for row in found.benchmarks:
        rows.append((row.name, *(_score(score) for score in row.scores)))
        records += [result_record(r) for score in row.scores for r in (score.result, score.tax) if r is not None]
    for measure in found.measures:
        rows.append((measure.name, *("" if r is None else _text(r) for r in measure.results)))
        records += [result_record(r) for r in measure.results if r is not None]
    text = f"{caption}. In brackets: the alignment tax, what was lost against {found.origin}."
    if any(NOT_AVAILABLE in cell for row in rows for cell in row):
        text += f" {NOT_AVAILABLE}: not measured or undefined; the CSV has the reason."
    header = ("Benchmark", *found.models)
    align = "l" + "r" * len(found.models)
    return Table("forgetting_matrix", text, header, align, tuple(rows), tuple(records), RECORD_FIELDS)


def _score(score: Score) -> str:
    if score.result is None:
        return NOT_AVAILABLE
    return shown(score.result).value + (f" ({shown(score.tax).value})" if score.tax is not None else "")


def _text(result: EvalResult) -> str:
    words = shown(result)
    return f"{words.value} {words.interval}".strip()
