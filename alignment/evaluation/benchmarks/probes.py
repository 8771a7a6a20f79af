"""Probe files: bundled JSON Lines of short items, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext
from alignment.evaluation.data import subset
from alignment.shipped import BUNDLED, resolve_bundled


class Item(BaseModel):
    """An item of a probe file; fields that its benchmark does not read are allowed."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: str


ItemT = TypeVar("ItemT", bound=Item)


def probe_path(source: str) -> Path:
    """`bundled:...` or a path. Raises DataError when there is no such file."""
    path = resolve_bundled(source) if source.startswith(BUNDLED) else Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such probe file; give a JSON Lines file")
    return path


def read_probe(source: str, kind: type[ItemT]) -> list[ItemT]:
    """All items. Raises DataError naming the line that is broken, an id that is there twice, or an empty file."""
    path = probe_path(source)
    items: dict[str, ItemT] = {}
    # Not splitlines(): JSON text may hold U+2028 and its like as they are.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = kind.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise DataError(f"{path}: line {number}: {where + ': ' if where else ''}{problem['msg']}") from error
        if item.id in items:
            raise DataError(f"{path}: line {number}: id {item.id!r} is there twice; ids pair the models' answers")
        items[item.id] = item
    if not items:
        raise DataError(f"{path}: no items")
    return list(items.values())


def chosen_probe(source: str, kind: type[ItemT], context: EvalContext) -> list[ItemT]:
    """The items to evaluate on: all, or as many as the evaluation's limit. Raises as `read_probe` does."""
    items = read_probe(source, kind)
    return subset(items, [item.id for item in items], context.settings.items)


def probe_inputs(source: str, context: EvalContext) -> dict[str, Any]:
    """What predictions on a probe file depend on besides the model: the file's content, the limit, the precision."""
    from alignment.atomic import file_digest

    limited = {} if context.settings.items is None else {"items": context.settings.items}
    return {"file": file_digest(probe_path(source)), "bf16": context.settings.bf16, **limited}
