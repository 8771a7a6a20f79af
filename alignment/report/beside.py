"""Changes set beside the levels that they are of: a section with changes by group is no longer than its levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignment.evaluation.result import EvalResult
from alignment.report.display import count, group_name, null_value, remarks, shown, subject
from alignment.report.suites import Adjusted, Line, adjusted_p, level_name, origins, p_words, why
from alignment.report.tables import RECORD_FIELDS, Table, by_metric, result_record, results_table, small_print


@dataclass(frozen=True)
class Beside:
    """`rows`: the results with a row of their own; `changes`: id of one of them -> its change from another model."""

    rows: tuple[EvalResult, ...]
    changes: Mapping[int, EvalResult]

    def change(self, level: EvalResult) -> EvalResult | None:
        return self.changes.get(id(level))

    def p(self, level: EvalResult, adjusted: Adjusted) -> str:
        """The corrected p-value of a level's change; empty for what was not tested."""
        change = self.change(level)
        return "" if change is None else p_words(adjusted.get(id(change)))

    @property
    def against(self) -> str:
        """The models that the changes are from."""
        return origins(self.changes.values())


def beside(results: Sequence[EvalResult]) -> Beside:
    """Every change between models beside its level, where a group has one; else every result in a row of its own."""
    models = {r.model for r in results}
    levels = {(r.benchmark, r.metric, r.model, r.group): r for r in results if null_value(r) != 0}
    changes: dict[int, EvalResult] = {}
    for r in results:
        level = levels.get((r.benchmark, level_name(r), r.model, r.group))
        if level is not None and null_value(r) == 0 and r.compared_to in models:
            changes[id(level)] = r
    if all(change.group is None for change in changes.values()):
        return Beside(tuple(results), {})
    told = {id(change) for change in changes.values()}
    return Beside(tuple(r for r in results if id(r) not in told), changes)


def reading(level: EvalResult, change: EvalResult | None) -> str:
    """What stands beside the two: why one is not available, and the items that one of them leaves out."""
    parts = [why(Line("", level.model, level, change)), remarks(level)]
    if change is not None and change.value is not None and change.n_scored != level.n_scored:
        parts.append(f"change over {count(change.n_scored)}")
    return "; ".join(filter(None, parts))


def whole_table(name: str, caption: str, results: Sequence[EvalResult], whole: Sequence[EvalResult]) -> Table:
    """All numbers of a section as a paper's table; `whole`: all results of the run, all of whose tests count."""
    found = beside(results)
    if not found.changes:
        return results_table(name, caption, results)
    holm, bh = (adjusted_p(whole, correction) for correction in ("Holm", "Benjamini-Hochberg"))
    rows: list[tuple[str, ...]] = []
    records: list[Mapping[str, object]] = []
    for metric, members in by_metric(found.rows):
        for index, level in enumerate(members):
            change, words = found.change(level), shown(level)
            own = ("" if index else metric, subject(level), group_name(level) or "all")
            rows.append((*own, words.value, words.interval, words.n, *_cells(change, holm)))
            for result in filter(None, (level, change)):
                corrected = {"p_holm": holm.get(id(result)), "p_benjamini_hochberg": bh.get(id(result))}
                records.append(result_record(result) | corrected)
    header = ("Metric", "Model", "Group", "Value", "95% interval", "n", "Change", "95% interval", "p (Holm)")
    overall = [change for change in found.changes.values() if change.group is None]
    text = f"{caption}. {small_print([*found.rows, *overall])} Change: from {found.against}, over the same items; p: "
    text += "Holm-adjusted, over the tests of all items and over those of groups apart."
    fields = (*RECORD_FIELDS, "p_holm", "p_benjamini_hochberg")
    return Table(name, text, header, "lllrrrrrr", tuple(rows), tuple(records), fields)


def _cells(change: EvalResult | None, adjusted: Adjusted) -> tuple[str, str, str]:
    if change is None:
        return "", "", ""
    words = shown(change)
    return words.value, words.interval, p_words(adjusted.get(id(change)))
