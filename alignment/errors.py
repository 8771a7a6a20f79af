"""Everything this package raises on purpose.

AlignmentError                 exit code 1: a check or a gate failed
├── InputError                 exit code 2: something the user gave is wrong; the message names the fix
│   ├── RecipeError            a recipe: unknown key, wrong type, contradiction, missing hand-off
│   ├── DataError              preference data: a file, a line, a record
│   ├── ModelError             a model source: missing, corrupt, offline, no chat template
│   └── RegistryError          a registry name, entry or dependency
└── StorageError               exit code 2: cannot write (no permission, disk full)

Messages are one line: what is wrong, where (file and line, key, name), and what to do about it.
"""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path


class AlignmentError(Exception):
    """A run failed for a reason we understand; the message is all a user needs."""

    exit_code = 1


class InputError(AlignmentError):
    """The user's input is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe or an override is wrong."""


class DataError(InputError):
    """A data file, line or record is wrong."""


class ModelError(InputError):
    """A model source cannot be used."""


class RegistryError(InputError):
    """A registry name, version, alias or dependency is wrong."""


class StorageError(AlignmentError):
    """Something could not be written."""

    exit_code = 2


OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_error(error: OSError, path: Path) -> StorageError:
    """One line for a user: what could not be written, why, and what to do."""
    if error.errno in OUT_OF_SPACE:
        return StorageError(f"{path}: no space left to write; free some and run the same command again, it resumes")
    reason = error.strerror or " ".join(str(error).split())
    return StorageError(f"{path}: cannot write ({reason}); choose another folder or mend its permissions")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; nearest: beta` or the list of what there is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; nearest: {close[0]}"
    return f"; known: {', '.join(names)}" if names else ""
