"""What alignment cost elsewhere: R[stage][benchmark], its measures, and the alignment tax of every benchmark.

ACC, BWT, FWT (Lopez-Paz & Ranzato 2017) and F (Chaudhry et al. 2018) are defined for tasks that are learned one by one.
An alignment chain trains on none of the benchmarks: each counts as learned at the origin, stage 0, unless `learned_at`
says otherwise. With the task of every stage in `learned_at` they are the papers' own formulas. A model's chain is what
it was trained from, back to the origin; models beside it (PPO beside DPO) are no stages of it.

Only shares and percentages of which higher is better are averaged, in percentage points. Bits per byte and the like
have a tax of their own and stand apart. Averages hide changes that offset each other: read the tax by benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError
from alignment.evaluation.lineage import chain
from alignment.evaluation.metrics.forgetting import transfer
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import RESAMPLES, bounded, unsure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from alignment.evaluation.benchmarks.benchmark import EvalContext
    from alignment.evaluation.benchmarks.measures import Measure
    from alignment.evaluation.paired_tests import Measures

    Floats = npt.NDArray[np.float64]

NAME = "forgetting"  # of the benchmark that these results are of, and of the suite
VERSION = 1
POINTS = {"share": 100.0, "percent": 1.0}  # unit -> factor to percent; other units are not averaged
_DRAWS_AT_A_TIME = 4_000_000
LABELS = {
    "acc": "mean score of the forgetting benchmarks (ACC)",
    "acc_difference": "mean change on the forgetting benchmarks",
    "bwt": "backward transfer (BWT)",
    "forgetting": "forgetting (F)",
    "fwt": "forward transfer (FWT)",
}
NO_LATER = "undefined: no benchmark is learned after the first stage (learned_at)"
UNDEFINED = {"bwt": "undefined: all is learned at the last stage", "fwt": NO_LATER}


@dataclass(frozen=True)
class Column:
    """One benchmark: its primary result and its change from the origin, by model."""

    benchmark: str
    levels: Mapping[str, EvalResult]
    changes: Mapping[str, EvalResult]

    @property
    def averaged(self) -> bool:
        """Whether it enters the means: higher is better, and its unit is that of the others."""
        one = next(iter(self.levels.values()))
        return one.higher_is_better is True and one.unit in POINTS


def columns(results: Sequence[EvalResult], origin: str) -> list[Column]:
    """Every benchmark of the forgetting suite with its primary metric, in order of appearance.

    A primary metric that is a comparison itself (KL from the origin) is no level and has no column.
    """
    levels: dict[str, dict[str, EvalResult]] = {}
    for r in results:
        if r.suite == NAME and r.primary and r.group is None and r.compared_to is None and r.benchmark != NAME:
            levels.setdefault(r.benchmark, {})[r.model] = r
    changes: dict[str, dict[str, EvalResult]] = {name: {} for name in levels}
    for r in results:
        known = next(iter(levels.get(r.benchmark, {}).values()), None)
        if known and r.metric == f"{known.metric}_difference" and r.compared_to == origin and r.group is None:
            changes[r.benchmark][r.model] = r
    return [Column(name, found, changes[name]) for name, found in levels.items()]


def summarise(context: EvalContext, results: Sequence[EvalResult], values: Measures) -> list[EvalResult]:
    """The matrix's measures and taxes of every model, as results of the benchmark "forgetting".

    Empty when fewer than two models have forgetting results. `values` are the item values of all benchmarks: with them
    the measures get intervals. DataError where a benchmark gives one metric in two units.
    """
    origin = context.forgetting_reference()
    found = columns(results, origin)
    _check_units(found)
    measured = [model for model in context.models if any(model in column.levels for column in found)]
    if len(measured) < 2 or origin not in measured:
        return []
    averaged = [column for column in found if column.averaged]
    made: list[EvalResult] = []
    for model in measured:
        stages = [stage for stage in chain(model, origin, context.starts) if stage in measured]
        made += _measures(context, averaged, stages, values)
        made += [_tax(context, column, model, origin) for column in found if model != origin]
    return made


def _check_units(found: Sequence[Column]) -> None:
    for column in found:
        (first, one), *others = column.levels.items()
        for model, other in others:
            if other.unit != one.unit:
                raise DataError(
                    f"{column.benchmark}: {one.metric}: in {one.unit} for {first}, in {other.unit} for {model}; "
                    "a benchmark must give a metric in one unit, whatever a model scores"
                )


def _measures(
    context: EvalContext, averaged: Sequence[Column], stages: Sequence[str], values: Measures
) -> Iterator[EvalResult]:
    import numpy as np

    if not averaged:
        return
    learned = [_stage(context.learned_at.get(column.benchmark), stages) for column in averaged]
    scores = np.array([[_level(column, stage) for column in averaged] for stage in stages])
    value = _with_change(transfer(scores, learned), scores)
    drawn, why = _resampled(context, averaged, stages, values)
    draws = {} if drawn is None else _with_change(transfer(drawn, learned), drawn)
    named = ", ".join(column.benchmark for column in averaged)
    along = " > ".join(stages)
    for metric in LABELS:
        if metric != "acc" and len(stages) == 1:
            continue
        point = float(value[metric])
        low = high = None
        method = f"mean over {len(averaged)} benchmarks ({named}) along {along}; "
        if math.isnan(point):
            gaps = [c.benchmark for c in averaged if any(math.isnan(_level(c, stage)) for stage in stages)]
            method = f"undefined: no score of {', '.join(gaps)}" if gaps else UNDEFINED.get(metric, UNDEFINED["bwt"])
        elif metric not in draws or np.isnan(draws[metric]).any():
            method += f"no interval: {why or 'undefined on a resample'}"
        else:
            below, above = map(float, np.percentile(draws[metric], [2.5, 97.5]))
            how = (
                f"{method}paired bootstrap over items within each, benchmarks fixed, percentile, {RESAMPLES} resamples"
            )
            alike = unsure(f"{method}the resamples of items agree")
            found = bounded(point, below, above, how, len(averaged), size=100.0, without=alike)
            low, high, method = found.low, found.high, found.method
        yield _result(
            context,
            stages[-1],
            metric,
            (None if math.isnan(point) else point, low, high),
            n_scored=len(averaged),
            method=method,
            unit="percent",
            higher_is_better=metric != "forgetting",
            compared_to=None if metric == "acc" else stages[0],
            primary=metric == "acc_difference",
            label=LABELS[metric],
        )


def _stage(model: str | None, stages: Sequence[str]) -> int:
    """Where a benchmark was learned; one that no stage of this chain learned is as known as at the origin."""
    return stages.index(model) if model in stages else 0


def _level(column: Column, model: str) -> float:
    """In percent; NaN where there is no number."""
    result = column.levels.get(model)
    return math.nan if result is None or result.value is None else POINTS[result.unit] * result.value


def _with_change(found: Mapping[str, Floats], scores: Floats) -> dict[str, Floats]:
    return {**found, "acc_difference": (scores[..., -1, :] - scores[..., 0, :]).mean(-1)}


def _resampled(
    context: EvalContext, averaged: Sequence[Column], stages: Sequence[str], values: Measures
) -> tuple[Floats | None, str]:
    """R of RESAMPLES draws (draws, stages, benchmarks), or None and why: the same items are drawn for all stages."""
    import numpy as np

    drawn = []
    for number, column in enumerate(averaged):
        metric = next(iter(column.levels.values())).metric
        measures = [values.get((column.benchmark, stage), {}).get(metric) for stage in stages]
        known = [measure for measure in measures if measure is not None]
        if len(known) < len(stages):
            return None, f"{column.benchmark} keeps no item values of {metric}"
        levels = [None if one.value() is None else POINTS.get(one.unit, math.nan) * (one.value() or 0) for one in known]
        printed = [_level(column, stage) for stage in stages]
        pairs = zip(levels, printed, strict=True)
        if not all(a is not None and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-7) for a, b in pairs):
            return None, f"{column.benchmark}/{metric} is no mean over items"
        found = _levels_of_draws(known, [context.seed, number])
        if found is None:
            return None, f"{column.benchmark} has one item or cluster"
        drawn.append(found * [POINTS[one.unit] for one in known])
    return np.stack(drawn, axis=-1), ""


def _levels_of_draws(measures: Sequence[Measure], seed: Sequence[int]) -> Floats | None:
    """A metric of every stage on draws of whole clusters (draws, stages); NaN where a draw has no item of a stage."""
    import numpy as np

    codes: dict[Any, int] = {}
    for measure in measures:
        for item in measure.items.values():
            codes.setdefault(item.cluster, len(codes))
    if len(codes) < 2:
        return None
    above, below = np.zeros((len(codes), len(measures))), np.zeros((len(codes), len(measures)))
    for stage, measure in enumerate(measures):
        for item in measure.items.values():
            if item.value is not None:
                above[codes[item.cluster], stage] += item.value
                below[codes[item.cluster], stage] += item.weight
    rng, found = np.random.default_rng(list(seed)), []
    rows = max(1, _DRAWS_AT_A_TIME // len(codes))
    for start in range(0, RESAMPLES, rows):
        counts = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), min(rows, RESAMPLES - start))
        weights = counts @ below
        found.append(np.divide(counts @ above, weights, out=np.full_like(weights, np.nan), where=weights > 0))
    return np.concatenate(found)


def _tax(context: EvalContext, column: Column, model: str, origin: str) -> EvalResult:
    """Capability lost: score(origin) - score(model), the benchmark's own paired difference with its sign turned.

    Where lower is better it is the rise, so that more than 0 is worse everywhere.
    """
    one = next(iter(column.levels.values()))
    change = column.changes.get(model)
    sign = 1.0 if one.higher_is_better is False else -1.0
    shown = {"group": column.benchmark, "compared_to": origin, "unit": one.unit, "higher_is_better": False}
    what = "rise, for lower is better" if sign > 0 else f"{origin} minus {model}"
    label = "alignment tax"
    if change is not None and change.value is not None:
        bounds = [None if b is None else sign * b for b in (change.ci_low, change.ci_high)]
        low, high = bounds if sign > 0 else reversed(bounds)
        method = f"{what}; {change.method}"
        n = {"n_scored": change.n_scored, "n_unscored": change.n_unscored, "p_value": change.p_value}
        value = (sign * change.value, low, high)
        return _result(context, model, "alignment_tax", value, method=method, label=label, **shown, **n)
    before, after = (column.levels.get(name) for name in (origin, model))
    if before is None or after is None or before.value is None or after.value is None:
        method = change.method if change else f"undefined: no score of {column.benchmark}"
        return _result(
            context, model, "alignment_tax", (None, None, None), n_scored=0, method=method, label=label, **shown
        )
    value = (sign * (after.value - before.value), None, None)
    method = f"{what}; no interval: {column.benchmark} gives no paired difference"
    return _result(context, model, "alignment_tax", value, n_scored=after.n_scored, method=method, label=label, **shown)


def _result(
    context: EvalContext, model: str, metric: str, value: tuple[float | None, float | None, float | None], **more: Any
) -> EvalResult:
    fields = {
        "model": model,
        "benchmark": NAME,
        "version": VERSION,
        "suite": NAME,
        "metric": metric,
        "value": value[0],
        "ci_low": value[1],
        "ci_high": value[2],
        "n_unscored": 0,
        "seed": context.seed,
        "samples_path": None,
    }
    return EvalResult(**{**fields, **more})
