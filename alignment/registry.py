"""Every trained model, for ever: what it was made from, by what, and how its files hash.

<root>/<name>/<version>/entry.json   beside the model's files; the folder appears whole, by one rename
<root>/<name>/aliases.json           {alias: version}; pointers, the only thing that changes
<root>/<name>/removed.json           the highest version removed: numbers are never given twice
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from alignment.atomic import file_digests, locked, publish, scratch_folder, storage_errors, sync_tree, write_json
from alignment.errors import RegistryError
from alignment.model_entry import (
    ENTRY,
    NAME,
    LineageNode,
    ModelEntry,
    check_name,
    forest,
    make_entry,
    read_json,
    stored_files,
    weights_digest,
)

__all__ = ["LineageNode", "ModelEntry", "ModelRegistry"]

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class ModelRegistry:
    """The models under one folder. Safe for several processes at once and for `kill -9` at any moment."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    # Reading: no locks, because a version's folder appears whole, never changes and goes in one step.

    def names(self) -> list[str]:
        """Names that have, or had, a version."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if NAME.fullmatch(p.name) and p.is_dir())

    def versions(self, name: str) -> list[int]:
        """The versions of a name, oldest first."""
        folder = self.root / check_name(name)
        if not folder.is_dir():
            return []
        return sorted(int(p.name) for p in folder.iterdir() if _VERSION.fullmatch(p.name))

    def aliases(self, name: str) -> dict[str, int]:
        """{alias: version} of a name."""
        return {str(k): int(v) for k, v in read_json(self.root / check_name(name) / "aliases.json", {}).items()}

    def entries(self) -> list[ModelEntry]:
        """All entries by name and version; RegistryError when one cannot be read."""
        return [entry for name, version in self._all() if (entry := self._read(name, version))]

    def get(self, ref: str) -> ModelEntry:
        """The entry of `name@version` or `name@alias`; RegistryError names what there is otherwise."""
        name, at, selector = ref.partition("@")
        check_name(name)
        versions = self.versions(name)
        if not versions:
            near = difflib.get_close_matches(name, self.names(), n=3) or self.names()[:10]
            hint = f"nearest: {', '.join(near)}" if near else "it is empty; `alignment run` fills it"
            raise RegistryError(f"no model {name!r} in the registry {self.root}; {hint}")
        aliases = self.aliases(name)
        known = ", ".join([*(f"{name}@{v}" for v in versions), *(f"{name}@{a}" for a in sorted(aliases))])
        if not at or not selector:
            raise RegistryError(f"{name!r} names no version, and the latest one is never guessed; there are: {known}")
        version = int(selector) if _VERSION.fullmatch(selector) else aliases.get(selector)
        entry = self._read(name, version) if version in versions and version is not None else None
        if entry is None:
            raise RegistryError(f"no {ref!r} in the registry {self.root}; there are: {known}")
        return entry

    def has(self, ref: str) -> bool:
        """Whether `ref` names an entry."""
        try:
            self.get(ref)
        except RegistryError:
            return False
        return True

    def path(self, ref: str) -> Path:
        """The folder with the model's files; read it, never write into it."""
        entry = self.get(ref)
        return self.root / entry.name / str(entry.version)

    def find(self, stage_key: str) -> ModelEntry | None:
        """The newest entry a stage with this key made: a stage killed right after `add` finds its model again."""
        found = [entry for entry in self.entries() if entry.stage_key == stage_key]
        return max(found, key=lambda entry: (entry.created, entry.version), default=None)

    def children(self, ref: str) -> list[ModelEntry]:
        """Entries made from `ref`, which is a registry entry or an outside base such as `pypi:...`."""
        wanted = ref if ":" in ref else self.get(ref).ref
        return [entry for entry in self.entries() if entry.parent == wanted]

    def lineage(self, ref: str | None = None) -> tuple[LineageNode, ...]:
        """The family trees, roots first; with `ref` only its ancestors and descendants."""
        trees = forest(self.entries(), ref if ref is None or ":" in ref else self.get(ref).ref)
        if ref is not None and not trees:
            raise RegistryError(f"no model in the registry {self.root} was made from {ref}")
        return trees

    def verify(self, ref: str | None = None) -> list[str]:
        """Recomputes every digest of one entry or of all; returns the problems, one line each."""
        if ref is not None:
            entry = self.get(ref)
            return list(self._problems(entry.name, entry.version))
        problems = [problem for name, version in self._all() for problem in self._problems(name, version)]
        for name in self.names():
            gone = {a: v for a, v in self.aliases(name).items() if v not in self.versions(name)}
            problems += [f"{name}@{a}: points to version {v}, which is not there" for a, v in gone.items()]
        return problems

    # Writing: under the registry's lock, and only by rename.

    def add(
        self,
        name: str,
        *,
        kind: str,
        fill: Callable[[Path], None],
        role: str | None = None,
        parent: str | None = None,
        parent_digest: str | None = None,
        stage_key: str | None = None,
        recipe_digest: str | None = None,
        data_digests: Mapping[str, str] | None = None,
        seed: int | None = None,
        metrics: Mapping[str, float | None] | None = None,
        versions: Mapping[str, str] | None = None,
        code_version: str | None = None,
        notes: str = "",
    ) -> ModelEntry:
        """Stores the files that `fill(folder)` writes as the next version of `name`.

        Nothing is visible until everything is on disk. Raises RegistryError (name, parent, no files) and
        StorageError (full disk, permissions); in both cases nothing is left behind.
        """
        check_name(name)
        if role is None:
            if kind == "adapter":
                raise RegistryError(f"{name}: an adapter says what it adapts; give role='policy' or 'reward'")
            role = "reward" if kind == "reward" else "policy"
        fields = {
            "name": name, "kind": kind, "role": role, "recipe_digest": recipe_digest, "stage_key": stage_key,
            "data_digests": dict(data_digests or {}), "seed": seed, "metrics": dict(metrics or {}),
            "versions": dict(versions or {}), "code_version": code_version, "notes": notes,
        }  # fmt: skip
        self._check_parent(name, kind, parent, parent_digest)
        with storage_errors(self.root / name), scratch_folder(self.root) as scratch:
            folder = scratch / "model"
            folder.mkdir()
            fill(folder)
            fields["files"] = stored_files(name, folder)
            sync_tree(folder)
            with locked(self.root / ".lock"):
                # Once more: the parent may have been removed while `fill` ran.
                fields["parent"], fields["parent_digest"] = self._check_parent(name, kind, parent, parent_digest)
                entry = make_entry(fields, self._next_version(name))
                write_json(folder / ENTRY, entry.model_dump(mode="json"))
                publish(folder, self.root / name / str(entry.version))
        return entry

    def tag(self, ref: str, alias: str) -> ModelEntry:
        """Points `name@alias` to `ref`, moving the alias if it exists; returns the entry."""
        check_name(alias, "alias")
        if alias.isdigit():
            raise RegistryError(f"alias {alias!r} is a number and would read as a version; add a letter")
        entry = self.get(ref)
        with storage_errors(self.root), locked(self.root / ".lock"):
            entry = self.get(entry.ref)
            write_json(self.root / entry.name / "aliases.json", self.aliases(entry.name) | {alias: entry.version})
        return entry

    def untag(self, ref: str) -> ModelEntry:
        """Deletes the alias `name@alias`; returns the entry it pointed to."""
        entry = self.get(ref)
        alias = ref.partition("@")[2]
        with storage_errors(self.root), locked(self.root / ".lock"):
            aliases = self.aliases(entry.name)
            if aliases.pop(alias, None) is None:
                raise RegistryError(f"{ref} is a version, not an alias; aliases: {', '.join(aliases) or 'none'}")
            write_json(self.root / entry.name / "aliases.json", aliases)
        return entry

    def remove(self, ref: str) -> ModelEntry:
        """Deletes an entry and its files; refuses while models depend on it or aliases point to it."""
        entry = self.get(ref)
        with storage_errors(self.root), scratch_folder(self.root) as scratch, locked(self.root / ".lock"):
            entry = self.get(entry.ref)
            if children := [child.ref for child in self.children(entry.ref)]:
                raise RegistryError(f"{entry.ref} has models made from it; remove them first: {', '.join(children)}")
            if names := [a for a, version in self.aliases(entry.name).items() if version == entry.version]:
                raise RegistryError(
                    f"{entry.ref} has aliases: {', '.join(names)}; point them elsewhere or drop each with "
                    f"`alignment models tag {entry.ref} {names[0]} --delete`"
                )
            highest = max(entry.version, self._highest_removed(entry.name))
            write_json(self.root / entry.name / "removed.json", {"highest": highest})
            (self.root / entry.name / str(entry.version)).rename(scratch / "removed")
        return entry

    def _all(self) -> Iterator[tuple[str, int]]:
        for name in self.names():
            for version in self.versions(name):
                yield name, version

    def _read(self, name: str, version: int) -> ModelEntry | None:
        """The entry, or None when it was removed a moment ago."""
        path = self.root / name / str(version) / ENTRY
        try:
            entry = ModelEntry.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if not path.parent.is_dir():
                return None
            raise RegistryError(f"{path} is missing; restore it or delete the folder {path.parent}") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise RegistryError(f"{path} is damaged; restore it or delete the folder {path.parent}") from error
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
        if (entry.name, entry.version) != (name, version):
            raise RegistryError(f"{path} describes {entry.ref}; entries cannot be copied, delete {path.parent}")
        return entry

    def _problems(self, name: str, version: int) -> Iterator[str]:
        ref, folder = f"{name}@{version}", self.root / name / str(version)
        try:
            entry = self._read(name, version)
            found = file_digests(folder)
        except (RegistryError, ValueError, OSError) as error:
            yield f"{ref}: {error}"
            return
        if entry is None:
            return
        found.pop(ENTRY, None)
        for path in sorted(found.keys() | entry.files.keys()):
            if path not in found:
                yield f"{ref}: {path} is missing"
            elif path not in entry.files:
                yield f"{ref}: {path} does not belong to it"
            elif found[path] != entry.files[path]:
                yield f"{ref}: {path} has changed since it was stored"
        if entry.digest != weights_digest(entry.files, entry.parent_digest):
            yield f"{ref}: the digest in {ENTRY} does not match its files and parent"
        if entry.parent and ":" not in entry.parent:
            try:
                if self.get(entry.parent).digest != entry.parent_digest:
                    yield f"{ref}: its parent {entry.parent} has other weights than it was made from"
            except RegistryError:
                yield f"{ref}: its parent {entry.parent} is missing or damaged"

    def _check_parent(
        self, name: str, kind: str, parent: str | None, digest: str | None
    ) -> tuple[str | None, str | None]:
        """The parent as an exact reference and its digest; RegistryError when they contradict the registry."""
        if parent is None:
            if kind == "adapter":
                raise RegistryError(f"{name}: an adapter is a delta and needs its parent")
            return None, None
        if ":" not in parent:
            entry = self.get(parent)
            if digest not in (None, entry.digest):
                raise RegistryError(f"{name}: the parent {parent} has other weights than the ones trained from")
            return entry.ref, entry.digest
        if digest is None:
            raise RegistryError(f"{name}: the parent {parent} lies outside the registry and needs its digest")
        return parent, digest

    def _next_version(self, name: str) -> int:
        return max([0, self._highest_removed(name), *self.versions(name)]) + 1

    def _highest_removed(self, name: str) -> int:
        return int(read_json(self.root / name / "removed.json", {"highest": 0})["highest"])
