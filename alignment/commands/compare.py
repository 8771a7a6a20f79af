"""`alignment compare`: models on the same items, and recipes over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignment.errors import DataError, storage_error

if TYPE_CHECKING:
    from alignment.comparison.sides import Operand
    from alignment.report.load import Run
    from alignment.report.tables import Table


class Resampling(StrEnum):
    percentile = "percentile"
    bca = "bca"


def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="A B…",
            help="Folders of runs or evaluations, FOLDER:MODEL, or samples files; the first is the baseline.",
        ),
    ],
    seeds: Annotated[
        bool, typer.Option("--seeds", help="All are runs of one recipe that differ in their seed alone, or an error.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Over seeds: the model that the others are set against.")
    ] = None,
    exploratory: Annotated[
        bool, typer.Option("--exploratory", help="Correct by Benjamini-Hochberg instead of Holm.")
    ] = False,
    benchmark: Annotated[list[str] | None, typer.Option(help="Only this benchmark; may be repeated.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only this metric; may be repeated.")] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Categories and sub-groups too.")] = False,
    bootstrap: Annotated[
        Resampling | None, typer.Option(help="Over items: intervals of differences; percentile if not given.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Over items: of resampling and of drawn sign flips; 0 if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the table here, with every digit; over seeds, differences go to FILE-differences.",
        ),
    ] = None,
    tex: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables here, as LaTeX.")] = None,
    frontier: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Over seeds: draw reward gained against capability kept; PDF, PNG or SVG."),
    ] = None,
) -> None:
    """Compare finished runs or models: paired over the same items, or over seeds for runs of one recipe.

    Runs whose recipes differ in the seed alone are replications: their numbers are given over seeds. Everything else
    is compared item by item; RUN:MODEL always is. The test of every row is corrected over the whole table.
    """
    from alignment.comparison.replications import are_seeds
    from alignment.comparison.sides import read_operand

    operands = [read_operand(text) for text in sides]
    runs = [operand.run for operand in operands if operand.run is not None]
    correction = "Benjamini-Hochberg" if exploratory else "Holm"
    if seeds:
        _replications(operands, runs)
    only = {"benchmarks": benchmark or (), "metrics": metric or ()}
    if seeds or (len(runs) == len(operands) and are_seeds(runs)):
        _unused_over_seeds(bootstrap, seed)
        told, tables, small_print = _over_seeds(runs, against, correction, groups, only)
    else:
        _unused(against, frontier)
        how = bootstrap or Resampling.percentile
        told, tables, small_print = _over_items(operands, seed or 0, how.value, correction, groups, only)
    _write(csv, tex, tables)
    if frontier is not None:
        _draw(runs, frontier)
    if as_json:
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))
        return
    _print(tables, small_print)


def _over_seeds(
    runs: Sequence[Run], against: str | None, correction: str, groups: bool, only: dict[str, Any]
) -> tuple[dict[str, Any], list[Table], list[str]]:
    from alignment.comparison.seeds import compare_seeds
    from alignment.comparison.tables import seed_difference_table, seed_small_print, seed_table

    found = compare_seeds(runs, against=against, correction=correction, **only)
    tables = [seed_table(found, groups=groups)]
    tables += [seed_difference_table(found)] if found.differences else []
    return {"unit": "seed"} | asdict(found), tables, seed_small_print(found, groups=groups)


def _over_items(
    operands: Sequence[Operand], seed: int, bootstrap: str, correction: str, groups: bool, only: dict[str, Any]
) -> tuple[dict[str, Any], list[Table], list[str]]:
    from alignment.comparison.paired import compare as compare_pairs
    from alignment.comparison.sides import pairs
    from alignment.comparison.tables import paired_small_print, paired_table

    resampling: Any = bootstrap
    how: dict[str, Any] = {"bootstrap": resampling, "correction": correction, "groups": groups}
    found = compare_pairs(pairs(operands), seed=seed, **how, **only)
    return {"unit": "item"} | asdict(found), [paired_table(found)], paired_small_print(found)


def _replications(operands: Sequence[Operand], runs: Sequence[Run]) -> None:
    from alignment.comparison.replications import first_difference

    for operand in operands:
        if operand.run is None:
            raise DataError(f"{operand.text}: --seeds takes whole runs; name their folders alone")
    for run in runs[1:]:
        if different := first_difference(runs[0], run):
            raise DataError(
                f"{runs[0].folder} and {run.folder} differ in more than the seed: {different}; "
                "leave --seeds out to compare recipes"
            )


def _draw(runs: Sequence[Run], path: Path) -> None:
    from alignment.comparison.replications import group_by_recipe
    from alignment.report.frontier_figure import save_frontier

    if len(group_by_recipe(runs)) > 1:
        raise DataError("--frontier is of the runs of one recipe; name those alone")
    save_frontier(runs, path)


def _unused(against: str | None, frontier: Path | None) -> None:
    if frontier is not None:
        raise DataError("--frontier is for runs over seeds; of a single run, its report has it")
    if against is not None:
        raise DataError("--against is for runs over seeds; over items, name the baseline first")


def _unused_over_seeds(bootstrap: Resampling | None, seed: int | None) -> None:
    for option, given in (("--bootstrap", bootstrap), ("--seed", seed)):
        if given is not None:
            raise DataError(
                f"{option} is for comparisons over items; over seeds intervals are t intervals and nothing is drawn: "
                "leave it out"
            )


def _write(csv: Path | None, tex: Path | None, tables: Sequence[Table]) -> None:
    from alignment.report.tables import to_csv, to_latex

    texts: dict[Path, str] = {}
    if csv is not None:
        names = (csv, csv.with_stem(f"{csv.stem}-differences"))  # a CSV holds one table
        texts |= {path: to_csv(table) for path, table in zip(names, tables, strict=False)}
    if tex is not None:
        texts[tex] = "\n".join(to_latex(table) for table in tables)
    for path, text in texts.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise storage_error(error, path) from error


def _print(tables: Sequence[Table], small_print: Sequence[str]) -> None:
    from alignment.report.display import visible

    for table in tables:
        cells = [table.header, *table.rows]
        widths = [max(len(visible(row[i])) for row in cells) for i in range(len(table.header))]
        typer.echo(table.caption)
        for row in cells:
            padded = (
                visible(cell).ljust(width) if side == "l" else visible(cell).rjust(width)
                for cell, width, side in zip(row, widths, table.align, strict=True)
            )
            typer.echo("  ".join(padded).rstrip())
        typer.echo("")
    for line in small_print:
        typer.echo(visible(line))
