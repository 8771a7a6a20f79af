"""In which order an epoch reads its rows: a function of seed and epoch, so that a resumed run reads the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from alignment.training.tokens import encoded_in


class EpochSampler(Sampler[int]):
    """Shuffled rows; epoch e has the order that belongs to seed + e, whatever was read before.

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
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        if self._lengths is None:
            return iter(torch.randperm(self._n_rows, generator=generator).tolist())
        return iter(get_length_grouped_indices(self._lengths, self._rows_per_step, generator=generator))


def row_length(row: Mapping[str, Any]) -> int:
    """Tokens of a row's longest sequence: what the other rows of its batch are padded to."""
    return max(len(encoded) for encoded in encoded_in(row))
