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
from alignment.overrides import overridden
from alignment.preferences.sources import MADE, DataSpec
from alignment.repeat import REPEAT, Item, resolve_names, sees
from alignment.shipped import shipped_folder
from alignment.stages import STAGES, Stage
from alignment.stages.settings import DataNeed, Made, StageSettings, TrainingSettings

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

    def seed(self, stage: StageSpec) -> int:
        """The seed of a stage: its own, or the recipe's."""
        return self.head.seed if stage.settings.seed is None else stage.settings.seed

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, with every default and every round written out."""
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

    Overrides are `seed=3`, `data.preferences.source=FILE`, or `STAGE.key.key=value`; values are YAML. `repeat.rounds=3`
    reaches every `repeat`, `dpo.beta=0.2` the stage dpo in every round, `dpo_2.beta=0.2` in one.
    Raises RecipeError with the file, the key and the nearest valid name.
    """
    path = find_recipe(name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with name, base and stages")
    return parse_recipe(raw, str(path), overrides)


def parse_recipe(raw: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validates a recipe that was read already; `where` names it in messages."""
    fields, items = overridden(raw, where, overrides)
    head = _validate(Head, fields, where, extra_names=["stages"])
    stages: list[StageSpec] = []
    for index, item in enumerate(items):
        if item.kind not in STAGES:
            known = [*STAGES, REPEAT]
            raise RecipeError(f"{where}: {item.at}: unknown stage {item.kind!r}{nearest(item.kind, known)}")
        _own_name(item, items[:index], head, where)
        before = [other for other in items[:index] if sees(item, other)]
        settings = _validate(STAGES[item.kind].settings, _given(item, before, head), f"{where}: {item.name}")
        visible = {other.name for other in before}
        earlier = [Made(s.name, s.stage.produces) for s in stages if s.name in visible]
        rounds = _rounds(before, head)
        try:
            models = settings.model_inputs(item.name, earlier)
            data = {role: _data(head, need, earlier, rounds) for role, need in settings.data_inputs().items()}
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from error
        stages.append(StageSpec(item.name, item.kind, settings, models, data))
    _no_leak(stages, where)
    return Recipe(head, tuple(stages))


def _own_name(item: Item, before: Sequence[Item], head: Head, where: str) -> None:
    """No other stage answers to a stage's name, nor to the one that its rounds share; no data set to one of records."""
    taken = {"base", *(other.name for other in before)}
    taken |= {o.plain for o in before if not (o.round and item.round and o.round.block == item.round.block)}
    for name in (item.plain, item.name):
        if name in taken:
            raise RecipeError(f"{where}: two stages are called {name!r}; give one a `name:` of its own")
        if name in head.data and STAGES[item.kind].produces == "records":
            raise RecipeError(
                f"{where}: {item.at}: the records of this {item.kind} stage and a data set are both called {name!r}; "
                "give the stage a `name:` of its own, or the data set another name"
            )


def _rounds(before: Sequence[Item], head: Head) -> dict[str, str]:
    """What the names that rounds share mean behind these stages; a name under `data:` stays what it is."""
    return {o.plain: o.name for o in before if o.round is not None and o.plain not in head.data}


def _given(item: Item, before: Sequence[Item], head: Head) -> dict[str, Any]:
    """The settings of a stage as the recipe would say them without `repeat`."""
    given = resolve_names(item.given, _rounds(before, head))
    if item.round is None:
        return given
    given["name"] = item.name
    if not item.round.independent:
        return STAGES[item.kind].settings.in_round(given, item.round.number)
    seed = given.get("seed", head.seed)
    return given | {"seed": seed + item.round.number if isinstance(seed, int) else seed}


def _data(head: Head, need: DataNeed, earlier: Sequence[Made], rounds: Mapping[str, str]) -> DataSpec:
    """A stage's `data:`: a name under the recipe's `data:`, what an earlier stage made, or a source of its own."""
    source, made = need.source, [m.name for m in earlier if m.produces == "records"]
    if source in head.data:
        spec = head.data[source]
        if spec.split is not None:
            raise RecipeError(f"data.{source}.split: each stage says which part it reads; set `split` there")
    elif source in {m.name for m in earlier}:
        spec = DataSpec(source=f"{MADE}{source}")
    elif ":" in source or "/" in source or "." in source:
        spec = DataSpec(source=source)
    else:
        what = "neither a name under `data:`, nor an earlier stage that makes records, nor a file"
        raise RecipeError(f"data: {source!r} is {what}{nearest(source, [*head.data, *made])}")
    if spec.maker is not None:
        maker = rounds.get(spec.maker, spec.maker)
        if maker not in made:
            raise RecipeError(f"data: {maker!r} is no earlier stage that makes records{nearest(maker, made)}")
        spec = spec.model_copy(update={"source": f"{MADE}{maker}"})
    return spec.model_copy(update={"split": need.split})


Origin = tuple[str, str]  # source and split of records from outside


def _origins(spec: DataSpec, stages: Mapping[str, StageSpec]) -> set[Origin]:
    """Where records come from in the end: what a stage makes keeps the split of what it was made from."""
    wanted = spec.split or "all"
    if spec.maker is None:
        return {(spec.source, wanted)}
    found = {origin for read in stages[spec.maker].data.values() for origin in _origins(read, stages)}
    if wanted == "all":
        return found
    return {(source, wanted) for source, split in found if split in ("all", wanted)}


def _no_leak(stages: Sequence[StageSpec], where: str) -> None:
    """No stage evaluates on what another learns from: the records it trains on, or chooses its best step by."""
    by_name = {stage.name: stage for stage in stages}
    learned: dict[Origin, str] = {}
    for stage in stages:
        uses = {"train": "trains on"}
        if isinstance(stage.settings, TrainingSettings) and stage.settings.early_stopping is not None:
            uses["eval"] = "chooses its best step by"
        for role, spec in stage.data.items():
            origins = _origins(spec, by_name)
            if not origins:
                raise RecipeError(
                    f"{where}: {stage.name}: {spec.maker} makes no records of split {spec.split}, for it reads none; "
                    f"set another split here or in {spec.maker}"
                )
            if stage.stage.produces not in (None, "records") and role in uses:
                learned |= dict.fromkeys(origins - learned.keys(), f"{stage.name} {uses[role]}")
    for stage in stages:
        if stage.stage.produces is None:
            for origin in {origin for spec in stage.data.values() for origin in _origins(spec, by_name)}:
                _not_learned(stage.name, origin, learned, where)


def _not_learned(stage: str, origin: Origin, learned: Mapping[Origin, str], where: str) -> None:
    source, split = origin
    for (known, part), clash in learned.items():
        if known == source and (part == split or "all" in (part, split)):
            raise RecipeError(
                f"{where}: {stage}: evaluates on {source} split {split}, which {clash}; choose another split"
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
        at = f"{where}: {path}" if path else where  # a rule over several keys has no place of its own
        raise RecipeError(f"{at}: {first['msg'].removeprefix('Value error, ')}{value}") from error


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
