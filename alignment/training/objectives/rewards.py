"""Reward models from rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignment.training.collate import Batch
from alignment.training.objectives.objective import Measured, ordered_right
from alignment.training.objectives.rankings import check_loss, check_ties, collate_rankings
from reward.ensemble import spread
from reward.losses import RANKING_LOSSES, centering, tensors_of, with_length
from reward.model import head_rewards, head_rule


@dataclass(frozen=True)
class RewardObjective:
    """A reward model from rankings (RankingRows); prompts weigh the same unless their rows have a `weight`.

        loss = Σ_p weight_p · mean_h [ L_p(r_h + α ℓ) + c · centering_p(r_h) ] / Σ_p weight_p

    L is a row of RANKING_LOSSES, h a head, ℓ the responses' lengths in tokens.
    """

    pad_id: int
    loss_type: str = "bradley_terry"
    center_coefficient: float = 0.0  # c
    length_coefficient: float = 0.0  # α, reward per token
    options: Mapping[str, float] = field(default_factory=dict)  # the loss's own: margin_scale, nu, theta
    coupled = batchwise = gathers = False

    def __post_init__(self) -> None:
        check_loss(self.loss_type, self.options)

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of a RankingRow that the loss cannot do without."""
        return ("id", "responses", *tensors_of(self.loss_type, required=True))

    def collate(self, rows: Sequence[Any]) -> Batch:
        check_ties(self.loss_type, rows)
        return collate_rankings(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        weights: Tensor = batch["weights"]
        return weights.sum()

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Weighted mean over prompts of the ranking loss.

        Metrics have TRL's names and the prompts' weights. `accuracy` (ties 1/2) and `margin` are means over a prompt's
        decided pairs, then over prompts; `mean_reward` is over responses; `min_reward` and `max_reward` are a prompt's
        lowest and highest, averaged over prompts, so that they do not depend on the batch size. Of several heads they
        are about the aggregate; `head_spread` is the heads' standard deviation, over responses.
        """
        wins, weights = batch["wins"], batch["weights"]
        place = batch["row_record"], batch["row_response"]
        rows = head_rewards(model, batch)  # (N, H)
        heads = rows.new_zeros(*wins.shape[:2], rows.shape[1]).index_put(place, rows)  # (P, K, H)
        losses = torch.stack([self._losses(rewards, batch) for rewards in heads.unbind(-1)]).mean(dim=0)
        real = torch.zeros(wins.shape[:2], dtype=torch.bool, device=wins.device).index_put(
            place, torch.tensor(True, device=wins.device)
        )
        table = heads.detach()
        rewards = head_rule(model)(table)
        sums, counts = ranking_metrics(rewards, real, wins)
        sums["loss"], counts["loss"] = losses.detach(), torch.ones_like(losses)
        if rows.shape[1] > 1:
            sums["head_spread"], counts["head_spread"] = spread(table).sum(dim=1), real.float().sum(dim=1)
        return Measured(
            (weights * losses).sum() / weights.sum(),
            {name: weights * value for name, value in sums.items()},
            {name: weights * value for name, value in counts.items()},
        )

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """A reward model may start anywhere."""

    def _losses(self, rewards: Tensor, batch: Batch) -> Tensor:
        """(P,) losses of one head's rewards (P, K)."""
        said = {name: batch[name] for name in tensors_of(self.loss_type) if name in batch}
        compared = rewards
        if self.length_coefficient:
            compared = with_length(rewards, batch["lengths"], self.length_coefficient)
        losses = RANKING_LOSSES[self.loss_type](compared, **said, **self.options)
        if self.center_coefficient:
            losses = losses + self.center_coefficient * centering(rewards, batch["wins"], batch["ties"])
        return losses


def ranking_metrics(rewards: Tensor, real: Tensor, wins: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums and counts (P,) of TRL's reward metrics, from rewards and their mask (P, K) and `wins` (P, K, K)."""
    decided = (wins > wins.transpose(1, 2)).float()  # (P, K, K)
    pairs = decided.sum(dim=(1, 2))
    difference = rewards.unsqueeze(2) - rewards.unsqueeze(1)
    sums = {
        "accuracy": (decided * ordered_right(difference)).sum(dim=(1, 2)) / pairs.clamp_min(1),
        "margin": (decided * difference).sum(dim=(1, 2)) / pairs.clamp_min(1),
        "mean_reward": rewards.masked_fill(~real, 0.0).sum(dim=1),
        "min_reward": rewards.masked_fill(~real, torch.inf).amin(dim=1),
        "max_reward": rewards.masked_fill(~real, -torch.inf).amax(dim=1),
    }
    any_decided = (pairs > 0).float()
    counts = dict.fromkeys(sums, torch.ones_like(any_decided)) | {"accuracy": any_decided, "margin": any_decided}
    counts["mean_reward"] = real.float().sum(dim=1)
    return sums, counts
