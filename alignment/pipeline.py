"""The story of a run: for each stage, find its result or run it, and hand its model on to the next."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment import runtime
from alignment.atomic import storage_errors, write_json
from alignment.errors import AlignmentError, DataError, RecipeError
from alignment.models import check_chat_template, load_tokenizer
from alignment.plan import Planned, finish, finished, plan, stage_row
from alignment.preferences import prompts, sources, steps, unpaired, views
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.sources import DataSpec
from alignment.recipe import Recipe, StageSpec
from alignment.registry import ModelRegistry
from alignment.runs import (
    RunContext,
    RunLog,
    Say,
    StageResult,
    code_version,
    located,
    locked,
    now,
    package_versions,
)
from alignment.sources.resolve import resolve
from alignment.stages.settings import DataNeed, Found


def run(recipe: Recipe, run_dir: Path, registry: ModelRegistry, console: Say) -> dict[str, Any]:
    """Runs what is not finished and returns the manifest. The same call after any crash resumes.

    Raises AlignmentError (one clear line) when a stage fails; finished stages stay finished. Raises RecipeError, before
    anything is written, when it is one of several processes (see docs/decisions/0011-one-process.md).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "a recipe runs in one process; start it without torchrun (ObjectiveTrainer, from Python, takes several)"
        )
    started = time.monotonic()
    with locked(run_dir):
        say = RunLog(run_dir / "run.log", console)
        try:
            stages = plan(recipe, registry, run_dir)
            if all(p.action == "reuse" for p in stages) and (run_dir / "manifest.json").exists():
                seconds = time.monotonic() - started
                say(f"{recipe.name}: nothing to do, all {len(stages)} stages are finished ({seconds:.1f} s)")
                return _manifest(recipe, stages, run_dir, "done", results(stages))
            _preflight(recipe, stages, registry, say)
            return _run_stages(recipe, stages, run_dir, registry, say)
        finally:
            say.close()


def results(stages: list[Planned]) -> dict[str, StageResult]:
    """Stage name -> result, for the stages that are finished."""
    return {p.spec.name: result for p in stages if p.action == "reuse" and (result := finished(p.folder))}


def _preflight(recipe: Recipe, stages: list[Planned], registry: ModelRegistry, say: Say) -> None:
    """What can be wrong with settings, data and models is found before the first step of the first stage."""
    for p in stages:
        if p.action != "reuse":
            p.spec.stage.check(p.spec.name, p.spec.settings)
            for role, need in p.spec.settings.data_inputs().items():
                if p.spec.data[role].maker is None:  # what a stage makes is checked when it is there
                    _check_data(p.spec, role, p.spec.data[role], need)
    outside = {source for p in stages for source in p.spec.models.values()} - {p.spec.name for p in stages}
    for source in sorted(outside):
        ref = recipe.head.base if source == "base" else source
        resolve(ref, registry, say=say)
        check_chat_template(load_tokenizer(ref, registry, chat_template=recipe.head.chat_template, say=say), ref)


def _check_data(stage: StageSpec, role: str, spec: DataSpec, need: DataNeed) -> None:
    """The file reads, the split holds records, and they can be used as what the stage wants of them."""
    records = sources.load(spec).records
    used, dropped = _usable(records, spec, need)
    if not used:
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DataError(f"{spec.source}: none of {len(records)} records can be used as {need.view}: {reasons}")
    stage.settings.check_records(stage.name, role, Found(records, used), spec)


def _usable(records: list[PreferenceRecord], spec: DataSpec, need: DataNeed) -> tuple[Sequence[object], views.Dropped]:
    if need.view == "steps":
        return steps.labelled_steps(records, **need.options)
    if need.view == "demonstrations":
        return views.demonstrations(records, spec.criterion)
    if need.view == "prompts":
        return prompts.prompts(records)
    if need.view == "heldout":  # prompts to answer; rankings to judge reward models by, where there are any
        views.choose_criterion(records, spec.criterion)
        return prompts.prompts(records)
    if need.view == "pairs":
        return views.pairs(records, spec.criterion, mode=need.options["mode"])  # type: ignore[arg-type]
    if need.view == "unpaired":
        return unpaired.labelled_responses(records, spec.criterion)
    return views.rankings(records, spec.criterion)


