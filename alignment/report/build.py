"""Builds runs/NAME/report/ from the files of a run, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignment.atomic import publish, scratch_folder, storage_errors, sync_tree
from alignment.errors import DataError
from alignment.report.figures import write_figures
from alignment.report.html import render
from alignment.report.load import Run, load_run
from alignment.report.paper import all_tables
from alignment.report.tables import to_csv, to_latex

SCHEMA_VERSION = 1  # of results.json


def build_report(run_dir: Path, say: Callable[[str], None] = print) -> Path:
    """Writes `run_dir`/report/ and returns the path of its index.html.

    The folder is written anew under another name and then put in place: a reader finds the old report or the new
    one, never half of one. What was in report/ before is gone afterwards.
    Raises DataError naming the run file that is missing or wrong, StorageError when the disk refuses.
    """
    run = load_run(run_dir)
    target = run_dir / "report"
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise DataError(f"{target}: is not a folder; move it away, the report goes there")
    with storage_errors(target), scratch_folder(run_dir) as scratch:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        _write(run, new)
        sync_tree(new)
        if target.exists():
            target.rename(old)
        try:
            publish(new, target)
        except OSError:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    say(f"report: {target / 'index.html'} ({len(run.results)} results, {len(run.generations)} prompts)")
    return target / "index.html"


def _write(run: Run, folder: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    figures = write_figures(run, folder / "figures")
    for table in all_tables(run):
        (folder / "tables" / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")
        (folder / "tables" / f"{table.name}.csv").write_text(to_csv(table), encoding="utf-8")
    (folder / "index.html").write_text(render(run, figures), encoding="utf-8")
    text = json.dumps(results_json(run), indent=1, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def results_json(run: Run) -> dict[str, Any]:
    """Every result of the run with the run's identity, for other programs."""
    m = run.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "name": m.name,
            "seed": m.seed,
            "base": m.base,
            "recipe_digest": m.recipe_digest,
            "code_version": m.code_version,
            "created": m.created,
            "versions": dict(m.versions),
            "models": {name: ref for stage in m.stages for name, ref in stage.models.items()},
        },
        "results": [result.model_dump() for result in run.results],
    }
