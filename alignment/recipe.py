"""A recipe: one YAML file that says what to run. Strict: an unknown key or a wrong type is an error with the fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignment.atomic import json_digest
from alignment.errors import RecipeError, nearest
from alignment.preferences.sources import DataSpec
from alignment.shipped import shipped_folder
from alignment.stages import STAGES, Stage
from alignment.stages.settings import Made, StageSettings, TrainingSettings

M = TypeVar("M", bound=BaseModel)


class Head(BaseModel):
    """The recipe without its stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,47}$")
    description: str = ""
    seed: int = Field(42, ge=0)
    base: str
    chat_template: str | None = None  # a Jinja file, for a base model without a template of its own
    data: dict[str, DataSpec] = {}


@dataclass(frozen=True)
class StageSpec:
    """One stage of a recipe, with its resolved hand-offs."""

    name: str
    kind: str
    settings: StageSettings
    models: Mapping[str, str]  # input role -> earlier stage, base, or a model reference
    data: Mapping[str, DataSpec]  # role -> data set

    @property
    def stage(self) -> Stage:
        return STAGES[self.kind]


@dataclass(frozen=True)
class Recipe:
    """A validated recipe."""

    head: Head
    stages: tuple[StageSpec, ...]

    @property
    def name(self) -> str:
        return self.head.name

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, with every default written out."""
        stages = [{s.kind: s.settings.model_dump(mode="json", exclude_none=True)} for s in self.stages]
        return {**self.head.model_dump(mode="json", exclude_none=True), "stages": stages}

    @property
    def digest(self) -> str:
        return json_digest(self.as_dict())


def find_recipe(name: str) -> Path:
    """A path, or the name of a shipped recipe (`quickstart`, `hh-harmless/full`)."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_folder("recipes")
    inside = path.relative_to("recipes") if path.parts[:1] == ("recipes",) else path
    candidate = (shipped / inside).with_suffix(".yaml") if path.suffix != ".yaml" else shipped / inside
    if candidate.resolve().is_relative_to(shipped.resolve()) and candidate.is_file():
        return candidate
    known = [str(p.relative_to(shipped).with_suffix("")) for p in sorted(shipped.rglob("*.yaml"))]
    raise RecipeError(f"{name}: no such recipe file; shipped recipes: {', '.join(known)}")


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and validates a recipe.

    Overrides are `seed=3`, `data.preferences.source=FILE`, or `STAGE.key.key=value`; values are YAML.
    Raises RecipeError with the file, the key and the nearest valid name.
    """
    path = find_recipe(name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with name, base and stages")
    for override in overrides:
        _override(raw, override)
    return parse_recipe(raw, str(path))


def parse_recipe(raw: dict[str, Any], where: str) -> Recipe:
    """Validates a recipe that was read already; `where` names it in messages."""
    fields = dict(raw)
    stages_raw = fields.pop("stages", None)
    if not isinstance(stages_raw, list) or not stages_raw:
        raise RecipeError(f"{where}: stages: a recipe needs a list of stages; known kinds: {', '.join(STAGES)}")
    head = _validate(Head, fields, where, extra_names=["stages"])
    stages: list[StageSpec] = []
    for index, item in enumerate(stages_raw):
        kind, given = _single(item, where, index)
        row = STAGES[kind]
        settings = _validate(row.settings, given, f"{where}: {given.get('name', kind)}")
        stage = settings.name or kind
        if stage == "base" or stage in {s.name for s in stages}:
            raise RecipeError(f"{where}: two stages are called {stage!r}; give one a `name:` of its own")
        earlier = [Made(s.name, s.stage.produces) for s in stages]
        try:
            models = settings.model_inputs(stage, earlier)
            data = {role: _data(head, need.source, need.split) for role, need in settings.data_inputs().items()}
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from error
        stages.append(StageSpec(stage, kind, settings, models, data))
    _no_leak(stages, where)
    return Recipe(head, tuple(stages))


def _single(item: Any, where: str, index: int) -> tuple[str, dict[str, Any]]:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        raise RecipeError(f"{where}: stages[{index}]: each stage is one `kind: {{settings}}`")
    kind, given = next(iter(item.items()))
    if kind not in STAGES:
        raise RecipeError(f"{where}: stages[{index}]: unknown stage {kind!r}{nearest(str(kind), STAGES)}")
    if given is not None and not isinstance(given, dict):
        raise RecipeError(f"{where}: {kind}: settings must be a mapping, not {given!r}")
    return kind, given or {}


def _data(head: Head, source: str, split: str) -> DataSpec:
    """A stage's `data:`: a name defined under the recipe's `data:`, or a source of its own."""
    if source in head.data:
        return head.data[source].model_copy(update={"split": split})
    if ":" in source or "/" in source or "." in source:
        return DataSpec(source=source, split=split)  # type: ignore[arg-type]
    raise RecipeError(f"data: {source!r} is neither a name under `data:` nor a file{nearest(source, head.data)}")


def _no_leak(stages: Sequence[StageSpec], where: str) -> None:
    """No stage evaluates on what another learns from: the records it trains on, or chooses its best step by."""
    learned: dict[tuple[str, str | None], str] = {}
    for stage in stages:
        uses = {"train": "trains on"}
        if isinstance(stage.settings, TrainingSettings) and stage.settings.early_stopping is not None:
            uses["eval"] = "chooses its best step by"
        for role, spec in stage.data.items():
            if stage.stage.produces and role in uses:
                learned.setdefault((spec.source, spec.split), f"{stage.name} {uses[role]}")
    for stage in stages:
        for spec in stage.data.values():
            clash = learned.get((spec.source, spec.split))
            if stage.stage.produces is None and clash:
                raise RecipeError(
                    f"{where}: {stage.name}: evaluates on {spec.source} split {spec.split}, which {clash}; choose "
                    "another split"
                )


def _validate(model: type[M], given: dict[str, Any], where: str, extra_names: Sequence[str] = ()) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = [*_fields_at(model, first["loc"][:-1]), *extra_names]
            raise RecipeError(f"{where}: {path}: unknown key{nearest(str(first['loc'][-1]), names)}") from error
        if first["type"] == "missing":
            raise RecipeError(f"{where}: {path}: this key is required") from error
        value = f" (got {first['input']!r})" if not isinstance(first["input"], dict) else ""
        raise RecipeError(f"{where}: {path}: {first['msg'].removeprefix('Value error, ')}{value}") from error


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Field names of the nested model at `loc`, for the nearest-name message."""
    current: Any = model
    for part in loc:
        annotation = current.model_fields[part].annotation if part in getattr(current, "model_fields", {}) else current
        current = next((a for a in _leaves(annotation) if isinstance(a, type) and issubclass(a, BaseModel)), current)
    return list(current.model_fields)


