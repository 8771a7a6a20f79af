"""The reference policy's log-probabilities: computed once per row, kept on disk, reused by every run that may.

A row's key is made of everything its value depends on, and of nothing else: the weights' digest, the token ids and
which of them are scored, the precision, the version of transformers, and that of this computation. A learning rate or a
folder is not in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor

from alignment.atomic import storage_errors
from alignment.errors import AlignmentError, DataError
from alignment.generation.head import evaluating
from alignment.training.collate import pad_rows
from alignment.training.logprobs import sequence_logprobs
from alignment.training.prefix_sharing import shares_prefixes
from alignment.training.splitting import PADDED_PER_TOKEN
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
    max_tokens: int | None = None,
) -> Tensor:
    """log πref(completion | prompt) of every row: (N,) float32 nats on the CPU, in the order given.

    Rows run in eval mode, without gradients, and, for a PeftModel, with its adapter off: reference and policy are the
    same trunk. A batch holds at most as many tokens as `batch_size` rows of the longest length, and no more than
    `max_tokens`; a longer row is a DataError.
    """
    longest = max((len(row) for row in rows), default=0)
    if max_tokens is not None and longest > max_tokens:
        raise DataError(
            f"a row has {longest} tokens, more than max_tokens_per_forward {max_tokens}; raise it, or shorten the rows "
            "with max_length"
        )
    bound = batch_size * longest if max_tokens is None else min(batch_size * longest, max_tokens)
    logps = torch.empty(len(rows), dtype=torch.float32)
    device = next(model.parameters()).device
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with evaluating(model), adapter_off, precision or nullcontext():
        for chosen in _batches(rows, bound, shares_prefixes(model)):
            batch = {name: value.to(device) for name, value in pad_rows([rows[i] for i in chosen], pad_id).items()}
            logps[chosen] = sequence_logprobs(model, batch).cpu()
    return logps


def prompts_together(rows: Sequence[Encoded]) -> list[int]:
    """Places of `rows`: those of one prompt side by side, prompts by their longest row; shares much, pads little."""
    longest: dict[tuple[int, ...], int] = {}
    prompts = [tuple(row.prompt_ids) for row in rows]
    for prompt, row in zip(prompts, rows, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), len(row))
    return sorted(range(len(rows)), key=lambda i: (-longest[prompts[i]], prompts[i], -len(rows[i])))


def _batches(rows: Sequence[Encoded], bound: int, shared: bool) -> Iterator[list[int]]:
    """Places of rows, in batches of at most `bound` tokens: unique ones where prompts are shared, else padded ones.

    Where prompts are shared, there may be PADDED_PER_TOKEN times as many padded ones.
    """
    positions = bound * (PADDED_PER_TOKEN if shared else 1)
    by_length = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    batch: list[int] = []
    for i in prompts_together(rows) if shared else by_length:
        grown = [*batch, i]
        padded = len(grown) * max(len(rows[j]) for j in grown)
        if batch and (padded > positions or (shared and _with_prompts_once(rows, grown) > bound)):
            yield batch
            grown = [i]
        batch = grown
    if batch:
        yield batch


def _with_prompts_once(rows: Sequence[Encoded], chosen: Sequence[int]) -> int:
    prompts = {tuple(rows[i].prompt_ids) for i in chosen}
    return sum(map(len, prompts)) + sum(len(rows[i].completion_ids) for i in chosen)


class ReferenceCache:
    """Reference log-probabilities on disk, for all runs of a user; it may be deleted at any time.

    There is a folder for every model and precision. A file in it holds the keys and values of one block of rows and is
    named by the SHA-256 of its own bytes, so damage shows. Files appear whole or not at all: a killed run loses at most
    the block it was computing, and processes that compute the same rows at once do each other no harm.
    """

    def __init__(
        self, root: Path, model_digest: str, precision: str, say: Callable[[str], None] = logger.warning
    ) -> None:
        """A cache in `root` (made when first written).

        Args:
            root: where the folders are; all models and precisions may share it.
            model_digest: digest of the reference model's weights, an adapter's with those of its base.
            precision: weights' dtype, autocast and device, for example `float32/bfloat16/cpu` (see `precision_name`).
            say: told of a damaged file.
        """
        versions = f"{KERNEL_VERSION}\n{transformers.__version__}"
        self._context = f"{versions}\n{model_digest}\n{precision}\n".encode()
        self._folder = root / hashlib.sha256(self._context).hexdigest()[:16]
        self._say = say
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
        unknown = list(missing)
        order = [unknown[i] for i in prompts_together(list(missing.values()))]
        for start in range(0, len(order), block):
            part = order[start : start + block]
            logps = compute([missing[key] for key in part]).float().cpu()
            if not logps.isfinite().all():
                raise AlignmentError(
                    "the reference model gives a log-probability that is not finite; its weights are damaged"
                )
            self._store(part, logps)
            known.update(zip(part, logps.tolist(), strict=True))
            if progress is not None:
                progress(start + len(part), len(order))
        return torch.tensor([known[key] for key in keys], dtype=torch.float32)

    def _key(self, row: Encoded) -> bytes:
        numbers = torch.tensor([row.ids, row.mask], dtype=torch.int32).numpy().tobytes()
        return hashlib.sha256(self._context + numbers).digest()

    def _load(self) -> dict[bytes, float]:
        if self._known is None:
            self._known = {}
            for path in sorted(self._folder.glob("*.safetensors")):
                self._known.update(self._read(path))
        return self._known

    def _read(self, path: Path) -> dict[bytes, float]:
        with storage_errors(path):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # deleted by the user, or found damaged by another process
                return {}
            if hashlib.sha256(content).hexdigest() != path.stem:
                self._say(f"{path} is damaged; its reference log-probabilities are computed again")
                path.unlink(missing_ok=True)
                return {}
        tensors = safetensors.torch.load(content)
        keys = tensors["keys"].numpy().tobytes()
        return {keys[32 * i : 32 * i + 32]: value for i, value in enumerate(tensors["logps"].tolist())}

    def _store(self, keys: Sequence[bytes], logps: Tensor) -> None:
        content = safetensors.torch.save(
            {
                "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 32),
                "logps": logps,
            }
        )
        path = self._folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
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
