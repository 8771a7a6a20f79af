"""Comparisons as tables for a reader; `records` hold every digit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace

from alignment.comparison.rows import PairedRow, PairedTable
from alignment.comparison.seeds import SeedDifferenceRow, SeedRow, SeedTables
from alignment.report.display import NOT_AVAILABLE, count, number
from alignment.report.tables import Table


def paired_table(table: PairedTable) -> Table:
    """One row per metric and pair of models. Columns that say nothing are left out; `records` hold all."""
    header: tuple[str, ...] = ("Metric", "Models", "Baseline", "Model", "Difference", "95% interval", "SE", "MDE")
    header = (*header, "n", "n needed", "Deff", "Unscored", "Only one", "Gained/lost", "McNemar p", "p", "Adjusted p")
    rows = [_paired_cells(row) for row in table.rows]
    found = _table("comparison", "Differences over the same items", header, rows, table.rows, PairedRow)
    hidden = _says_nothing(table.rows)
    if "Models" in hidden:
        found = replace(found, caption=f"{found.caption}: {rows[0][1]}")
    kept = [i for i, name in enumerate(header) if name not in hidden]
    return replace(
        found,
        header=tuple(header[i] for i in kept),
        align="".join(found.align[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in found.rows),
    )


def _says_nothing(rows: Sequence[PairedRow]) -> set[str]:
    """Columns that are the same in all rows, or that repeat another."""
    found = {
        "Models": len({(row.a, row.b) for row in rows}) == 1,
        "n needed": all(row.units_needed is None for row in rows),
        "Deff": all(row.design_effect is None for row in rows),
        "Gained/lost": all(row.gained is None for row in rows),
        "McNemar p": all(row.gained is None or row.mcnemar_p == row.p for row in rows),
        "Unscored": all(row.n_unscored == 0 for row in rows),
        "Only one": all(row.n_only_a == row.n_only_b == 0 for row in rows),
    }
    return {name for name, idle in found.items() if idle}


def _paired_cells(row: PairedRow) -> tuple[str, ...]:
    clusters = "" if row.n_clusters in (None, row.n_common) else f" in {row.n_clusters}"
    return (
        f"{row.benchmark}/{row.metric}" + (f" [{row.group}]" if row.group else ""),
        f"{row.b} − {row.a}",
        _number(row.value_a, row.unit),
        _number(row.value_b, row.unit),
        _number(row.difference, row.unit, signed=True),
        _interval(row),
        _plain(row.standard_error, row.unit),
        _plain(row.mde, row.unit),
        count(row.n_common) + clusters,
        "" if row.units_needed is None else count(row.units_needed),
        "" if row.design_effect is None else f"{row.design_effect:.1f}",
        count(row.n_unscored),
        f"{count(row.n_only_a)}/{count(row.n_only_b)}",
        "" if row.gained is None else f"{row.gained}/{row.lost}",
        _p(row.mcnemar_p, row.gained is None),
        _p(row.p),
        _p(row.p_adjusted),
    )


def paired_small_print(table: PairedTable) -> list[str]:
    """How everything was computed, what does not apply, and what was left out."""
    rows = table.rows
    clustered = any(row.n_clusters is not None and row.n_clusters < row.n_common for row in rows)
    hidden = _says_nothing(rows)
    lines = [
        "Difference: the second model minus the first, over the items that both have a value for.",
        _methods("95% intervals", [row.method for row in rows]),
        "SE: of the per-item differences" + (", by clusters, with G/(G-1)." if clustered else "."),
        "MDE: the true difference that is found at alpha 0.05, two-sided, with a probability of about 80% (normal "
        "approximation; nearer 70% below 100 items or 10 clusters)"
        + ("." if "n needed" in hidden else "; n needed: items to find the observed one so."),
        _methods("p", [row.p_method for row in rows]),
        _methods("Adjusted p", [row.correction for row in rows]),
    ]
    if "Deff" not in hidden:
        lines.append("Deff: design effect, how many times clusters multiply the variance of independent items.")
    if {"Unscored", "Only one"} <= hidden:
        lines.append("Both have a value for every item.")
    if clustered and any(row.mcnemar_p is not None for row in rows):
        lines.append("McNemar's p takes items as independent; where n says clusters, p is the one to read.")
    return [*lines, *(f"note: {note}" for note in table.notes)]


def seed_table(tables: SeedTables, *, groups: bool = False) -> Table:
    """One row per number and model, with every seed's own value; `groups` adds categories and sub-groups."""
    shown = [row for row in tables.rows if groups or row.group is None]
    seeds = sorted({seed for row in tables.rows for seed in row.values})
    rows = []
    for row in shown:
        own = [_number(row.values[seed], row.unit) if seed in row.values else "" for seed in seeds]
        mean, spread = _number(row.mean, row.unit), _plain(row.spread, row.unit)
        rows.append((_metric(row), row.subject, mean, _interval(row), spread, *own))
    header = ("Metric", "Model", "Mean", "95% interval", "Spread", *(f"seed {seed}" for seed in seeds))
    return _table("seeds", "Numbers over seeds, the seed as the unit", header, rows, shown, SeedRow)


