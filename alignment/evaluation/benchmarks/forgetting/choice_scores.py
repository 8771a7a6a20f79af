"""What multiple choice by likelihood makes of stored samples, whichever questions were asked.

A sample: id, choices (what acc_norm divides by the bytes of), answer, logprobs (null where one does not fit the model),
and where they apply cluster (items that share it are no independent evidence), group, and note (for `method`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, Sample
from alignment.evaluation.benchmarks.measures import ItemValue, Measure, in_both
from alignment.evaluation.metrics.choices import changed, choice_credit, per_byte
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import paired_difference, share_interval

LABELS = {"acc": "accuracy", "acc_norm": "accuracy, per byte"}


class _Credit(NamedTuple):
    value: float
    cluster: Hashable


def choice_results(
    benchmark: Benchmark,
    context: EvalContext,
    samples: Mapping[str, Sequence[Sample]],
    title: str,
    metrics: Sequence[str] = tuple(LABELS),
) -> Iterator[EvalResult]:
    """Every metric of every subject, overall and by group, each with its paired change from the origin model."""
    reference = context.forgetting_reference()
    for subject, rows in samples.items():
        groups = sorted({row["group"] for row in rows if row.get("group")})
        for group in [None, *groups]:
            chosen = [row for row in rows if group in (None, row.get("group"))]
            for metric in metrics:
                credits = _credits(chosen, metric)
                level = share_interval(
                    [c.value for c in credits.values()], [c.cluster for c in credits.values()], seed=context.seed
                )
                yield benchmark.result(
                    context,
                    subject,
                    metric,
                    level,
                    len(chosen) - len(credits),
                    higher_is_better=True,
                    primary=metric == "acc" and group is None,
                    group=group,
                    label=f"{title} {LABELS[metric]}",
                    method="; ".join([level.method, *_notes(chosen)]),
                )
                if subject != reference and reference in samples:
                    change = _difference(benchmark, context, subject, metric, chosen, samples[reference])
                    yield change.model_copy(update={"group": group, "label": f"change in {title} {LABELS[metric]}"})


def choice_measures(rows: Sequence[Sample], metrics: Sequence[str] = tuple(LABELS)) -> list[Measure]:
    """The credit of every item, by metric."""
    found = []
    for metric in metrics:
        credits = _credits(rows, metric)
        values = {item: credit.value for item, credit in credits.items()}
        items = {row["id"]: ItemValue(values.get(row["id"]), row.get("cluster", row["id"])) for row in rows}
        found.append(Measure(metric, items))
    return found


def _difference(
    benchmark: Benchmark,
    context: EvalContext,
    subject: str,
    metric: str,
    rows: Sequence[Sample],
    origin: Sequence[Sample],
) -> EvalResult:
    """The change, with the test that `alignment compare` and the row's p-value are of."""
    here, before = _credits(rows, metric), _credits(origin, metric)
    both = [item for item in here if item in before]
    new, old = [here[item].value for item in both], [before[item].value for item in both]
    clusters = [here[item].cluster for item in both]
    change = paired_difference(new, old, clusters, seed=context.seed)
    gained, lost = changed(new, old)
    [measured], [measured_before] = (choice_measures(one, [metric]) for one in (rows, origin))
    test = in_both(measured_before, measured).p(seed=context.seed)
    told = test.method if test.value is None else f"{test.method}, p = {test.value:.3g}"
    return benchmark.result(
        context,
        subject,
        f"{metric}_difference",
        change,
        len(rows) - len(both),
        higher_is_better=True,
        compared_to=context.forgetting_reference(),
        method=f"{change.method}; gained {gained}, lost {lost}, {told}",
    )


def _credits(rows: Sequence[Sample], metric: str) -> dict[str, _Credit]:
    """By item id, of the items whose choices all have a likelihood."""
    credits = {}
    for row in rows:
        scores = row["logprobs"]
        if None not in scores:
            scores = per_byte(scores, row["choices"]) if metric == "acc_norm" else scores
            credits[row["id"]] = _Credit(choice_credit(scores, row["answer"]), row.get("cluster", row["id"]))
    return credits


def _notes(rows: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(row["note"] for row in rows if row.get("note")))
