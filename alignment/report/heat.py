"""The grid of models and primary metrics: each cell's text, and how far it lies from the base model."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.evaluation.result import EvalResult
from alignment.report.display import metric_name, null_value, shown
from alignment.report.load import Run
from alignment.report.tables import primary

STEPS = (1.0, 2.0, 4.0)  # interval half-widths at which a cell's colour grows stronger


@dataclass(frozen=True)
class Cell:
    """`level` -3..3: how many half-widths worse or better than the base, in STEPS; None: not comparable."""

    text: str
    level: int | None = None
    result: EvalResult | None = None


@dataclass(frozen=True)
class Row:
    """One metric. `directed` is False when neither direction is better; then `level` only says how far."""

    name: str
    note: str
    directed: bool
    cells: tuple[Cell, ...]  # one per model


@dataclass(frozen=True)
class Grid:
    models: tuple[str, ...]
    base: str
    rows: tuple[Row, ...]


def heat_grid(run: Run) -> Grid | None:
    """Models as columns, primary metrics as rows; None when no primary metric was taken of two models.

    A metric of one model alone (the reward model's accuracy) compares nothing and is left to the other tables.
    """
    found: dict[tuple[str, str | None], dict[str, EvalResult]] = {}
    for result in primary(run.results):
        found.setdefault((metric_name(result), result.compared_to), {}).setdefault(result.model, result)
    rows = {key: members for key, members in found.items() if len(members.keys() | {key[1]} - {None}) > 1}
    named = {name for key, members in rows.items() for name in (*members, key[1])}
    models = tuple(name for name in run.models if name in named)
    if not models:
        return None
    cells = tuple(_row(name, versus, members, models) for (name, versus), members in rows.items())
    return Grid(models, models[0], cells)


def _row(name: str, versus: str | None, found: dict[str, EvalResult], models: tuple[str, ...]) -> Row:
    better = next(iter(found.values())).higher_is_better
    arrow = {True: "higher is better", False: "lower is better", None: "neither direction is better"}[better]
    cells = tuple(_cell(model, versus, found, models[0]) for model in models)
    title = f"{name} vs {versus}" if versus else name
    return Row(title, arrow, better is not None, cells)


def _cell(model: str, versus: str | None, found: dict[str, EvalResult], base: str) -> Cell:
    result = found.get(model)
    if result is None:
        return Cell("ref." if model == versus else "–")
    text = shown(result).value
    if model == base and versus is None:
        return Cell(text, None if result.value is None else 0, result)
    return Cell(text, level(result, found.get(base)), result)


def level(result: EvalResult, base: EvalResult | None) -> int | None:
    """The signed step of a value away from its null (a comparison) or from the base model's value.

    The unit is half the 95% interval: the comparison's own, or the base model's. Without one only no difference at all
    has a step, 0.
    """
    null = null_value(result)
    centre, ruler = (null, result) if null is not None else (base.value if base else None, base)
    if result.value is None or centre is None or ruler is None:
        return None
    difference = result.value - centre
    half = 0.0 if ruler.ci_low is None or ruler.ci_high is None else (ruler.ci_high - ruler.ci_low) / 2
    if half == 0:
        return 0 if difference == 0 else None
    size = sum(abs(difference) / half >= step for step in STEPS)
    sign = -1 if (difference < 0) != (result.higher_is_better is False) else 1
    return sign * size
