"""Rankings of K responses as rows and batches: each response goes through the model once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignment.errors import DataError, RecipeError, nearest
from alignment.training.collate import Batch, pad_rows
from alignment.training.tokens import Encoded
from reward.losses import KNOWS_TIES, RANKING_LOSSES, options_of


def check_loss(loss_type: str, options: Mapping[str, float]) -> None:
    """Raises RecipeError, naming the nearest, for a loss that is not in RANKING_LOSSES or has no such option."""
    if loss_type not in RANKING_LOSSES:
        raise RecipeError(f"unknown ranking loss {loss_type!r}{nearest(loss_type, RANKING_LOSSES)}")
    known = options_of(loss_type)
    for name in options:
        if name not in known:
            raise RecipeError(f"{loss_type} has no option {name!r}{nearest(name, known)}")


def check_ties(loss_type: str, rows: Sequence[RankingRow]) -> None:
    """Raises DataError for a record with nothing but ties, unless the loss knows ties."""
    if loss_type in KNOWS_TIES:
        return
    for row in rows:
        if not np.any(row["wins"]):
            raise DataError(f"record {row['id']}: every pair is tied, and {loss_type} learns nothing from ties")


class RankingRow(TypedDict):
    """K responses to one prompt and what annotators said about them (see `reward.losses`)."""

    id: str
    responses: Sequence[Encoded]
    wins: npt.ArrayLike  # (K, K): share of the annotators with response i above response j
    ties: NotRequired[npt.ArrayLike]  # (K, K), symmetric: share with a tie; left out = no ties
    margins: NotRequired[npt.ArrayLike]  # (K, K): how much better, None where nobody said
    tiers: NotRequired[npt.ArrayLike]  # (J, K): every order as tiers, 0 = best, -1 = not part of it
    tier_weights: NotRequired[npt.ArrayLike]  # (J,): 1 / number of annotators
    weight: NotRequired[float]  # of the record beside others; left out = 1


def collate_rankings(rankings: Sequence[RankingRow], pad_id: int) -> Batch:
    """P prompts as N rows, all responses of a prompt together; each response goes through the model once.

    `row_record` and `row_response` (N,) int64 place row n in a (P, K) table of the most responses a prompt of the
    batch has. Adds `wins` and `ties` (P, K, K) float32, zero where padded; `lengths` (P, K) float32, scored tokens,
    NaN where padded; `weights` (P,) float32. Where every row has them: `margins` (P, K, K) float32, NaN where nobody
    said; `tiers` (P, J, K) int64, -1 where padded, and `tier_weights` (P, J) float32, zero where padded.
    Raises DataError for a record whose entries do not fit its responses, or which compares nothing.
    """
    counts = [len(ranking["responses"]) for ranking in rankings]
    most = max(counts)
    batch = pad_rows([row for ranking in rankings for row in ranking["responses"]], pad_id)
    batch["row_record"] = torch.tensor([p for p, count in enumerate(counts) for _ in range(count)])
    batch["row_response"] = torch.tensor([k for count in counts for k in range(count)])
    shares = [_shares(ranking) for ranking in rankings]
    batch["wins"] = _stack([wins for wins, _ in shares], (most, most), 0.0)
    batch["ties"] = _stack([ties for _, ties in shares], (most, most), 0.0)
    lengths = [[sum(row.completion_mask) for row in ranking["responses"]] for ranking in rankings]
    batch["lengths"] = _stack([np.asarray(row, np.float32) for row in lengths], (most,), float("nan"))
    batch["weights"] = torch.tensor([_weight(ranking) for ranking in rankings], dtype=torch.float32)
    if all("margins" in ranking for ranking in rankings):
        batch["margins"] = _stack([_margins(ranking) for ranking in rankings], (most, most), float("nan"))
    if all("tiers" in ranking and "tier_weights" in ranking for ranking in rankings):
        orders = [_orders(ranking) for ranking in rankings]
        longest = max(len(weights) for _, weights in orders)
        batch["tiers"] = _stack([tiers for tiers, _ in orders], (longest, most), -1)
        batch["tier_weights"] = _stack([weights for _, weights in orders], (longest,), 0.0)
    batch["ids"] = [ranking["id"] for ranking in rankings]
    return batch


def _stack(arrays: Sequence[npt.NDArray[Any]], shape: tuple[int, ...], padding: float) -> Tensor:
    """(P, *shape), each array in its upper left corner."""
    whole = np.full((len(arrays), *shape), padding, dtype=arrays[0].dtype)
    for p, array in enumerate(arrays):
        corner: tuple[int | slice, ...] = (p, *map(slice, array.shape))
        whole[corner] = array
    return torch.from_numpy(whole)


def _shares(ranking: RankingRow) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    wins = _square(ranking, "wins", ranking["wins"])
    ties = _square(ranking, "ties", ranking.get("ties", np.zeros_like(wins)))
    both = wins + ties
    if not np.isfinite(both).all() or (wins < 0).any() or (ties < 0).any() or np.diag(both).any() or not both.any():
        raise DataError(f"record {ranking['id']}: wins must be non-negative, compare something, and not with itself")
    if not np.array_equal(ties, ties.T):
        raise DataError(f"record {ranking['id']}: ties must be the same both ways round")
    return wins, ties


def _margins(ranking: RankingRow) -> npt.NDArray[np.float32]:
    margins = _square(ranking, "margins", ranking["margins"])
    if np.isinf(margins).any():
        raise DataError(f"record {ranking['id']}: a margin is infinite")
    return margins


def _square(ranking: RankingRow, name: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    matrix = np.asarray(values, dtype=np.float32)  # None becomes NaN
    count = len(ranking["responses"])
    if matrix.shape != (count, count):
        raise DataError(f"record {ranking['id']}: {name} of shape {matrix.shape} do not fit {count} responses")
    return matrix


def _orders(ranking: RankingRow) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    tiers = np.asarray(ranking["tiers"], dtype=np.int64)
    weights = np.asarray(ranking["tier_weights"], dtype=np.float32)
    count = len(ranking["responses"])
    if tiers.ndim != 2 or tiers.shape[1] != count or weights.shape != tiers.shape[:1] or not len(tiers):
        raise DataError(
            f"record {ranking['id']}: tiers of shape {tiers.shape} with weights of shape {weights.shape} do not fit "
            f"{count} responses"
        )
    if (tiers < -1).any() or ((tiers >= 0).sum(axis=1) < 2).any():
        raise DataError(f"record {ranking['id']}: every order places at least two responses, 0 = best, -1 = left out")
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise DataError(f"record {ranking['id']}: tier_weights must be positive")
    return tiers, weights


def _weight(ranking: RankingRow) -> float:
    weight = ranking.get("weight", 1.0)
    if not (np.isfinite(weight) and weight > 0):
        raise DataError(f"record {ranking['id']}: a ranking needs a positive weight, not {weight}")
    return weight
