"""The reference policy's log-probabilities: computed once per row, kept on disk, reused by every run that may.

A row's key is made of everything its value depends on, and of nothing else: the weights' digest, the token ids and
which of them are scored, the precision, and the version of this computation. A learning rate or a folder is not in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from alignment.atomic import storage_errors
from alignment.errors import AlignmentError
from alignment.training.collate import pad_rows
from alignment.training.logprobs import evaluating, sequence_logprobs
from alignment.training.tokens import Encoded

KERNEL_VERSION = 1  # raise when log-probabilities are computed differently

Compute = Callable[[Sequence[Encoded]], Tensor]

logger = logging.getLogger(__name__)


def reference_logprobs(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    batch_size: int,
    precision: AbstractContextManager[Any] | None = None,
) -> Tensor:
    """log πref(completion | prompt) of every row: (N,) float32 nats on the CPU, in the order given.

    Rows run in batches of equal length as far as possible, in eval mode, without gradients, and, for a PeftModel, with
    its adapter off: reference and policy are the same trunk.
    """
    longest_first = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    logps = torch.empty(len(rows), dtype=torch.float32)
    device = next(model.parameters()).device
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with evaluating(model), adapter_off, precision or nullcontext():
        for start in range(0, len(rows), batch_size):
            chosen = longest_first[start : start + batch_size]
            batch = {name: value.to(device) for name, value in pad_rows([rows[i] for i in chosen], pad_id).items()}
            logps[chosen] = sequence_logprobs(model, batch).cpu()
    return logps


class ReferenceCache:
    """Reference log-probabilities on disk.

    A file holds the keys and values of one block of rows and is named by the SHA-256 of its own bytes, so damage shows.
    Files appear whole or not at all; a killed run loses at most the block it was computing.
    """

    def __init__(self, folder: Path, model_digest: str, precision: str) -> None:
        """A cache in `folder` (made when first written).

        Args:
            folder: where the files are; several models and precisions may share it.
            model_digest: digest of the reference model's weights.
            precision: weights' dtype, autocast and device, for example `float32/bfloat16/cpu`.
        """
        self._folder = folder
        self._context = f"{KERNEL_VERSION}\n{model_digest}\n{precision}\n".encode()
        self._known: dict[bytes, float] | None = None

    def get_or_compute(
        self,
        rows: Sequence[Encoded],
        compute: Compute,
        block: int = 256,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Log-probabilities of `rows`: (N,) float32 nats, in the order given.

        Args:
            rows: prompts and completions.
            compute: rows -> (M,) log-probabilities, asked for the rows that are not known yet.
            block: rows per call of `compute` and per file.
            progress: called with (rows done, rows to compute) after each block.

        Raises:
            StorageError: the folder cannot be written.
            AlignmentError: a value is not finite.
        """
        known = self._load()
        keys = [self._key(row) for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        by_length = sorted(missing, key=lambda key: -len(missing[key]))
        for start in range(0, len(by_length), block):
            part = by_length[start : start + block]
            logps = compute([missing[key] for key in part]).float().cpu()
            if not logps.isfinite().all():
                raise AlignmentError(
                    "the reference model gives a log-probability that is not finite; its weights are damaged"
                )
            self._store(part, logps)
            known.update(zip(part, logps.tolist(), strict=True))
            if progress is not None:
                progress(start + len(part), len(by_length))
        return torch.tensor([known[key] for key in keys], dtype=torch.float32)

    def _key(self, row: Encoded) -> bytes:
        numbers = torch.tensor([row.ids, row.mask], dtype=torch.int32).numpy().tobytes()
        return hashlib.sha256(self._context + numbers).digest()

    def _load(self) -> dict[bytes, float]:
        if self._known is None:
            self._known = {}
            for path in sorted(self._folder.glob("*.safetensors")):
                self._known.update(_read(path))
        return self._known

    def _store(self, keys: Sequence[bytes], logps: Tensor) -> None:
        content = safetensors.torch.save(
            {
                "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 32),
                "logps": logps,
            }
        )
        path = self._folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with storage_errors(path):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[bytes, float]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        logger.warning("%s is damaged; its reference log-probabilities are computed again", path)
        path.unlink()
        return {}
    tensors = safetensors.torch.load(content)
    keys = tensors["keys"].numpy().tobytes()
    return {keys[32 * i : 32 * i + 32]: value for i, value in enumerate(tensors["logps"].tolist())}
