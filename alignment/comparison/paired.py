"""Differences between models over the same items: error, interval, test, and the correction over the whole table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from alignment.comparison.alike import same_items, same_settings, same_version, unrecorded, weighed_alike
from alignment.comparison.detectable import detectable
from alignment.comparison.rows import PairedRow, PairedTable
from alignment.comparison.sets import left_out, set_rows
from alignment.comparison.sides import Side, Stored, labels
from alignment.errors import DataError, nearest
from alignment.evaluation.benchmarks.benchmark import Benchmark, Sample
from alignment.evaluation.benchmarks.measures import Measure, in_both
from alignment.evaluation.statistics import (
    CORRECTIONS,
    BootstrapMethod,
    paired_difference,
    ratio_interval,
    ratio_standard_error,
)
from alignment.evaluation.statistics.intervals import ROUNDING
from alignment.evaluation.suites import configured


def compare(
    compared: Sequence[tuple[Side, Side]],
    *,
    seed: int,
    bootstrap: BootstrapMethod = "percentile",
    correction: str = "Holm",
    benchmarks: Sequence[str] = (),
    metrics: Sequence[str] = (),
    groups: bool = False,
) -> PairedTable:
    """Every metric of every benchmark that both sides of a pair have; `benchmarks` and `metrics` narrow it ((): all).

    `groups`: also over the items of every category and sub-group. Raises DataError for sides without a common
    benchmark or common items, for a metric that none has, and for versions and options of a benchmark that differ.
    """
    named, notes, found, unknown = labels(compared), [], list[PairedRow](), list[str]()
    known: dict[str, None] = {}  # metrics, in order
    for a, b in compared:
        common = [name for name in a.stored if name in b.stored and (not benchmarks or name in benchmarks)]
        title = f"{named[a.key]} and {named[b.key]}"
        if not common:
            wanted = f" among {', '.join(benchmarks)}" if benchmarks else ""
            raise DataError(f"{title} have no benchmark in common{wanted}; evaluate both on the same suites")
        for name in [*a.stored, *(name for name in b.stored if name not in a.stored)]:
            if (name in a.stored) != (name in b.stored) and not benchmarks:
                notes.append(f"{name}: only {named[(a if name in a.stored else b).key]} has it")
        for name in common:
            rows, told, seen = _benchmark(name, a.stored[name], b.stored[name], title, seed, bootstrap, metrics, groups)
            known |= dict.fromkeys(seen)
            found += [replace(row, a=named[a.key], b=named[b.key]) for row in rows]
            notes += told
            unknown += [name] if unrecorded(a.stored[name], b.stored[name]) else []
        if not (benchmarks or metrics):
            notes += [
                f"{name}: summarises other benchmarks, and has no items; compare it over seeds"
                for name in dict.fromkeys((*a.summaries, *b.summaries))
            ]
    for metric in metrics if known else ():
        if metric not in known:
            raise DataError(f"no metric {metric} to compare{nearest(metric, known)}")
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        notes.append(f"whether options were the same could not be checked, they were not stored: {names}")
    if not found:
        raise DataError(f"nothing to compare; {_known(compared)}" + "".join(f"; {note}" for note in notes))
    return PairedTable(tuple(_corrected(found, correction)), tuple(dict.fromkeys(notes)))


def _known(compared: Sequence[tuple[Side, Side]]) -> str:
    return "benchmarks of both: " + ", ".join(
        dict.fromkeys(name for a, b in compared for name in a.stored if name in b.stored)
    )


def _benchmark(
    name: str,
    a: Stored,
    b: Stored,
    title: str,
    seed: int,
    bootstrap: BootstrapMethod,
    metrics: Sequence[str],
    groups: bool,
) -> tuple[list[PairedRow], list[str], list[str]]:
    """Rows, notes, and the metrics that there are, whether wanted or not."""
    benchmark = configured(name, {})
    version = same_version(benchmark, a, b, title)
    same_settings(name, a, b, title)
    samples = a.samples(benchmark), b.samples(benchmark)
    both = [item for item in samples[0] if item in samples[1]]
    if not both:
        raise DataError(
            f"{title} share no items of {name} ({len(samples[0])} and {len(samples[1])}); compare models that were "
            "evaluated on the same held-out data, or choose other benchmarks with --benchmark"
        )
    common = [{item: own[item] for item in both} for own in samples]
    # of the common items alone: what an item weighs may depend on how many there are
    one, other = (_measures(benchmark, own, side, groups) for own, side in zip(common, (a, b), strict=True))
    same_items(benchmark, both, samples, title)
    notes = list(_one_sided(benchmark, common, (one, other), title, metrics))
    if not (one or other):
        return [], notes or [f"{name}: its samples have no item values; compare it over seeds"], []
    only = len(samples[0]) - len(both), len(samples[1]) - len(both)
    rows, known = [], [metric for metric, _ in (*one, *other)]
    for (metric, group), measure in one.items():
        if (metric, group) not in other or (metrics and metric not in metrics):
            continue
        scorer = metric.partition("/")[2]
        if scorer and a.scorer_id(scorer) != b.scorer_id(scorer):
            notes.append(f"{metric}: left out, {title} were scored by different models of that name")
            continue
        if not weighed_alike(measure, other[metric, group]):
            notes.append(f"{metric}: left out, {title} left other items unscored, on whose number a weight depends")
            continue
        row = _row(name, version, measure, other[metric, group], only, seed, bootstrap)
        rows.append(replace(row, group=group))
    in_order = [list(own.values()) for own in common]
    known += [metric for own in in_order for metric in benchmark.undefined(own)]
    for row in set_rows(benchmark, a, b, (in_order[0], in_order[1]), only, seed=seed, groups=groups):
        known.append(row.metric)
        if (row.metric, row.group) not in one and (not metrics or row.metric in metrics):
            rows.append(replace(row, version=version))
    if not metrics:
        notes += left_out(name, a, b, [*(metric for metric, _ in one), *(row.metric for row in rows)])
    return rows, notes, known


def _one_sided(
    benchmark: Benchmark,
    common: Sequence[Mapping[str, Sample]],
    measures: tuple[Mapping[tuple[str, str | None], Measure], Mapping[tuple[str, str | None], Measure]],
    title: str,
    metrics: Sequence[str],
) -> Iterator[str]:
    """What is said of metrics that have item values on one side alone, or would have had."""
    why: dict[str, str] = {}
    for own in common:
        why |= benchmark.undefined(list(own.values()))
    lost = [metric for metric, group in measures[0].keys() ^ measures[1].keys() if group is None and metric not in why]
    for metric in (*why, *sorted(lost)):
        if not metrics or metric in metrics:
            reason = why.get(metric, f"one of {title} has no value of it")
            yield f"{benchmark.name}: {metric}: left out, {reason}"


def _measures(
    benchmark: Benchmark, samples: Mapping[str, Sample], stored: Stored, groups: bool
) -> dict[tuple[str, str | None], Measure]:
    """(metric, group) -> item values; without `groups` those of all items alone."""
    rows = list(samples.values())
    found: dict[str | None, Sequence[Measure]] = {}
    try:
        found[None] = benchmark.measures(rows)
        if groups:
            found.update((group, measures) for group, measures in benchmark.measures_by_group(rows).items())
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        where = f"{stored.path}: no samples of {benchmark.name}"
        raise DataError(f"{where} as this version writes them ({reason})") from error
    known = {(measure.metric, group): measure for group, measures in found.items() for measure in measures}
    for measure in known.values():
        for key, item in measure.items.items():
            if item.value is not None and not math.isfinite(item.value):
                raise DataError(f"{stored.path}: {measure.metric} of item {key!r} is not finite; evaluate again")
    return known


def _row(
    name: str,
    version: int | None,
    a: Measure,
    b: Measure,
    only: tuple[int, int],
    seed: int,
    bootstrap: BootstrapMethod,
) -> PairedRow:
    both = in_both(a, b)
    x, y, weights, clusters = both.old, both.new, both.weights, both.clusters
    shared = sum(key in b.items for key in a.items)
    changes = [new - old for old, new in zip(x, y, strict=True)]
    plain = all(weight == 1 for weight in weights)
    interval = (
        paired_difference(y, x, clusters, seed=seed, bootstrap=bootstrap)
        if plain
        else ratio_interval(changes, weights, clusters, seed=seed, bootstrap=bootstrap)
    )
    error = ratio_standard_error(changes, weights, clusters) if x else None
    if error is not None and error <= ROUNDING * max(map(abs, (*x, *y))):
        error = None  # without spread, which is not certainty
    seen = detectable(changes, weights, clusters, interval.value, error)
    changed, p = both.mcnemar(), both.p(seed=seed)
    total = sum(weights)
    return PairedRow(
        benchmark=name,
        version=version,
        metric=a.metric,
        group=None,
        unit=a.unit,
        higher_is_better=a.higher_is_better,
        a="",
        b="",
        value_a=sum(x) / total if x else None,
        value_b=sum(y) / total if x else None,
        difference=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        method=interval.method,
        standard_error=error,
        n_common=len(x),
        n_clusters=len(set(clusters)),
        n_unscored=shared - len(x),
        n_only_a=only[0],
        n_only_b=only[1],
        gained=changed.gained if changed else None,
        lost=changed.lost if changed else None,
        mcnemar_p=changed.p.value if changed else None,
        p=p.value,
        p_method=p.method,
        mde=seen.mde,
        units_needed=seen.units_needed,
        design_effect=seen.design_effect,
    )


def _corrected(rows: Sequence[PairedRow], correction: str) -> list[PairedRow]:
    """The rows with p-values adjusted: all of them over each other, and those of groups as a family of their own."""
    found = list(rows)
    for of_groups in (False, True):
        family = [at for at, row in enumerate(rows) if (row.group is not None) is of_groups]
        adjusted = CORRECTIONS[correction]([rows[at].p for at in family])
        tested = sum(rows[at].p is not None for at in family)
        how = f"{correction} over {tested} tests{' of groups' if of_groups else ''}"
        for at, p in zip(family, adjusted, strict=True):
            found[at] = replace(rows[at], p_adjusted=p, correction=how)
    return found
