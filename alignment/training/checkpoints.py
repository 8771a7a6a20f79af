"""Which checkpoint is whole.

A process can be killed at any moment of a save, and of a deletion. A checkpoint counts only while it carries a COMPLETE
file, which is written after everything else has reached the disk and before older checkpoints are deleted, and which is
the first to go when a checkpoint is deleted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer_utils import rotate_checkpoints

from alignment.atomic import storage_errors, sync_tree
from alignment.errors import StorageError

MARKER = "COMPLETE"

_NAME = re.compile(r"checkpoint-(\d+)\Z")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None; half-written ones are removed."""
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.match(path.name)
        if match is None or not path.is_dir():
            continue
        if (path / MARKER).is_file():
            whole.append((int(match.group(1)), path))
        else:
            shutil.rmtree(path)
    return max(whole)[1] if whole else None


def discard_checkpoints(folder: Path) -> None:
    """Deletes a folder of checkpoints; a kill in the middle leaves none that looks whole and is not."""
    for path in folder.glob("checkpoint-*"):
        (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


class WholeCheckpoints:
    """A mixin before a transformers Trainer: its checkpoints are marked when whole, and a full disk is one line.

    The Trainer would delete an older checkpoint (`save_total_limit`) before anything could mark the new one; a kill in
    between would leave none.
    """

    args: Any
    state: Any
    accelerator: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with saving(checkpoint):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                self._save_more(checkpoint)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    sync_tree(checkpoint)
                    (checkpoint / MARKER).touch()
                    sync_tree(checkpoint)
        finally:
            self.args.save_total_limit = keep
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, keep, self.state.best_model_checkpoint)

    def _finalize_training(self, *args: Any) -> Any:
        """The Trainer would delete the last checkpoint when another one is the best; what follows may still need it."""
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = keep

    def _save_more(self, checkpoint: Path) -> None:
        """Writes what a subclass needs to resume; called by every process."""


@contextmanager
def saving(checkpoint: Path) -> Iterator[None]:
    """Turns a failed write into a StorageError and removes the half-written checkpoint, which frees its space."""
    try:
        with storage_errors(checkpoint):
            try:
                yield
            except (RuntimeError, SafetensorError) as error:
                full = _disk_full(error)
                if full is None:
                    raise
                raise full from error
    except StorageError:
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise


def _disk_full(error: Exception) -> OSError | None:
    """torch and safetensors report a full disk as errors of their own, which only their text tells apart."""
    text = str(error)
    for code in _FULL:
        if f"(os error {code})" in text or os.strerror(code) in text:
            return OSError(code, os.strerror(code))
    if "PytorchStreamWriter failed writing" in text or "unexpected pos" in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None
