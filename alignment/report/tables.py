"""Tables of a run: which results belong to which, as LaTeX (booktabs) and as CSV in full precision."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignment.evaluation.result import EvalResult
from alignment.report.display import (
    MINUS,
    NARROW_SPACE,
    NOT_AVAILABLE,
    count,
    duration,
    group_name,
    grouped,
    method_kind,
    metric_name,
    null_value,
    shown,
    subject,
    undefined_reason,
    verdict,
    visible,
)
from alignment.report.load import LogPoint, Run, Stage

REWARD_KINDS = ("reward", "process_reward")  # the kinds of stages that make scorers
OF_SUITES = ("bias", "forgetting", "helpfulness", "safety", "reward", "factuality")  # sections of their own
LONG = 40  # rows; a longer table is set as a longtable, which may break over pages
NAMED = 4  # results of one method, named each; more are counted

# The log names a training stage may end with, and what a reader calls them.
FINAL = {
    "loss": "Loss (train)",
    "eval_loss": "Loss (held out)",
    "eval_rewards/accuracies": "Accuracy (held out)",
    "eval_rewards/margins": "Margin (held out)",
}


@dataclass(frozen=True)
class Table:
    """`rows` as a reader sees them; `records` with every digit, for the CSV."""

    name: str
    caption: str
    header: tuple[str, ...]
    align: str  # one of l, r per column
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Mapping[str, object], ...]
    fields: tuple[str, ...]  # CSV columns


def sections(results: Iterable[EvalResult]) -> dict[str, list[EvalResult]]:
    """Every result in exactly one section; what fits none is in "other", so nothing is left out."""
    parts: dict[str, list[EvalResult]] = {name: [] for name in ("win_rates", "reward_quality", *OF_SUITES, "other")}
    for result in results:
        parts[_section(result)].append(result)
    parts["win_rates"].sort(key=lambda r: null_value(r) != 0.5)  # the rates themselves before what stands beside them
    return parts


def _section(result: EvalResult) -> str:
    if result.benchmark.startswith("win_rate"):
        return "win_rates"
    if result.benchmark == "reward_accuracy":
        return "reward_quality"
    return result.suite if result.suite in OF_SUITES else "other"


def primary(results: Iterable[EvalResult]) -> list[EvalResult]:
    """The one number of each benchmark, for all groups together, in the order of the sections."""
    return [r for members in sections(results).values() for r in members if r.primary and r.group is None]


def by_metric(results: Iterable[EvalResult]) -> list[tuple[str, list[EvalResult]]]:
    """Results under their metric's name, metrics in order of first appearance."""
    found: dict[str, list[EvalResult]] = {}
    for result in results:
        found.setdefault(metric_name(result), []).append(result)
    return list(found.items())


def training_scorers(run: Run) -> frozenset[str]:
    """Names under which reward models that this run made or trained against may appear as scorers.

    Those are the stage's name, the reference, its name without version, and the role an evaluation gave it.
    """
    stages = run.manifest.stages
    made = [(s.name, ref) for s in stages if s.kind in REWARD_KINDS for ref in s.models.values()]
    against = [
        ref
        for s in stages
        if s.kind not in ("evaluate", "overoptimisation")
        for role, ref in s.inputs.items()
        if role.startswith("reward")
    ]
    refs = {ref for _, ref in made} | set(against)
    roles = {role for s in stages if s.kind == "evaluate" for role, ref in s.inputs.items() if ref in refs}
    return frozenset({name for name, _ in made} | refs | {ref.partition("@")[0] for ref in refs} | roles)


def results_table(name: str, caption: str, results: Sequence[EvalResult]) -> Table:
    """One row per result, metrics together; the caption ends with the intervals' methods and every n/a's reason."""
    grouped_results = by_metric(results)
    groups = any(r.group is not None for r in results)
    header = ("Metric", "Model", *(("Group",) if groups else ()), "Value", "95% interval", "n")
    rows = []
    for metric, members in grouped_results:
        for index, result in enumerate(members):
            words = shown(result)
            group = (group_name(result) or "all",) if groups else ()
            rows.append(("" if index else metric, subject(result), *group, words.value, words.interval, words.n))
    return Table(
        name=name,
        caption=caption + ". " + small_print(results),
        header=header,
        align="ll" + "l" * groups + "rrr",
        rows=tuple(rows),
        records=tuple(result_record(r) for _, members in grouped_results for r in members),
        fields=RECORD_FIELDS,
    )


RECORD_FIELDS = (*EvalResult.model_fields, "reading", "undefined_because")


def result_record(result: EvalResult) -> dict[str, object]:
    """A result with every digit, what its interval allows to say, and why it has no value if it has none."""
    return result.model_dump() | {"reading": verdict(result), "undefined_because": undefined_reason(result)}


def methods(results: Iterable[EvalResult]) -> list[tuple[str, str]]:
    """How each interval was computed: (metric, method), and where the methods of a metric differ, whose each is.

    A change of a group is told without what its method counts, for the groups would differ in nothing else; but not
    without why it has no interval.
    """
    lines: list[tuple[str, str]] = []
    for metric, members in by_metric(r for r in results if r.method):
        told: dict[str, list[EvalResult]] = {}
        for r in members:
            counted = r.group is not None and null_value(r) == 0
            told.setdefault(method_kind(r.method) if counted else r.method, []).append(r)
        for method, own in told.items():
            names = [subject(r) + (f", {group_name(r)}" if r.group else "") for r in own]
            some = "; ".join(names) if len(own) <= NAMED else f"{len(own)} of {len(members)} numbers"
            lines.append((f"{metric}, {some}" if len(told) > 1 else metric, method))
    return lines


