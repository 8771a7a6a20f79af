"""Policies from rankings of K responses: a ranking loss on the implicit rewards of direct preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignment.errors import DataError
from alignment.training.collate import Batch
from alignment.training.logprobs import sequence_logprobs
from alignment.training.objectives.objective import Measured, ordered_right
from alignment.training.objectives.rankings import RankingRow, check_loss, check_ties, collate_rankings
from alignment.training.objectives.start import check_start_at_reference
from reward.losses import RANKING_LOSSES, tensors_of


class PolicyRankingRow(RankingRow):
    """A ranking and the reference's log-probability of each of its responses."""

    ref_logps: Sequence[float]  # K, nats


def collate_policy_rankings(rankings: Sequence[PolicyRankingRow], pad_id: int) -> Batch:
    """The batch of `collate_rankings` with `row_ref_logps` (N,) float32. Raises DataError as it does."""
    batch = collate_rankings(rankings, pad_id)
    for ranking in rankings:
        if len(ranking["ref_logps"]) != len(ranking["responses"]):
            raise DataError(f"record {ranking['id']}: every response needs a reference log-probability")
    flat = [logp for ranking in rankings for logp in ranking["ref_logps"]]
    batch["row_ref_logps"] = torch.tensor(flat, dtype=torch.float32)
    return batch


@dataclass(frozen=True)
class PolicyRankingObjective:
    """DPO on whole rankings (PolicyRankingRows); prompts weigh the same unless their rows have a `weight`.

        r_k = β log πθ(y_k | x) / πref(y_k | x)        loss = Σ_p weight_p · L_p(r) / Σ_p weight_p

    L is a row of RANKING_LOSSES. With `plackett_luce` this is DPO under the Plackett-Luce model (Rafailov et al. 2023,
    appendix A.3, eq. 20), here for ties and partial orders too; with two responses and no tie it is DPO itself. With
    `bradley_terry` it is DPO averaged over the ranking's pairs. Every response goes through the model once.
    """

    pad_id: int
    beta: float = 0.1
    loss_type: str = "plackett_luce"
    options: Mapping[str, float] = field(default_factory=dict)  # the loss's own: margin_scale, nu, theta
    coupled = batchwise = gathers = False

    def __post_init__(self) -> None:
        check_loss(self.loss_type, self.options)

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of a PolicyRankingRow that the loss cannot do without."""
        return ("id", "responses", "ref_logps", *tensors_of(self.loss_type, required=True))

    def collate(self, rows: Sequence[Any]) -> Batch:
        check_ties(self.loss_type, rows)
        return collate_policy_rankings(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        weights: Tensor = batch["weights"]
        return weights.sum()

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Weighted mean over prompts of the ranking loss.

        Metrics have TRL's names and DPO's meaning: means over a prompt's decided pairs, then over prompts by weight.
        Chosen is the response that more annotators preferred.
        """
        wins: Tensor = batch["wins"]
        logps = sequence_logprobs(model, batch)  # (N,)
        table = _table(logps, batch)  # (P, K), 0 where padded
        rewards = self.beta * _table(logps - batch["row_ref_logps"], batch)
        said = {name: batch[name] for name in tensors_of(self.loss_type) if name in batch}
        losses = RANKING_LOSSES[self.loss_type](rewards, **said, **self.options)

        decided = (wins > wins.transpose(1, 2)).float()  # (P, K, K): i chosen, j rejected
        pairs = decided.sum(dim=(1, 2))
        reward, logp = rewards.detach(), table.detach()
        margins = reward.unsqueeze(2) - reward.unsqueeze(1)
        values = {
            "rewards/chosen": reward.unsqueeze(2),
            "rewards/rejected": reward.unsqueeze(1),
            "rewards/accuracies": ordered_right(margins),
            "rewards/margins": margins,
            "logps/chosen": logp.unsqueeze(2),
            "logps/rejected": logp.unsqueeze(1),
        }
        weights: Tensor = batch["weights"]
        sums = {name: weights * (decided * v).sum(dim=(1, 2)) / pairs.clamp_min(1) for name, v in values.items()}
        counts = dict.fromkeys(values, weights * (pairs > 0))
        sums["loss"], counts["loss"] = weights * losses.detach(), weights
        return Measured((weights * losses).sum() / weights.sum(), sums, counts)

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """Raises AlignmentError when the policy does not start as its reference."""
        check_start_at_reference(model, batch, batch["row_ref_logps"], tolerance)


def _table(values: Tensor, batch: Batch) -> Tensor:
    """(N,) values of rows in their places of the (P, K) table, 0 elsewhere."""
    place = batch["row_record"], batch["row_response"]
    return values.new_zeros(batch["wins"].shape[:2]).index_put(place, values)