def _leaves(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", None)
    return [leaf for a in arguments for leaf in _leaves(a)] if arguments else [annotation]


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {override!r}: write it as key=value, for example dpo.beta=0.2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not valid YAML") from error
    parts = path.split(".")
    target: Any = raw
    if len(parts) > 1 and parts[0] not in raw:
        target, parts = _stage_settings(raw, parts[0], override), parts[1:]
    for part in parts[:-1]:
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {part} is not a mapping")
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
    if not isinstance(target, dict):
        raise RecipeError(f"override {override!r}: {parts[-1]} is not inside a mapping")
    target[parts[-1]] = value


def _stage_settings(raw: dict[str, Any], stage: str, override: str) -> dict[str, Any]:
    names = []
    stages = raw.get("stages") or []
    for index, item in enumerate(stages):
        if isinstance(item, str):
            stages[index] = item = {item: {}}
        if not isinstance(item, dict) or len(item) != 1:
            continue
        kind = next(iter(item))
        if item[kind] is None:
            item[kind] = {}
        name = item[kind].get("name", kind) if isinstance(item[kind], dict) else kind
        names.append(name)
        if name == stage:
            return item[kind]  # type: ignore[no-any-return]
    raise RecipeError(f"override {override!r}: no stage or key {stage!r}{nearest(stage, [*names, *raw])}")