def seed_difference_table(tables: SeedTables) -> Table:
    """One row per number and pair of models."""
    seeds = sorted({seed for row in tables.differences for seed in row.values})
    rows = []
    for row in tables.differences:
        own = [_number(row.values[seed], row.unit, signed=True) if seed in row.values else "" for seed in seeds]
        signed = _number(row.difference, row.unit, signed=True)
        spread, tests = _plain(row.spread, row.unit), (_p(row.p), _p(row.p_adjusted))
        rows.append((_metric(row), f"{row.b} − {row.a}", signed, _interval(row), spread, *own, *tests))
    own_names = tuple(f"seed {seed}" for seed in seeds)
    header = ("Metric", "Models", "Difference", "95% interval", "Spread", *own_names, "p", "Adjusted p")
    name, caption = "seed_differences", "Differences over seeds, the seed as the unit"
    return _table(name, caption, header, rows, tables.differences, SeedDifferenceRow)


def seed_small_print(tables: SeedTables, *, groups: bool = False) -> list[str]:
    """How everything was computed, why a number is undefined, and what to be careful with."""
    shown = [row.method for row in tables.rows if groups or row.group is None]
    lines = [
        "Spread: standard deviation between seeds (k-1).",
        _methods("95% intervals", [*shown, *(row.method for row in tables.differences)]),
    ]
    if tables.differences:
        lines.append(_methods("p", [row.p_method for row in tables.differences]))
        lines.append(f"Adjusted p: {tables.differences[0].correction}.")
    return [*lines, *(f"note: {note}" for note in tables.notes)]


def _table(
    name: str,
    caption: str,
    header: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    records: Sequence[PairedRow] | Sequence[SeedRow] | Sequence[SeedDifferenceRow],
    kind: type,
) -> Table:
    return Table(
        name=name,
        caption=caption,
        header=tuple(header),
        align="ll" + "r" * (len(header) - 2),
        rows=tuple(rows),
        records=tuple(_record(record) for record in records),
        fields=tuple(field.name for field in fields(kind)),
    )


def _record(row: PairedRow | SeedRow | SeedDifferenceRow) -> dict[str, object]:
    """Fields by name; the values of seeds as `1: 0.7; 2: 0.6`, since a cell of a CSV holds one text."""
    return {key: _by_seed(value) if isinstance(value, Mapping) else value for key, value in asdict(row).items()}


def _by_seed(values: Mapping[int, float | None]) -> str:
    return "; ".join(f"{seed}: {'' if value is None else repr(value)}" for seed, value in values.items())


def _metric(row: SeedRow | SeedDifferenceRow) -> str:
    group = f" [{row.group}]" if isinstance(row, SeedRow) and row.group else ""
    against = f" vs {row.compared_to}" if row.compared_to else ""
    return f"{row.benchmark}/{row.metric}{group}{against}"


def _interval(row: PairedRow | SeedRow | SeedDifferenceRow) -> str:
    if row.ci_low is None or row.ci_high is None:
        return NOT_AVAILABLE
    signed = not isinstance(row, SeedRow)
    low, high = (number(bound, row.unit, signed=signed, suffix=False) for bound in (row.ci_low, row.ci_high))
    return f"[{low}, {high}]"


def _number(value: float | None, unit: str, *, signed: bool = False) -> str:
    return NOT_AVAILABLE if value is None else number(value, unit, signed=signed)


def _plain(value: float | None, unit: str) -> str:
    """Without its suffix: an error or a spread of a share is in points, as the bounds of an interval are."""
    return NOT_AVAILABLE if value is None else number(value, unit, suffix=False)


def _p(p: float | None, not_applicable: bool = False) -> str:
    """`0.031`, `<0.001`; blank where the test does not apply."""
    if not_applicable:
        return ""
    return NOT_AVAILABLE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _methods(what: str, methods: Sequence[str]) -> str:
    return f"{what}: {'; '.join(dict.fromkeys(methods))}."