def _interval_method(method: str) -> str:
    """The part of a method that tells the interval; what else it counts is for the CSV and the page."""
    parts = [part for part in method.split("; ") if any(word in part for word in ("bootstrap", "interval", "paired"))]
    return "; ".join(parts) or method


def small_print(results: Sequence[EvalResult]) -> str:
    """What a caption ends with: how intervals were made, items left out, and why a value is n/a."""
    if not results:
        return "Not evaluated in this run."
    methods = list(dict.fromkeys(_interval_method(r.method) for r in results if r.method and r.ci_low is not None))
    text = "Brackets: 95% intervals" + (f" ({'; '.join(methods)})." if methods else ".")
    left_out = [
        f"{metric_name(r)}, {subject(r)} {count(r.n_unscored)}" for r in results if r.n_unscored and r.value is not None
    ]
    text += f" Items not scored and left out: {'; '.join(left_out)}." if left_out else ""
    for result in results:
        if result.value is None:
            text += f" {NOT_AVAILABLE} for {metric_name(result)}, {subject(result)}: {undefined_reason(result)}."
    return text


def training_table(run: Run, caption: str) -> Table:
    """One row per stage that made a model: where it started, rows used, steps, last logged losses, time."""
    stages = [s for s in run.manifest.stages if s.models]
    ends = {s.name: final_metrics(run.logs.get(s.name, ())) for s in stages}
    columns = [name for name in FINAL if any(name in end for end in ends.values())]
    header = ("Stage", "Model", "Rows used", "Steps", *(FINAL[name] for name in columns), "Time")
    rows: list[tuple[str, ...]] = []
    records: list[Mapping[str, object]] = []
    for s in stages:
        used, steps = rows_used(s), max((p.step for p in run.logs.get(s.name, ())), default=None)
        values = [final_text(ends[s.name].get(name)) for name in columns]
        known = [NOT_AVAILABLE if x is None else count(x) for x in (used, steps)]
        rows.append((s.name, ", ".join(s.models.values()), *known, *values, duration(s.seconds)))
        record: dict[str, object] = {
            "stage": s.name,
            "kind": s.kind,
            "model": ", ".join(s.models.values()),
            "key": s.key,
            "status": s.status,
            "reused": s.reused,
            "rows_used": used,
            "steps": steps,
            "seconds": s.seconds,
        }
        records.append(record | {name: ends[s.name].get(name) for name in columns})
    fields = ("stage", "kind", "model", "key", "status", "reused", "rows_used", "steps", "seconds", *columns)
    align = "ll" + "r" * (len(header) - 2)
    text = caption + (". Losses and accuracies are the last logged ones." if stages else ". No stage trained a model.")
    text += f" {NOT_AVAILABLE}: the stage logs no such number." if any(NOT_AVAILABLE in row for row in rows) else ""
    return Table("training", text, header, align, tuple(rows), tuple(records), fields)


def rows_used(stage: Stage) -> int | None:
    """Rows a stage trained on; None when the manifest does not say."""
    used = [use.n_used for use in stage.data if use.role == "train"] or [use.n_used for use in stage.data]
    return sum(used) if used else None


def final_metrics(log: Sequence[LogPoint]) -> dict[str, float]:
    """The last logged value of each metric; those of the eval split carry `eval_` in front, as Trainer writes them."""
    last: dict[str, float] = {}
    for point in log:
        prefix = "eval_" if point.split == "eval" else ""
        last |= {name if name.startswith("eval_") else prefix + name: value for name, value in point.metrics.items()}
    return last


def final_text(value: float | None) -> str:
    if value is None:
        return NOT_AVAILABLE
    return grouped(value, 3) if math.isfinite(value) else "not finite"


def to_csv(table: Table) -> str:
    """Full precision, empty for what is undefined."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, table.fields, lineterminator="\n")
    writer.writeheader()
    for record in table.records:
        writer.writerow({k: visible(v) if isinstance(v, str) else v for k, v in record.items()})
    return stream.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}", "\n": " ", "\t": " ",
    MINUS: "$-$", NARROW_SPACE: r"\,", "–": "--", "→": r"$\to$", "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$",
    "α": r"$\alpha$", "β": r"$\beta$", "√": r"$\surd$",
    "⟨": r"$\langle$", "⟩": r"$\rangle$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """`text` as LaTeX prints it literally, without any command of its own."""
    return "".join(_LATEX.get(character, character) for character in visible(text))


def to_latex(table: Table) -> str:
    """A booktabs table with caption and label; a blank first cell continues the metric above it."""
    head = " & ".join("$n$" if cell == "n" else latex_text(cell) for cell in table.header) + r" \\"
    body: list[str] = []
    for row in table.rows:
        if body and row[0] and table.header[0] == "Metric":
            body.append(r"\addlinespace")
        cells = " & ".join(latex_text(cell) for cell in row)
        # After \\ a leading [ or * would be read as an argument of the line break.
        body.append(("{}" if cells.startswith(("[", "*")) else "") + cells + r" \\")
    if not body:
        body = [rf"\multicolumn{{{len(table.header)}}}{{l}}{{not evaluated in this run}} \\"]
    caption = rf"\caption{{{latex_text(table.caption)}}}"
    label = rf"\label{{tab:{table.name.replace('_', '-')}}}"
    if len(table.rows) > LONG:
        lines = ["% needs booktabs and longtable", r"\begin{longtable}{" + table.align + "}", caption + label + r" \\"]
        lines += [r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
    else:
        lines = ["% needs booktabs", r"\begin{table}", r"\centering\small", caption, label]
        lines += [r"\begin{tabular}{" + table.align + "}", r"\toprule", head, r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"
