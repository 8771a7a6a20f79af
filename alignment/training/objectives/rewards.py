"""Reward models from rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment.training.collate import Batch
from alignment.training.objectives.objective import Measured, ordered_right
from alignment.training.objectives.rankings import collate_rankings
from reward.losses import RANKING_LOSSES
from reward.model import sequence_rewards


@dataclass(frozen=True)
class RewardObjective:
    """A reward model from rankings (RankingRows); every prompt weighs the same."""

    pad_id: int
    loss_type: str = "bradley_terry"
    center_coefficient: float = 0.0
    columns = ("id", "responses", "wins")

    def collate(self, rows: Sequence[Any]) -> Batch:
        return collate_rankings(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        return torch.tensor(float(len(batch["wins"])), device=batch["wins"].device)

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Mean over prompts of the ranking loss.

        Metrics have TRL's names. `accuracy` (ties 1/2) and `margin` are means over a prompt's decided pairs, then over
        prompts; `mean_reward` is over responses; `min_reward` and `max_reward` are a prompt's lowest and highest,
        averaged over prompts, so that they do not depend on the batch size.
        """
        wins = batch["wins"]
        place = batch["row_prompt"], batch["row_response"]
        row_rewards = sequence_rewards(model, batch)  # (N,)
        rewards = row_rewards.new_zeros(wins.shape[:2]).index_put(place, row_rewards)  # (P, K)
        losses = RANKING_LOSSES[self.loss_type](rewards, wins, center_coefficient=self.center_coefficient)

        real = torch.zeros_like(rewards, dtype=torch.bool)
        real[place] = True
        table = rewards.detach()
        decided = (wins > wins.transpose(1, 2)).float()  # (P, K, K)
        pairs = decided.sum(dim=(1, 2))
        difference = table.unsqueeze(2) - table.unsqueeze(1)
        one = torch.ones_like(losses)
        sums = {
            "loss": losses.detach(),
            "accuracy": (decided * ordered_right(difference)).sum(dim=(1, 2)) / pairs.clamp_min(1),
            "margin": (decided * difference).sum(dim=(1, 2)) / pairs.clamp_min(1),
            "mean_reward": table.sum(dim=1),
            "min_reward": table.masked_fill(~real, torch.inf).amin(dim=1),
            "max_reward": table.masked_fill(~real, -torch.inf).amax(dim=1),
        }
        any_decided = (pairs > 0).float()
        counts = dict.fromkeys(sums, one) | {"accuracy": any_decided, "margin": any_decided}
        counts["mean_reward"] = real.float().sum(dim=1)
        return Measured(losses.mean(), sums, counts)

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """A reward model may start anywhere."""
