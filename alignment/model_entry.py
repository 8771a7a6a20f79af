"""What the registry stores of a model, and the family tree the entries form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from alignment.atomic import file_digests, json_digest
from alignment.errors import RegistryError

ENTRY = "entry.json"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class ModelEntry(BaseModel):
    """One immutable version of a model. `digest` covers its files and its parent's digest: it names the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = Field(ge=1)
    kind: Literal["base", "policy", "reward", "adapter"]  # an adapter is a LoRA delta to its parent
    role: Literal["policy", "reward"]  # what it is used as; says what an adapter adapts
    parent: str | None = None
    parent_digest: str | None = None
    files: dict[str, str]  # path inside the folder -> sha256
    digest: str
    recipe_digest: str | None = None
    data_digests: dict[str, str] = {}  # role -> digest
    stage_key: str | None = None
    seed: int | None = None
    code_version: str | None = None
    versions: dict[str, str] = {}  # package -> version
    metrics: dict[str, float | None] = {}  # None: undefined
    created: str  # UTC, ISO 8601
    notes: str = ""

    @field_validator("metrics")
    @classmethod
    def _undefined_is_none(cls, metrics: dict[str, float | None]) -> dict[str, float | None]:
        return {k: v if v is not None and math.isfinite(v) else None for k, v in metrics.items()}

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class LineageNode:
    """A model and what was made from it; `entry` is None for a parent outside the registry."""

    ref: str
    entry: ModelEntry | None
    children: tuple[LineageNode, ...]


def check_name(name: str, what: str = "model name") -> str:
    """Returns `name` if it is safe as a folder name on any system; raises RegistryError otherwise."""
    if NAME.fullmatch(name) and ".." not in name:
        return name
    raise RegistryError(
        f"{what} {name!r} is not allowed; use 1-64 of a-z 0-9 . _ - , starting with a letter or digit, without '..'"
    )


def forest(entries: Iterable[ModelEntry], ref: str | None = None) -> tuple[LineageNode, ...]:
    """The family trees of `entries`, roots first; with `ref` only its ancestors and descendants."""
    known = {entry.ref: entry for entry in entries}
    made: dict[str, list[str]] = {}
    roots: dict[str, None] = {}  # a set that keeps its order
    for entry in known.values():
        if entry.parent is None:
            roots[entry.ref] = None
        else:
            made.setdefault(entry.parent, []).append(entry.ref)
            if entry.parent not in known:
                roots[entry.parent] = None

    def grow(node: str, keep: bool) -> LineageNode | None:
        keep = keep or node == ref
        children = tuple(c for child in made.get(node, []) if (c := grow(child, keep)))
        return LineageNode(node, known.get(node), children) if keep or children else None

    return tuple(tree for root in sorted(roots) if (tree := grow(root, ref is None)))


def stored_files(name: str, folder: Path) -> dict[str, str]:
    """{path: sha256} of a model about to be stored; RegistryError when there is nothing or a link."""
    try:
        files = file_digests(folder)
    except ValueError as error:
        raise RegistryError(f"{name}: {error}") from error
    if not files or ENTRY in files:
        raise RegistryError(f"{name}: a model needs files of its own, none of them called {ENTRY}")
    return files


def weights_digest(files: Mapping[str, str], parent_digest: str | None) -> str:
    """What identifies the weights: the digest over a model's files and its parent's digest."""
    return json_digest({"files": dict(files), "parent": parent_digest})


def make_entry(fields: Mapping[str, Any], version: int) -> ModelEntry:
    """The validated entry of a new version, stamped with the time; RegistryError for a wrong field."""
    digest = weights_digest(fields["files"], fields["parent_digest"])
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    try:
        return ModelEntry.model_validate({**fields, "version": version, "digest": digest, "created": created})
    except ValidationError as error:
        first = error.errors()[0]
        raise RegistryError(f"{fields['name']}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def read_json(path: Path, default: dict[str, Any]) -> dict[str, Any]:
    """The object in a bookkeeping file, `default` when there is none; RegistryError when it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise RegistryError(f"{path} is damaged; restore it or delete it") from error
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{path} is damaged; restore it or delete it")
    return value
