"""`alignment score`: numbers from stored predictions alone, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment.commands.result_lines import shown, table
from alignment.errors import DataError, nearest
from alignment.evaluation.stored import STORED
from alignment.evaluation.stored.stored import OPTIONS, StoredBenchmark

REFUSED_SHOWN = 5  # refused rows that are listed; the rest is counted
REASONS_SHOWN = 3  # of them where nothing else is left


def score(
    benchmark: Annotated[str, typer.Argument(help=f"One of {', '.join(STORED)}.", show_default=False)],
    predictions: Annotated[
        list[Path] | None, typer.Argument(help="The files, as they were published.", show_default=False)
    ] = None,
    prediction: Annotated[str | None, typer.Option(metavar="COLUMN", help=OPTIONS["prediction"])] = None,
    gold: Annotated[str | None, typer.Option(metavar="FILE", help=OPTIONS["gold"])] = None,
    scores: Annotated[str | None, typer.Option(metavar="FILE", help=OPTIONS["scores"])] = None,
    difficulty: Annotated[str | None, typer.Option(metavar="FILE", help=OPTIONS["difficulty"])] = None,
    gamed: Annotated[str | None, typer.Option(metavar="FILE", help=OPTIONS["gamed"])] = None,
    unit: Annotated[str | None, typer.Option(metavar="COLUMN", help=OPTIONS["unit"])] = None,
    raters: Annotated[str | None, typer.Option(metavar="COLUMNS", help=OPTIONS["raters"])] = None,
    value: Annotated[str | None, typer.Option(metavar="COLUMN", help=OPTIONS["value"])] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling behind the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of results instead of a table.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a stored item; no files.")] = False,
) -> None:
    """Score stored predictions: every metric with its interval and the number of items behind it."""
    chosen = _known(benchmark)
    if schema:
        typer.echo(json.dumps(chosen.record.model_json_schema(), indent=2))
        return
    options = {"prediction": prediction, "gold": gold, "scores": scores, "difficulty": difficulty, "gamed": gamed}
    options |= {"unit": unit, "raters": raters, "value": value}
    given = {name: text for name, text in options.items() if text is not None}
    _check(chosen, predictions or [], given)
    read = chosen.read(predictions or [], given)
    results = chosen.score(read.items, seed=seed)
    # Items of no model are other data that the numbers need, such as AlpacaEval's gamed rows.
    if read.refused and all(item.refused for item in read.items if item.model):
        reasons = "; ".join(shown(f"{where}: {reason}") for where, reason in read.refused[:REASONS_SHOWN])
        raise DataError(f"{chosen.name}: none of the {len(read.refused)} rows is an item: {reasons}")
    for line in (*_refusals(read.refused), *map(shown, read.remarks)):
        print(line, file=sys.stderr)
    if as_json:
        for note in chosen.notes:
            print(f"note: {note}", file=sys.stderr)
        rows = [result.model_dump(mode="json") for result in results]
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
        return
    for line in (*table(results, hidden=("benchmark",)), *(f"note: {note}" for note in chosen.notes)):
        typer.echo(line)


def _known(name: str) -> StoredBenchmark[Any]:
    if name not in STORED:
        raise DataError(f"no benchmark {name!r}{nearest(name, STORED)}; `alignment score --help` lists them")
    return STORED[name]


def _check(benchmark: StoredBenchmark[Any], predictions: Sequence[Path], given: dict[str, str]) -> None:
    for name in given:
        if name not in benchmark.options:
            takes = ", ".join(f"--{option}" for option in benchmark.options) or "none of these options"
            raise DataError(f"{benchmark.name} does not take --{name}; it takes {takes}")
    if benchmark.needs_predictions and not predictions:
        raise DataError(f"{benchmark.name}: name the file of the predictions: alignment score {benchmark.example}")


def _refusals(refused: Sequence[tuple[str, str]]) -> list[str]:
    lines = [f"refused: {shown(f'{where}: {reason}')}" for where, reason in refused[:REFUSED_SHOWN]]
    if len(refused) > REFUSED_SHOWN:
        lines.append(f"refused: {len(refused) - REFUSED_SHOWN} more rows, {len(refused)} in all")
    return lines
