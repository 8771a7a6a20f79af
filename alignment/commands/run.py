"""`alignment run`, `alignment recipes`, `alignment env`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from alignment.plan import Planned
    from alignment.recipe import Recipe

JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
console = Console(highlight=False, soft_wrap=True)


def run(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of a shipped one (see `alignment recipes`).")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example dpo.beta=0.2 seed=3")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and why, and stop.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(help="Where runs lie; default $ALIGNMENT_RUNS or ./runs.")] = None,
    registry: Annotated[
        Path | None, typer.Option(help="The model registry; default $ALIGNMENT_REGISTRY or ./registry.")
    ] = None,
) -> None:
    """Run a recipe: every stage in order, finished ones are reused, an interrupted one resumes."""
    from alignment.plan import plan
    from alignment.recipe import load_recipe
    from alignment.registry import ModelRegistry

    loaded = load_recipe(recipe, overrides or [])
    models = ModelRegistry(registry or Path(os.environ.get("ALIGNMENT_REGISTRY", "registry")))
    run_dir = (runs_dir or Path(os.environ.get("ALIGNMENT_RUNS", "runs"))) / loaded.name
    if dry_run:
        _show_plan(loaded, plan(loaded, models, run_dir))
        return
    try:
        from alignment import pipeline

        pipeline.run(loaded, run_dir, models, lambda line: console.print(escape(line)))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command resumes from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    if any(spec.kind == "report" for spec in loaded.stages):
        console.print(f"report: {escape(str(run_dir / 'report' / 'index.html'))}")


def _show_plan(recipe: Recipe, planned: list[Planned]) -> None:
    table = Table("stage", "kind", "key", "would", "why", box=None, pad_edge=False)
    for p in planned:
        table.add_row(p.spec.name, p.spec.kind, p.key[:12], p.action, escape(p.reason))
    console.print(f"{recipe.name}: base {recipe.head.base}, seed {recipe.head.seed}")
    console.print(table)


def recipes(as_json: JSON = False) -> None:
    """List the recipes shipped with this installation."""
    from alignment.recipe import load_recipe
    from alignment.shipped import shipped_folder

    root = shipped_folder("recipes")
    rows = []
    for path in sorted(root.rglob("*.yaml")):
        loaded = load_recipe(str(path))
        rows.append(
            {
                "name": str(path.relative_to(root).with_suffix("")),
                "description": loaded.head.description,
                "stages": [s.name for s in loaded.stages],
                "path": str(path),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("recipe", "stages", "what it does", box=None, pad_edge=False)
    for row in rows:
        table.add_row(str(row["name"]), " → ".join(row["stages"]), str(row["description"]))
    console.print(table)


def env(as_json: JSON = False) -> None:
    """Show versions, device and folders: what to put into a bug report."""
    from alignment import runtime
    from alignment.runs import code_version, package_versions
    from alignment.sources import cache_folder

    facts = {
        "alignment": code_version(),
        **package_versions(),
        **runtime.describe(),
        "runs": os.environ.get("ALIGNMENT_RUNS", "runs"),
        "registry": os.environ.get("ALIGNMENT_REGISTRY", "registry"),
        "cache": str(cache_folder()),
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        table.add_row(key, escape(str(value)))
    console.print(table)
