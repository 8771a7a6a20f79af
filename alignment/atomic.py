"""Folders and files that appear whole or not at all, also after `kill -9` or a power cut.

A writer works in a scratch folder it owns by a file lock, syncs it to disk and renames it into place. The kernel
drops the lock when the writer dies, so the next writer can tell a leftover from work in progress without
guessing by age or process id.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alignment.errors import storage_error

SCRATCH = ".tmp"  # hidden: no registry name may start with a dot


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the block, such as a full disk, into a one-line StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the exclusive lock of the file `path` (created when missing); waits for other processes and threads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """An empty folder under `root/.tmp` for one write in progress, deleted at the end.

    What is to stay is renamed out of it. Leftovers of writers that died are deleted on the way in.
    """
    area = root / SCRATCH
    name = uuid.uuid4().hex
    with locked(area / ".lock"):  # nobody sweeps between the making of a folder and its owner's lock
        _sweep(area)
        owner = (area / f"{name}.owner").open("a")
        fcntl.flock(owner, fcntl.LOCK_EX)
        folder = area / name
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (area / f"{name}.owner").unlink(missing_ok=True)
        owner.close()


def _sweep(area: Path) -> None:
    """Deletes the scratch folders whose owner no longer lives; the caller holds the area's lock."""
    for name in {path.name.removesuffix(".owner") for path in area.iterdir()} - {".lock"}:
        with (area / f"{name}.owner").open("a") as owner, suppress(BlockingIOError):
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(area / name, ignore_errors=True)
            (area / f"{name}.owner").unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Forces every file and folder below `folder` to disk, files as readable as the folder itself.

    safetensors writes 0600 whatever the umask says, which would hide weights from the rest of a team.
    """
    mode = folder.stat().st_mode & 0o666
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            path.chmod(mode)
            _sync(path)
        _sync(Path(parent))


def publish(folder: Path, target: Path) -> None:
    """Renames a synced `folder` to `target`, which must not exist, and syncs the rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(target.parent.parent)
    folder.rename(target)
    _sync(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Replaces the file `path` by `value` as JSON, in one step and synced. The caller holds the lock of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")  # a fixed name: what a killed writer leaves is overwritten
    try:
        with scratch.open("w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
            handle.write("\n")
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    _sync(path.parent)


def file_digests(folder: Path) -> dict[str, str]:
    """{path relative to `folder`: sha256} of every file below it, sorted.

    Raises ValueError for a link: its target lies outside and may change.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"{path} is a link; a stored model holds plain files only")
        if path.is_file():
            digests[path.relative_to(folder).as_posix()] = file_digest(path)
    return digests


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def json_digest(value: Mapping[str, Any]) -> str:
    """The sha256 of `value` as canonical JSON (sorted keys, no spaces), as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