def _run_stages(
    recipe: Recipe, stages: list[Planned], run_dir: Path, registry: ModelRegistry, say: RunLog
) -> dict[str, Any]:
    done: dict[str, StageResult] = {}
    for number, p in enumerate(stages, 1):
        title = f"[{number}/{len(stages)}] {p.spec.name}"
        if p.action == "reuse" and (result := finished(p.folder)):
            say(f"{title}: reused ({p.reason})")
            done[p.spec.name] = result
            continue
        say(f"{title}: {p.action} ({p.reason})")
        _manifest(recipe, stages, run_dir, "running", done, current=p.spec.name)
        try:
            done[p.spec.name] = _run_stage(recipe, p, run_dir, registry, say, done)
        except BaseException as error:
            _manifest(recipe, stages, run_dir, "failed", done, current=p.spec.name)
            if isinstance(error, AlignmentError):
                say.record(f"{p.spec.name}: {error}")
            raise
    return _manifest(recipe, stages, run_dir, "done", done)


def _run_stage(
    recipe: Recipe,
    p: Planned,
    run_dir: Path,
    registry: ModelRegistry,
    say: Say,
    done: Mapping[str, StageResult],
) -> StageResult:
    started = time.monotonic()
    made = {name: ref for result in done.values() for name, ref in result.models.items()}
    files = {name: run_dir / file.path for result in done.values() for name, file in result.records.items()}
    data = {role: located(spec, files) for role, spec in p.spec.data.items()}
    for role, need in p.spec.settings.data_inputs().items():
        if p.spec.data[role].maker is not None:
            _check_data(p.spec, role, data[role], need)
    refs = {
        role: made.get(source) or (recipe.head.base if source == "base" else source)
        for role, source in p.spec.models.items()
    }
    context = RunContext(
        run=recipe.name,
        run_dir=run_dir,
        folder=p.folder,
        stage=p.spec.name,
        key=p.key,
        seed=recipe.seed(p.spec),
        chat_template=recipe.head.chat_template,
        recipe_digest=recipe.digest,
        registry=registry,
        inputs=refs,
        input_digests={role: resolve(ref, registry, say=say).digest for role, ref in refs.items()},
        data=p.spec.data,
        data_digests={
            role: p.parts["data"][role] if spec.maker is None else sources.data_digest(data[role])
            for role, spec in p.spec.data.items()
        },
        say=say,
        made=files,
    )
    with storage_errors(p.folder):
        if p.action == "run":  # nothing of an earlier attempt with other inputs may be mixed in
            shutil.rmtree(p.folder, ignore_errors=True)
        write_json(p.folder / "inputs.json", p.parts)
        result = p.spec.stage.run(context, p.spec.settings)
    seconds = time.monotonic() - started
    finish(p.folder, result, context, seconds)
    where = [*result.models.values(), *(str(run_dir / file.path) for file in result.records.values())]
    say(f"{p.spec.name}: done in {seconds:.0f} s" + "".join(f", saved as {place}" for place in where))
    return result


def _manifest(
    recipe: Recipe,
    stages: list[Planned],
    run_dir: Path,
    status: str,
    done: Mapping[str, StageResult],
    current: str | None = None,
) -> dict[str, Any]:
    """Writes manifest.json: the whole run for a reader who has only this file."""
    path = run_dir / "manifest.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = [
        stage_row(p, run_dir, done.get(p.spec.name), status if p.spec.name == current else "pending") for p in stages
    ]
    manifest = {
        "name": recipe.name,
        "description": recipe.head.description,
        "status": status,
        "seed": recipe.head.seed,
        "base": recipe.head.base,
        "recipe": recipe.as_dict(),
        "recipe_digest": recipe.digest,
        "created": before.get("created", now()),
        "updated": now(),
        "seconds": sum(row["seconds"] or 0 for row in rows),
        "versions": package_versions(),
        "hardware": before.get("hardware") if status == "done" and current is None and before else runtime.describe(),
        "code_version": code_version(),
        "stages": rows,
    }
    write_json(path, manifest)
    return manifest
