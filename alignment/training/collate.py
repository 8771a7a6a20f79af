"""From rows to batches: plain dicts of right-padded tensors.

Rows that share a prompt stay next to each other, and nothing is sorted, so shared prefixes can be found in the padded
batch. Every batch holds `input_ids`, `attention_mask` (N, T) int64, `completion_mask` (N, T) bool and the `ids` of its
records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from alignment.errors import DataError
from alignment.training.tokens import Encoded

Batch = dict[str, Any]


class PairRow(TypedDict):
    """A comparison of two responses to one prompt."""

    id: str
    chosen: Encoded
    rejected: Encoded
    weight: float  # > 0: 1 / number of pairs of the record when a ranking was taken apart
    ref_chosen_logps: float  # nats, log πref(chosen | prompt)
    ref_rejected_logps: float


class RankingRow(TypedDict):
    """K responses to one prompt and who beat whom."""

    id: str
    responses: Sequence[Encoded]
    wins: npt.ArrayLike  # (K, K): how much response i beat response j


def pad_rows(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Right-padded `input_ids`, `attention_mask` and `completion_mask`, each (N, T)."""
    width = max(len(row) for row in rows)
    padding = [width - len(row) for row in rows]
    return {
        "input_ids": torch.tensor([row.ids + [pad_id] * pad for row, pad in zip(rows, padding, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - pad) + [0] * pad for pad in padding]),
        "completion_mask": torch.tensor(
            [row.mask + [0] * pad for row, pad in zip(rows, padding, strict=True)], dtype=torch.bool
        ),
    }


def collate_pairs(pairs: Sequence[PairRow], pad_id: int) -> Batch:
    """P pairs as N = 2P rows: chosen, rejected, chosen, rejected, ...

    Adds `weights`, `ref_chosen_logps`, `ref_rejected_logps`, each (P,) float32.
    Raises DataError for a weight that is not positive.
    """
    for pair in pairs:
        if not (math.isfinite(pair["weight"]) and pair["weight"] > 0):
            raise DataError(f"record {pair['id']}: a pair needs a positive weight, not {pair['weight']}")
    batch = pad_rows([row for pair in pairs for row in (pair["chosen"], pair["rejected"])], pad_id)
    batch["weights"] = torch.tensor([pair["weight"] for pair in pairs], dtype=torch.float32)
    batch["ref_chosen_logps"] = torch.tensor([pair["ref_chosen_logps"] for pair in pairs], dtype=torch.float32)
    batch["ref_rejected_logps"] = torch.tensor([pair["ref_rejected_logps"] for pair in pairs], dtype=torch.float32)
    batch["ids"] = [pair["id"] for pair in pairs]
    return batch


def collate_rankings(rankings: Sequence[RankingRow], pad_id: int) -> Batch:
    """P prompts as N rows, all responses of a prompt together; each response goes through the model once.

    Adds `row_prompt` and `row_response` (N,) int64, which place row n in a (P, K) table of the most responses a prompt
    of the batch has, and `wins` (P, K, K) float32, zero where padded.
    Raises DataError for a record whose `wins` do not fit its responses or compare nothing.
    """
    matrices = [_wins(ranking) for ranking in rankings]
    most = max(len(matrix) for matrix in matrices)
    batch = pad_rows([row for ranking in rankings for row in ranking["responses"]], pad_id)
    counts = [len(ranking["responses"]) for ranking in rankings]
    batch["row_prompt"] = torch.tensor([p for p, count in enumerate(counts) for _ in range(count)])
    batch["row_response"] = torch.tensor([k for count in counts for k in range(count)])
    batch["wins"] = torch.zeros(len(rankings), most, most)
    for p, matrix in enumerate(matrices):
        batch["wins"][p, : len(matrix), : len(matrix)] = torch.from_numpy(matrix)
    batch["ids"] = [ranking["id"] for ranking in rankings]
    return batch


def _wins(ranking: RankingRow) -> npt.NDArray[np.float32]:
    wins = np.asarray(ranking["wins"], dtype=np.float32)
    count = len(ranking["responses"])
    if wins.shape != (count, count):
        raise DataError(f"record {ranking['id']}: wins of shape {wins.shape} do not fit {count} responses")
    if not np.isfinite(wins).all() or (wins < 0).any() or np.diag(wins).any() or not wins.any():
        raise DataError(f"record {ranking['id']}: wins must be non-negative, compare something, and not with itself")
    return wins
