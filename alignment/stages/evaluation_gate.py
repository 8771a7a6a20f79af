"""The gate of an evaluation: a run whose models forgot too much ends with exit code 1 and the table.

forgetting:
  max_drop: 2.0                     # percentage points, of every forgetting benchmark's primary share or percentage
  max_rise: {bits_per_byte: 0.03}   # where lower is better (forward_kl too): by benchmark, in its own unit
  significant: true                 # count a loss only where its whole 95% interval is beyond 0, or it has none
  only: [dpo]                       # models held to it; default: all but the one that forgetting is measured from
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignment.errors import AlignmentError, RecipeError, nearest
from alignment.evaluation.forgetting import NAME, POINTS, Column, columns
from alignment.evaluation.result import EvalResult
from alignment.report.display import visible

HEADINGS = ("benchmark", "model", "before", "after", "lost", "95% interval", "limit", "")


class ForgettingGate(BaseModel):
    """How much may be lost. The point estimate decides, so that few items are no way through; `significant` relaxes it.

    A loss that is undefined does not pass; one without an interval (one item, or all items changed alike) is decided by
    its point estimate, `significant` or not. `learned_at`: benchmark -> the stage that taught it, for BWT, F and FWT.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_drop: float | None = Field(None, ge=0)
    max_rise: dict[str, float] = {}
    significant: bool = False
    only: list[str] = []
    learned_at: dict[str, str] = {}

    @model_validator(mode="after")
    def _says_something(self) -> ForgettingGate:
        if self.max_drop is None and not self.max_rise and (self.significant or self.only or not self.learned_at):
            raise ValueError("set max_drop (percentage points), or max_rise by benchmark")
        if any(limit < 0 for limit in self.max_rise.values()):
            raise ValueError("a max_rise is 0 or more")
        return self

    @property
    def limits(self) -> bool:
        """Whether there is anything to hold a model to."""
        return self.max_drop is not None or bool(self.max_rise)


@dataclass(frozen=True)
class Loss:
    """What a model lost on a benchmark against `before`; percentage points of shares, else the metric's own unit."""

    benchmark: str
    model: str
    before: float | None
    after: float | None
    lost: float | None
    low: float | None
    high: float | None
    limit: float
    method: str

    def exceeds(self, significant: bool) -> bool:
        """Whether it is over the limit; undefined is. Only an interval that reaches 0 excuses it, none does not."""
        if self.lost is None:
            return True
        reaches_0 = self.low is not None and self.low <= 0
        return self.lost > self.limit + 1e-9 and not (significant and reaches_0)


def check_gate(
    stage: str, gate: ForgettingGate, models: Sequence[str], benchmarks: Sequence[str], forgetting: Sequence[str]
) -> None:
    """Raises RecipeError for names that the evaluation has not; `forgetting`: its benchmarks of that suite."""
    for name in (*gate.only, *gate.learned_at.values()):
        if name not in models:
            raise RecipeError(f"{stage}: forgetting: {name!r} is not among models{nearest(name, models)}")
    for name in (*gate.max_rise, *gate.learned_at):
        if name not in forgetting:
            what = "is no forgetting benchmark" if name in benchmarks else "is not evaluated"
            raise RecipeError(f"{stage}: forgetting: {name!r} {what}{nearest(name, forgetting)}")
    if gate.limits and (len(models) < 2 or not forgetting):
        raise RecipeError(
            f"{stage}: forgetting: nothing to hold to it; name two models and a benchmark of the suite forgetting"
        )


def losses(gate: ForgettingGate, results: Sequence[EvalResult], origin: str) -> list[Loss]:
    """What every model held to the gate lost, where a limit is set. Pure."""
    taxes = {(r.group, r.model): r for r in results if r.benchmark == NAME and r.metric == "alignment_tax"}
    found = []
    for column in columns(results, origin):
        limit = gate.max_drop if column.averaged else gate.max_rise.get(column.benchmark)
        if limit is not None:
            held = [model for model in column.levels if model != origin and model in (gate.only or column.levels)]
            found += [_loss(column, model, origin, limit, taxes.get((column.benchmark, model))) for model in held]
    for r in results:  # a divergence from the origin is a loss as it is
        limit = gate.max_rise.get(r.benchmark)
        divergence = r.primary and r.group is None and r.compared_to == origin and r.higher_is_better is False
        if limit is not None and divergence and r.model in (gate.only or [r.model]):
            found.append(Loss(r.benchmark, r.model, 0.0, r.value, r.value, r.ci_low, r.ci_high, limit, r.method))
    return found


def _loss(column: Column, model: str, origin: str, limit: float, tax: EvalResult | None) -> Loss:
    unit = next(iter(column.levels.values())).unit
    before, after = (column.levels.get(name) for name in (origin, model))
    factor = POINTS.get(unit, 1.0)

    def scaled(value: float | None) -> float | None:
        return None if value is None else factor * value

    return Loss(
        benchmark=column.benchmark,
        model=model,
        before=scaled(before.value if before is not None else None),
        after=scaled(after.value if after is not None else None),
        lost=scaled(tax.value if tax is not None else None),
        low=scaled(tax.ci_low if tax is not None else None),
        high=scaled(tax.ci_high if tax is not None else None),
        limit=limit,
        method=tax.method if tax is not None else "not measured",
    )


def enforce(
    stage: str, gate: ForgettingGate, results: Sequence[EvalResult], origin: str, say: Callable[[str], None]
) -> None:
    """Says the table. Raises AlignmentError when a model lost more than it may, or nothing was measured to tell."""
    found = losses(gate, results, origin)
    for line in table(gate, found):
        say(line)
    measured = {loss.benchmark for loss in found}
    if missing := [name for name in gate.max_rise if name not in measured]:
        raise AlignmentError(f"{stage}: forgetting: {', '.join(missing)} was not measured as lower is better: no gate")
    if not found:
        raise AlignmentError(f"{stage}: forgetting: max_drop is of shares and percentages, and none was measured")
    over = [loss for loss in found if loss.exceeds(gate.significant)]
    if over:
        models = ", ".join(dict.fromkeys(loss.model for loss in over))
        raise AlignmentError(
            f"{stage}: forgetting: {models} lost more than allowed ({len(over)} of {len(found)} rows of the table "
            "above); the results are kept, and with other limits nothing is predicted again"
        )


def table(gate: ForgettingGate, found: Sequence[Loss]) -> list[str]:
    """One aligned line per benchmark and model."""
    rows = [HEADINGS, *(_cells(gate, loss) for loss in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(gate: ForgettingGate, loss: Loss) -> tuple[str, ...]:
    interval = "none" if loss.low is None or loss.high is None else f"{loss.low:+.2f} to {loss.high:+.2f}"
    before, after, lost = (
        "undefined" if value is None else f"{value:.2f}" for value in (loss.before, loss.after, loss.lost)
    )
    said = "exceeded" if loss.exceeds(gate.significant) else ""
    if loss.lost is None:
        interval, said = visible(" ".join(loss.method.split())), "undefined: does not pass"
    return (loss.benchmark, visible(loss.model), before, after, lost, interval, f"{loss.limit:g}", said)
