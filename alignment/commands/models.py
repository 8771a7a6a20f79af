"""`alignment models`: what is in the registry, where it came from, whether it is still intact."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from alignment.registry import LineageNode, ModelEntry, ModelRegistry

models_app = typer.Typer(
    help="List, inspect, tag, verify, export and remove the models of the registry.", no_args_is_help=True
)

RegistryPath = Annotated[
    Path | None, typer.Option("--registry", help="The registry's folder; default $ALIGNMENT_REGISTRY or ./registry.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="name@version or name@alias")]
OptionalRef = Annotated[str | None, typer.Argument(metavar="[REF]", help="name@version or name@alias; default: all")]


# What a list of models has room for, the first three that there are; `show` has them all.
TOLD = ("eval_loss", "eval_accuracy", "loss", "objective/scores", "objective/kl", "rewards/margins", "margin")


@models_app.command("list")
def list_models(registry: RegistryPath = None, as_json: AsJson = False) -> None:
    """List every model with its parent and what its training logged last."""
    models = _open(registry)
    entries = models.entries()
    if as_json:
        _print_json([_as_json(entry, models) for entry in entries])
        return
    if not entries:
        typer.echo(f"the registry {models.root} is empty; `alignment run recipes/quickstart.yaml` fills it")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "kind", "parent", "aliases", "metrics"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("model", "kind", "parent"))
    for entry in entries:
        metrics = "  ".join(f"{name} {_number(entry.metrics[name])}" for name in _told(entry.metrics))
        cells = [entry.ref, _kind(entry), entry.parent or "–", ", ".join(_aliases(entry, models)), metrics]
        table.add_row(*(Text(cell) for cell in cells))
    Console(highlight=False).print(table)


@models_app.command()
def show(ref: Ref, registry: RegistryPath = None, as_json: AsJson = False) -> None:
    """Show everything recorded about a model."""
    models = _open(registry)
    entry = models.get(ref)
    facts = _as_json(entry, models) | {
        "path": str(models.path(entry.ref)),
        "children": [child.ref for child in models.children(entry.ref)],
    }
    if as_json:
        _print_json(facts)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        table.add_row(key, Text(_text(value), overflow="fold"))
    Console(highlight=False).print(table)


@models_app.command()
def lineage(ref: OptionalRef = None, registry: RegistryPath = None, as_json: AsJson = False) -> None:
    """Draw what was made from what; with REF only its ancestors and descendants."""
    models = _open(registry)
    trees = models.lineage(ref)
    if as_json:
        _print_json([_node_json(tree) for tree in trees])
        return
    if not trees:
        typer.echo(f"the registry {models.root} is empty; `alignment run recipes/quickstart.yaml` fills it")
    for tree in trees:
        Console(highlight=False, soft_wrap=True).print(_draw(tree, models, None))


@models_app.command()
def tag(
    ref: Ref,
    alias: Annotated[str, typer.Argument(help="A name for it, such as best; moved if it points elsewhere.")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete the alias instead.")] = False,
    registry: RegistryPath = None,
) -> None:
    """Point an alias to a model."""
    models = _open(registry)
    entry = models.get(ref)
    if delete:
        models.untag(f"{entry.name}@{alias}")
        typer.echo(f"{entry.name}@{alias} is gone; {entry.ref} stays")
        return
    models.tag(ref, alias)
    typer.echo(f"{entry.name}@{alias} is {entry.ref}")


@models_app.command()
def verify(ref: OptionalRef = None, registry: RegistryPath = None, as_json: AsJson = False) -> None:
    """Hash every stored file again. Exit code 1 when something is missing, changed or does not belong."""
    models = _open(registry)
    problems = models.verify(ref)
    if as_json:
        _print_json({"ok": not problems, "problems": problems})
    else:
        checked = 1 if ref else sum(len(models.versions(name)) for name in models.names())
        for problem in problems:
            typer.echo(problem)
        typer.echo(f"{checked} checked, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(1)


@models_app.command()
def remove(
    ref: Ref,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    registry: RegistryPath = None,
) -> None:
    """Delete a model and its files; refused while others were made from it or aliases point to it."""
    models = _open(registry)
    entry = models.get(ref)
    if not yes:
        typer.confirm(f"delete {entry.ref} and its {len(entry.files)} files? (--yes skips this question)", abort=True)
    models.remove(ref)
    typer.echo(f"{entry.ref} is removed; its number is not used again")


@models_app.command()
def export(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Any model reference: name@version, pypi:..., path:...")],
    folder: Annotated[Path, typer.Argument(help="Where to; it must not exist yet.")],
    registry: RegistryPath = None,
) -> None:
    """Write a model as a plain folder that other programs load: full weights with its adapters merged in, tokenizer."""
    from alignment.exporting import export_model

    export_model(ref, _open(registry), folder, typer.echo)
    typer.echo(f"{ref} is in {folder}")


def _open(folder: Path | None) -> ModelRegistry:
    return ModelRegistry(folder or Path(os.environ.get("ALIGNMENT_REGISTRY") or "registry"))


def _aliases(entry: ModelEntry, models: ModelRegistry) -> list[str]:
    return sorted(alias for alias, version in models.aliases(entry.name).items() if version == entry.version)


def _as_json(entry: ModelEntry, models: ModelRegistry) -> dict[str, Any]:
    return {"ref": entry.ref, **entry.model_dump(mode="json"), "aliases": _aliases(entry, models)}


def _node_json(node: LineageNode) -> dict[str, Any]:
    return {
        "ref": node.ref,
        "kind": node.entry.kind if node.entry else None,
        "role": node.entry.role if node.entry else None,
        "children": [_node_json(child) for child in node.children],
    }


def _draw(node: LineageNode, models: ModelRegistry, tree: Tree | None) -> Tree:
    label = Text(node.ref)
    if node.entry is None:
        label.append(" base" if ":" in node.ref else " not in this registry", style="dim")
    else:
        label.append(f" {_kind(node.entry)} {_date(node.entry)}", style="dim")
        for alias in _aliases(node.entry, models):
            label.append(f" [{alias}]", style="bold")
    branch = Tree(label) if tree is None else tree.add(label)
    for child in node.children:
        _draw(child, models, branch)
    return branch


def _kind(entry: ModelEntry) -> str:
    return f"{entry.role} adapter" if entry.kind == "adapter" else entry.kind


def _date(entry: ModelEntry) -> str:
    return entry.created[:16].replace("T", " ")


def _told(metrics: Mapping[str, float | None]) -> list[str]:
    """The three to list; of a model that has none of TOLD, the first three."""
    return ([name for name in TOLD if name in metrics] or list(metrics))[:3]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else str(value)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
