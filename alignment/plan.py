"""What a recipe would do: each stage's content key, whether it is reused, resumed or run, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.atomic import file_digest, json_digest, write_json
from alignment.preferences.sources import data_digest, made_digest, source_digest
from alignment.recipe import Recipe, StageSpec
from alignment.registry import ModelRegistry
from alignment.runs import RunContext, StageResult, located
from alignment.sources.resolve import model_digest


@dataclass(frozen=True)
class Planned:
    """One stage: its key, what the key is made of, its folder, and what would happen."""

    spec: StageSpec
    key: str
    parts: Mapping[str, Any]
    folder: Path
    action: str  # reuse | resume | run
    reason: str


def plan(recipe: Recipe, registry: ModelRegistry, run_dir: Path) -> list[Planned]:
    """Plans every stage in order. Reads digests only; no model is loaded and torch is not imported.

    A stage's key covers its settings, the keys of the stages it takes models or records from, digests of outside
    models and of data, the seed and the stage's code version. So one changed setting re-runs that stage
    and what follows from it, and nothing else.
    """
    planned: list[Planned] = []
    outside: dict[str, str] = {}
    made: dict[str, str] = {}  # stage -> registry reference, for the stages that will be reused
    files: dict[str, Path] = {}  # stage -> its records, likewise

    def outside_digest(ref: str) -> str:
        if ref not in outside:
            outside[ref] = model_digest(ref, registry)
        return outside[ref]

    for spec in recipe.stages:
        keys = {p.spec.name: p.key for p in planned}
        inputs = {
            role: keys.get(source) or outside_digest(recipe.head.base if source == "base" else source)
            for role, source in spec.models.items()
        }
        if spec.stage.reads_run:
            inputs |= keys
        parts = {
            "kind": spec.kind,
            "stage code": spec.stage.version,
            "settings": spec.settings.model_dump(mode="json", exclude_none=True),
            "inputs": inputs,
            # What a stage makes has no digest before it ran; the key of that stage stands for it.
            "data": {
                role: made_digest(data, keys[data.maker]) if data.maker else data_digest(data)
                for role, data in spec.data.items()
            },
            "seed": recipe.seed(spec),
            "chat_template": _template_digest(recipe.head.chat_template),
        }
        if named := spec.settings.files():
            parts["files"] = {role: source_digest(source) for role, source in named.items()}
        if awaited := spec.settings.awaited():
            parts["awaited"] = {
                role: file_digest(Path(path)) if Path(path).is_file() else None for role, path in awaited.items()
            }
        key = json_digest(parts)
        folder = run_dir / "stages" / f"{spec.name}-{key[:12]}"
        changed_before = [
            p.spec.name for p in planned if p.action != "reuse" and p.spec.name in _sources(spec, planned)
        ]
        action, reason = _decide(spec, folder, parts, changed_before, made, files, registry, run_dir)
        if action == "reuse" and (result := finished(folder)):
            made |= result.models
            files |= {stage: run_dir / file.path for stage, file in result.records.items()}
        planned.append(Planned(spec, key, parts, folder, action, reason))
    return planned


def _sources(spec: StageSpec, planned: list[Planned]) -> set[str]:
    if spec.stage.reads_run:
        return {p.spec.name for p in planned}
    return {*spec.models.values(), *(data.maker for data in spec.data.values() if data.maker)}


def _decide(
    spec: StageSpec,
    folder: Path,
    parts: Mapping[str, Any],
    upstream: list[str],
    made: Mapping[str, str],
    files: Mapping[str, Path],
    registry: ModelRegistry,
    run_dir: Path,
) -> tuple[str, str]:
    result = finished(folder)
    if result is not None:
        lost = _lost(result, registry, run_dir)
        if lost:
            return "run", lost
        if upstream:
            return "run", f"{', '.join(upstream)} will be made again"
        used = _record(folder)["input_digests"]
        for role, source in spec.models.items():
            if source in made and registry.get(made[source]).digest != used[role]:
                return "run", f"{made[source]} has other weights than when this stage ran"
        read = _record(folder).get("data_digests", {})
        for role, data in spec.data.items():
            if data.maker in files and data_digest(located(data, files)) != read[role]:
                return "run", f"the records of {data.maker} are others than when this stage ran"
        return "reuse", "finished with these settings, models and data"
    if (folder / "inputs.json").exists():
        return "resume", "was interrupted"
    return "run", _difference(spec, parts, run_dir)


def _lost(result: StageResult, registry: ModelRegistry, run_dir: Path) -> str | None:
    """What a finished stage made and is no longer there, or no longer as it was made."""
    for ref in result.models.values():
        if not registry.has(ref):
            return f"{ref} is no longer in the registry"
    for file in result.records.values():
        path = run_dir / file.path
        if not path.is_file():
            return f"{file.path} is gone"
        if file_digest(path) != file.digest:
            return f"{file.path} has changed since it was made"
    for page, digest in result.pages.items():
        if not (run_dir / page).is_file():
            return f"{page} is gone"
        if file_digest(run_dir / page) != digest:
            return f"{page} is of other settings"
    return None


def finished(folder: Path) -> StageResult | None:
    """The stage's result if it finished; result.json is written last and atomically."""
    record = _record(folder)
    return StageResult.from_json(record) if record else None


def finish(folder: Path, result: StageResult, context: RunContext, seconds: float) -> None:
    """Marks a stage finished; from here on it is reused."""
    used = {
        "inputs": dict(context.inputs),
        "input_digests": dict(context.input_digests),
        "data_digests": dict(context.data_digests),
        "seconds": round(seconds, 1),
    }
    write_json(folder / "result.json", result.to_json() | used)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def stage_row(p: Planned, run_dir: Path, result: StageResult | None, status: str) -> dict[str, Any]:
    """A stage's row of the manifest."""
    record = _record(p.folder) if result else {}
    return {
        "name": p.spec.name,
        "kind": p.spec.kind,
        "key": p.key,
        "folder": str(p.folder.relative_to(run_dir)),
        "status": "done" if result else status,
        "reused": p.action == "reuse",
        "seconds": record.get("seconds"),
        "models": record.get("models", {}),
        "records": record.get("records", {}),
        "metrics": record.get("metrics", {}),
        "notes": record.get("notes", []),
        "inputs": record.get("inputs", dict(p.spec.models)),
        "data": record.get("data", []),
        "settings": p.parts["settings"],
    }


def _difference(spec: StageSpec, parts: Mapping[str, Any], run_dir: Path) -> str:
    """Why this key is new, told against the newest earlier attempt at the same stage."""
    attempts = list((run_dir / "stages").glob(f"{spec.name}-*/inputs.json"))
    if not attempts:
        return "has not run yet"
    before = json.loads(max(attempts, key=lambda p: p.stat().st_mtime).read_text(encoding="utf-8"))
    changes = list(_changes(before, parts))
    return "changed: " + "; ".join(changes[:3]) if changes else "has not run yet"


def _changes(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, Mapping):
        names = sorted(set(before) | set(after))
        return [
            c for name in names for c in _changes(before.get(name), after.get(name), f"{path}.{name}" if path else name)
        ]
    if before == after:
        return []
    shown = path.removeprefix("settings.")
    if path.startswith(("inputs.", "data.", "files.")):
        return [f"{path.replace('.', ' ', 1)} is different"]
    return [f"{shown} {before} → {after}"]


def _template_digest(chat_template: str | None) -> str | None:
    if chat_template is None:
        return None
    from alignment.models import read_chat_template

    return hashlib.sha256(read_chat_template(chat_template).encode()).hexdigest()
