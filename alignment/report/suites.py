"""The overview of a suite: every metric of every model beside its change, with p-values corrected for many tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignment.evaluation.forgetting import NAME as FORGETTING
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import CORRECTIONS
from alignment.report.display import NOT_AVAILABLE, metric_name, null_value, shown, undefined_reason
from alignment.report.tables import RECORD_FIELDS, Table, result_record

SUITES = (
    "helpfulness",
    "safety",
    "reward",
    "factuality",
)  # with a section of their own; the others have had one before
TITLES = {
    "helpfulness": "More on helpfulness",
    "safety": "Safety",
    "reward": "Reward model benchmarks",
    "factuality": "Factuality",
}
LEVEL = 0.05  # of the marks
MARK = "*"


@dataclass(frozen=True)
class Line:
    """A model's metric: its level, its change from another model, and that change's p-value over the whole page."""

    metric: str
    model: str
    level: EvalResult | None
    change: EvalResult | None
    adjusted: float | None = None


Adjusted = Mapping[int, float | None]  # id of a result -> its p-value, corrected


def adjusted_p(results: Sequence[EvalResult], correction: str = "Holm") -> Adjusted:
    """p-values of all paired differences, corrected over all of them: those over all items, and apart those of groups.

    Tests of groups repeat parts of the tests over all items, and there are many of them: counted among these they would
    hide what is there, and left out they would be picked from. The alignment taxes repeat the tests of their benchmarks
    and are not counted again.
    """
    tested = [r for r in results if r.p_value is not None and r.benchmark != FORGETTING]
    found: dict[int, float | None] = {}
    for family in ([r for r in tested if r.group is None], [r for r in tested if r.group is not None]):
        adjusted = CORRECTIONS[correction]([r.p_value for r in family]) if family else []
        found.update((id(r), p) for r, p in zip(family, adjusted, strict=True))
    return found


def lines(results: Iterable[EvalResult], adjusted: Adjusted) -> list[Line]:
    """One per metric and model over all items, metrics in order of appearance; groups are left to the whole table.

    A change without a level of its own (a length against the baseline's) is a line with a change alone. No lines where
    nothing is compared.
    """
    overall = [r for r in results if r.group is None and r.benchmark != FORGETTING]  # which is the matrix's
    changes = {(r.benchmark, level_name(r), r.model): r for r in overall if null_value(r) == 0}
    levels = {(r.benchmark, r.metric, r.model): r for r in overall if null_value(r) != 0}
    found = []
    for key in dict.fromkeys((r.benchmark, level_name(r), r.model) for r in overall):
        level, change = levels.get(key), changes.get(key)
        named = level or change
        assert named is not None  # the keys are theirs
        p = adjusted.get(id(change)) if change is not None else None
        found.append(Line(metric_name(named), key[2], level, change, p))
    changed = any(line.change is not None for line in found)
    return [line for _, members in by_line(found) for line in members] if changed else []


def by_line(found: Iterable[Line]) -> list[tuple[str, list[Line]]]:
    """Lines under their metric, in order."""
    grouped: dict[str, list[Line]] = {}
    for line in found:
        grouped.setdefault(line.metric, []).append(line)
    return list(grouped.items())


def origins(changes: Iterable[EvalResult | None]) -> str:
    """The models that these changes are from."""
    return " or ".join(dict.fromkeys(str(change.compared_to) for change in changes if change is not None))


def against(found: Iterable[Line]) -> str:
    """The models that the changes of these lines are from."""
    return origins(line.change for line in found)


def from_several(found: Sequence[Line]) -> bool:
    """Whether a metric has to say for itself which model its changes are from."""
    return len({line.change.compared_to for line in found if line.change is not None}) > 1


def level_name(result: EvalResult) -> str:
    """The metric that a difference is of, as its benchmark names it; a level is its own."""
    head, slash, by = result.metric.partition("/")
    return (head.removesuffix("_difference") if null_value(result) == 0 else head) + slash + by


def suite_table(suite: str, caption: str, results: Sequence[EvalResult], whole: Sequence[EvalResult]) -> Table | None:
    """The lines as a paper's table, if there are any; `whole`: all results of the run, all of whose tests count."""
    holm, bh = (adjusted_p(whole, correction) for correction in ("Holm", "Benjamini-Hochberg"))
    rows, records = [], []
    shown_lines = lines(results, holm)
    if not shown_lines:
        return None
    several = from_several(shown_lines)
    for metric, members in by_line(shown_lines):
        named = f"{metric} (change from {against(members)})" if several and against(members) else metric
        for index, line in enumerate(members):
            rows.append(("" if index else named, line.model, *_level(line), *_change(line)))
            for result in filter(None, (line.level, line.change)):
                corrected = {"p_holm": holm.get(id(result)), "p_benjamini_hochberg": bh.get(id(result))}
                records.append(result_record(result) | corrected)
    header = ("Metric", "Model", "Value", "95% interval", "n", "Change", "95% interval", "p (Holm)")
    small = f" Change: from {against(shown_lines)}, over the same items; {MARK} Holm-adjusted p < {LEVEL:g}."
    fields = (*RECORD_FIELDS, "p_holm", "p_benjamini_hochberg")
    return Table(f"suite_{suite}", caption + "." + small, header, "llrrrrrr", tuple(rows), tuple(records), fields)


def _level(line: Line) -> tuple[str, str, str]:
    if line.level is None:
        return "", "", ""
    words = shown(line.level)
    return words.value, words.interval, words.n


def _change(line: Line) -> tuple[str, str, str]:
    if line.change is None:
        return "", "", ""
    words = shown(line.change)
    return words.value, words.interval, p_text(line)


def p_text(line: Line) -> str:
    """`0.031*`, `<0.001*`; empty for what was not tested."""
    return p_words(line.adjusted)


def p_words(adjusted: float | None) -> str:
    if adjusted is None:
        return ""
    return ("<0.001" if adjusted < 0.001 else f"{adjusted:.3f}") + (MARK if adjusted < LEVEL else "")


def why(line: Line) -> str:
    """Why a value is not available, or else its change; empty where both are."""
    reasons = [undefined_reason(result) for result in (line.level, line.change) if result is not None]
    told = next(filter(None, reasons), "")  # without a value there is no change: that goes without saying
    return f"{NOT_AVAILABLE}: {told}" if told else ""
