"""`alignment data`: import, look at, and check preference data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.atomic import storage_errors
from alignment.errors import DataError
from alignment.preferences import audit, splits, store
from alignment.preferences.importers import IMPORTERS
from alignment.preferences.importers.run import ImportReport, Refusal, import_file, importer
from alignment.preferences.record import json_schema

JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SHOWN = 20  # problems listed by `validate`; --json lists all
console = Console(highlight=False, soft_wrap=True)
data_app = typer.Typer(help="Import, look at and check preference data.", no_args_is_help=True)


@data_app.command("import")
def import_data(
    format: Annotated[str, typer.Argument(help=f"One of {', '.join(IMPORTERS)}.")],
    file: Annotated[Path, typer.Argument(help="A JSONL file or a JSON array of rows, plain or .gz.")],
    out: Annotated[Path, typer.Option(help="Where the records go: .jsonl or .jsonl.gz.")],
    dataset: Annotated[str | None, typer.Option(help="Name kept in every record; default: the file's name.")] = None,
    split_fractions: Annotated[
        str | None, typer.Option(help="train=0.8,validation=0.1,test=0.1; default: no split is written.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Turn a source file into records; refused rows go, with reasons, to OUT's .rejected.jsonl."""
    importer(format)  # complain about a wrong name before anything is read
    fractions = _fractions(split_fractions) if split_fractions is not None else None
    rejected = out.with_name(out.name.removesuffix(".gz").removesuffix(".jsonl") + ".rejected.jsonl")
    _refuse_overwrite(file, (out, rejected), force)
    report = import_file(format, file, dataset)
    records = report.records if fractions is None else splits.split_records(report.records, fractions)
    store.write_records(out, records)
    if report.refused:
        store.write_lines(rejected, (_refused_line(refusal) for refusal in report.refused))
    else:
        with storage_errors(rejected):
            rejected.unlink(missing_ok=True)
    _show_report(report, out, rejected)


def _fractions(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        fractions = {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        raise DataError(f"--split-fractions {text}: write train=0.8,validation=0.1,test=0.1") from None
    splits.check_fractions(fractions)
    return fractions


def _refuse_overwrite(file: Path, written: tuple[Path, ...], force: bool) -> None:
    for path in written:
        if path.exists() and file.exists() and path.samefile(file):
            raise DataError(f"{path}: this would replace the source file; give another --out")
        if path.exists() and not force:
            raise DataError(f"{path}: exists already; give another --out, or --force to replace it")


def _refused_line(refusal: Refusal) -> str:
    row = {"line": refusal.line, "reason": refusal.reason, "detail": refusal.detail, "row": refusal.row}
    return json.dumps({key: value for key, value in row.items() if value != ""})


def _show_report(report: ImportReport, out: Path, rejected: Path) -> None:
    console.print(f"rows read {report.n_rows}, taken {report.n_taken}, refused {len(report.refused)}")
    for reason, count in report.reasons().most_common():
        console.print(f"  {count} refused: {escape(reason)}")
    n_records = f"{len(report.records)} " if len(report.records) != report.n_taken else ""
    console.print(f"{n_records}records: {escape(str(out))}")
    if report.refused:
        console.print(f"refused rows: {escape(str(rejected))}")


@data_app.command()
def stats(
    file: Annotated[Path, typer.Argument(help="A file of records.")],
    as_json: JSON = False,
) -> None:
    """Count what is in a file: responses, annotators, ties, lengths, splits and leaks between them."""
    found = audit.stats(store.read_records(file))
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _flat(found):
        table.add_row(name, escape(value))
    console.print(table)


def _flat(values: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested values as (name, text) rows; counts of one thing stay in one row."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, list):
            continue  # ids of examples: --json has them
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            rows += _flat(value, name)
        elif isinstance(value, dict):
            rows.append((name, _counts(value)))
        else:
            rows.append((name, _text(value)))
    return rows


def _counts(values: dict[str, Any]) -> str:
    shown = [f"{name} {_text(value)}" for name, value in values.items() if not isinstance(value, list)]
    return ", ".join(shown) or "none"


def _text(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@data_app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A file of records.")],
    as_json: JSON = False,
) -> None:
    """Check every line of a file against the schema; exit code 2 when one is wrong."""
    n_records = 0
    problems: list[dict[str, Any]] = []
    for line, found in store.scan(file):
        if isinstance(found, str):
            problems.append({"line": line, "problem": found})
        else:
            n_records += 1
    if as_json:
        typer.echo(json.dumps({"file": str(file), "records": n_records, "problems": problems}, indent=1))
    else:
        for problem in problems[:SHOWN]:
            console.print(escape(f"{file}:{problem['line']}: {problem['problem']}"))
        if not problems:
            console.print(escape(f"{file}: {n_records} records, all valid"))
    if problems:
        n_lines = n_records + len(problems)
        raise DataError(
            f"{file}: {len(problems)} of {n_lines} lines are wrong, first line {problems[0]['line']}; mend them"
        )


@data_app.command()
def schema() -> None:
    """Print the JSON Schema of a record."""
    typer.echo(json.dumps(json_schema(), indent=2))
