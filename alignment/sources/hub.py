"""Models on the Hugging Face hub: one commit, safetensors only, never code."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from alignment.atomic import json_digest
from alignment.errors import OUT_OF_SPACE, ModelError, storage_error
from alignment.runtime import quiet
from alignment.sources import Say
from alignment.sources.folder import MODEL_SUFFIXES, WEIGHTS, check_folder
from alignment.sources.refs import ModelRef

_DISK = OUT_OF_SPACE | {errno.EACCES, errno.EPERM, errno.EROFS}
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_commit(ref: ModelRef, say: Say) -> ModelRef:
    """The reference with its 40-digit commit; asks the hub when a branch or tag was given, and says so."""
    if _COMMIT.fullmatch(ref.version):
        return ref
    pinned = ModelRef("hf", ref.name, str(_model_info(ref).sha))
    say(f"{ref} is {pinned} today; write that to keep it")
    return pinned


def hub_digest(pinned: ModelRef) -> str:
    """Identifies the weights without fetching them: the digest over repository and commit."""
    return json_digest({"hf": pinned.name, "commit": pinned.version})


def hub_folder(pinned: ModelRef, say: Say) -> Path:
    """The local snapshot of a commit, downloaded on first use. Raises ModelError (offline, gated, no safetensors)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {
        "revision": pinned.version,
        "allow_patterns": [f"*{suffix}" for suffix in sorted(MODEL_SUFFIXES)],
        "ignore_patterns": ["*/*"],  # other formats and checkpoints live in subfolders
    }
    try:
        folder = Path(snapshot_download(pinned.name, local_files_only=True, **wanted))
    except LocalEntryNotFoundError:
        folder = _download(pinned, wanted, say)
    check_folder(folder, str(pinned), f"delete it and run again: rm -r {folder.parent.parent}")
    return folder


def _download(pinned: ModelRef, wanted: dict[str, Any], say: Say) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    names = [sibling.rfilename for sibling in _model_info(pinned).siblings or []]
    if not any(name.endswith(WEIGHTS) and "/" not in name for name in names):
        raise ModelError(f"{pinned}: the repository has no *.safetensors weights; choose a revision that has them")
    say(f"fetching {pinned} from the Hugging Face hub (once)")
    try:
        with quiet():
            return Path(snapshot_download(pinned.name, **wanted))
    except Exception as error:  # the HTTP library and its exceptions change between releases
        if isinstance(error, OSError) and error.errno in _DISK:
            raise storage_error(error, Path(HF_HUB_CACHE)) from error
        raise _unavailable(pinned, error) from error


def _model_info(ref: ModelRef) -> Any:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(ref.name, revision=ref.version)
    except Exception as error:  # as above
        raise _unavailable(ref, error) from error


def _unavailable(ref: ModelRef, error: Exception) -> ModelError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return ModelError(f"{ref}: the repository is gated; ask for access on its page, then run `hf auth login`")
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{ref}: the repository has no revision {ref.version}; look it up on its page")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(f"{ref}: no such repository, or a private one; check the name or run `hf auth login`")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelError(
        f"{ref}: the hub cannot be reached ({reason}); connect once with a 40-digit commit as the revision, which is "
        "then served from the cache, or give a local folder as path:folder"
    )
