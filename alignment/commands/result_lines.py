"""Results as lines of a terminal: one aligned table, and below it how the intervals were made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alignment.evaluation.result import EvalResult
from alignment.report.display import method_kind, visible

HEADINGS = ("model", "benchmark", "group", "metric", "against", "value", "unit", "95% interval", "scored", "unscored")
DECIMALS = {"percent": 2}  # of a unit in the table; --json gives every digit
OTHER_DECIMALS = 4


def table(results: Sequence[EvalResult], hidden: Sequence[str] = ()) -> list[str]:
    """The results as lines of aligned columns without those `hidden`, and below them how the intervals were made."""
    cells = [HEADINGS, *(_cells(result) for result in results)]
    kept = [c for c, name in enumerate(HEADINGS) if name not in hidden and any(row[c] for row in cells[1:])]
    widths = {column: max(len(row[column]) for row in cells) for column in kept}
    lines = ["  ".join(row[column].ljust(widths[column]) for column in kept).rstrip() for row in cells]
    lines += [f"{', '.join(metrics)}: {shown(method)}" for method, metrics in _methods(results).items()]
    return lines


def _methods(results: Sequence[EvalResult]) -> dict[str, dict[str, None]]:
    """Method -> metrics: in full of the overall numbers, of groups only what is not said yet, and why no interval."""
    found: dict[str, dict[str, None]] = {}
    for result in sorted(results, key=lambda r: r.group is not None):
        kind = method_kind(result.method)
        if result.value is None or (result.group is not None and any(method.startswith(kind) for method in found)):
            continue
        found.setdefault(result.method if result.group is None else kind, {})[result.metric] = None
    return found


def _cells(result: EvalResult) -> tuple[str, ...]:
    value, interval = _value(result)
    return (
        shown(result.model),
        shown(result.benchmark),
        shown(result.group or "all"),
        shown(result.metric),
        shown(result.compared_to or ""),
        value,
        result.unit,
        shown(result.method) if result.value is None else interval,
        str(result.n_scored),
        str(result.n_unscored),
    )


OVERVIEW = ("benchmark", "metric", "model", "value", "95% interval", "change", "95% interval", "n", "unscored")


def overview(results: Sequence[EvalResult]) -> list[str]:
    """The primary metric of every benchmark, a line for each model, with its change from the model compared to."""
    models = {r.model for r in results}
    changes = {(r.benchmark, r.model, r.metric): r for r in results if r.compared_to in models and r.group is None}
    rows: list[tuple[str, ...]] = [OVERVIEW]
    before = ("", "")
    for r in sorted((r for r in results if r.primary and r.group is None), key=_first(results)):
        change = changes.get((r.benchmark, r.model, f"{r.metric}_difference"))
        title = (r.benchmark, f"{r.metric} ({r.unit})")
        rows.append(
            (
                *(("", "") if title == before else map(shown, title)),
                shown(r.model),
                *_value(r),
                *(_value(change) if change else ("", "")),
                str(r.n_scored),
                str(r.n_unscored or ""),
            )
        )
        before = title
    widths = [max(len(row[column]) for row in rows) for column in range(len(OVERVIEW))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    against = list(dict.fromkeys(shown(r.compared_to or "") for r in changes.values()))
    return [*lines, *([f"changes are from {' or '.join(against)}"] if against else [])]


def _first(results: Sequence[EvalResult]) -> Callable[[EvalResult], tuple[int, int]]:
    """Sorts by benchmark, then by model, both in the order of the results."""
    benchmarks = {name: place for place, name in enumerate(dict.fromkeys(r.benchmark for r in results))}
    models = {name: place for place, name in enumerate(dict.fromkeys(r.model for r in results))}
    return lambda r: (benchmarks[r.benchmark], models[r.model])


def _value(result: EvalResult) -> tuple[str, str]:
    if result.value is None:
        return "undefined", ""
    decimals = DECIMALS.get(result.unit, OTHER_DECIMALS)
    value = f"{result.value:.{decimals}f}"
    if result.ci_low is None or result.ci_high is None:
        return value, "none"
    return value, f"{result.ci_low:.{decimals}f} to {result.ci_high:.{decimals}f}"


def shown(text: str) -> str:
    """Text out of a file on one line of a terminal: nothing in it can move the cursor or hide."""
    return visible(" ".join(text.split()))
