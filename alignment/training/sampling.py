"""In which order an epoch reads its rows: a function of seed and epoch, so that a resumed run reads the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from alignment.errors import AlignmentError
from alignment.training.tokens import encoded_in


class Rows(Dataset[Any]):
    """A list as a torch Dataset."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


class EpochSampler(Sampler[int]):
    """Shuffled rows; an epoch has an order of its own that belongs to its seed and number, whatever was read before.

    The first epoch has accelerate's order for the seed, so that a trainer of TRL sees the same batches. Later ones are
    not those of seed + epoch, as accelerate's are: runs of neighbouring seeds would read the same orders.

    With `lengths` the rows of a step are of similar length: up to 50 steps' worth of rows are drawn at random and
    sorted, longest first. That saves padding, and it changes which rows meet in a step: long rows are learned together
    and short ones together, so gradients are noisier than with plain shuffling.
    """

    def __init__(self, n_rows: int, seed: int, lengths: Sequence[int] | None = None, rows_per_step: int = 1) -> None:
        """An order of `n_rows` rows; `lengths` (one per row) groups them by length in steps of `rows_per_step`."""
        self._n_rows = n_rows
        self._seed = seed
        self._lengths = None if lengths is None else list(lengths)
        self._rows_per_step = rows_per_step
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the next iteration reads."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch))
        if self._lengths is None:
            return iter(torch.randperm(self._n_rows, generator=generator).tolist())
        return iter(get_length_grouped_indices(self._lengths, self._rows_per_step, generator=generator))


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's order: the run's own in epoch 0, then a hash of both."""
    return seed if epoch == 0 else int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def check_shares(n_rows: int, args: TrainingArguments) -> None:
    """Raises AlignmentError where accelerate would repeat rows to give every process as many as the others."""
    together = args.train_batch_size * args.world_size
    rest = n_rows % together
    if args.world_size > 1 and rest and not args.dataloader_drop_last:
        raise AlignmentError(
            f"{n_rows} rows for {args.world_size} processes that read {args.train_batch_size} at a time: {rest} are "
            f"left over, and {together - rest} would be read twice in an epoch; leave {rest} out, choose a batch size "
            "that fits, or set dataloader_drop_last: true to skip them"
        )


def row_length(row: Mapping[str, Any]) -> int:
    """Tokens of a row's longest sequence: what the other rows of its batch are padded to."""
    return max(len(encoded) for encoded in encoded_in(row))
