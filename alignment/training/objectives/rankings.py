"""Rankings of K responses as rows and batches: each response goes through the model once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

from alignment.errors import DataError
from alignment.training.collate import Batch, pad_rows
from alignment.training.tokens import Encoded


class RankingRow(TypedDict):
    """K responses to one prompt and who beat whom."""

    id: str
    responses: Sequence[Encoded]
    wins: npt.ArrayLike  # (K, K): how much response i beat response j


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
