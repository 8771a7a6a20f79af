"""The losses of preference training, as pure functions, and the objectives that the trainer runs.

An objective says which columns a row has, how rows become a batch, what a batch weighs, and what its loss is. Adding a
DPO variant is one function and one row of DPO_LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from alignment.errors import AlignmentError
from alignment.training.collate import Batch, collate_pairs, collate_rankings
from alignment.training.logprobs import check_head, evaluating, sequence_logprobs
from reward.losses import RANKING_LOSSES
from reward.model import sequence_rewards


class Measured(NamedTuple):
    """A batch's loss and its metrics.

    `sums[name] / counts[name]`, each summed over any set of records, is that metric over those records, however they
    were split into batches.
    """

    loss: Tensor  # scalar with gradient: the weighted mean over the batch, sums["loss"] / counts["loss"]
    sums: Mapping[str, Tensor]  # (P,) each, without gradient: what every record adds to a metric's numerator
    counts: Mapping[str, Tensor]  # (P,) each: ... and to its denominator


class Objective(Protocol):
    """What `ObjectiveTrainer` needs to know."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys that every row has."""
        ...

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows -> batch; raises DataError naming the record that cannot be one."""
        ...

    def weight(self, batch: Batch) -> Tensor:
        """Scalar: how much the batch's mean loss counts beside other batches of the same step."""
        ...

    def loss(self, model: Any, batch: Batch) -> Measured:
        """The loss; `model` is the unwrapped transformers or PEFT model."""
        ...

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """Raises AlignmentError when training starts from something it must not start from."""
        ...


DPOLoss = Callable[..., tuple[Tensor, Tensor, Tensor]]


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023).

    Args:
        policy_chosen_logps: (P,) log πθ(yw | x), nats, summed over the response's tokens; the others likewise.
        beta: strength of the pull towards the reference.
        label_smoothing: probability ε that a preference was recorded the wrong way round (conservative DPO).

    Returns:
        (P,) losses in nats, and the (P,) implicit rewards of chosen and rejected, without gradient.
    """
    chosen_rewards = beta * (policy_chosen_logps - ref_chosen_logps)  # eq. 5: r(x, y) = β log πθ(y|x) / πref(y|x)
    rejected_rewards = beta * (policy_rejected_logps - ref_rejected_logps)
    margin = chosen_rewards - rejected_rewards
    losses = -functional.logsigmoid(margin)  # eq. 7: -log σ(β log πθ/πref (yw) - β log πθ/πref (yl))
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * functional.logsigmoid(-margin)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


DPO_LOSSES: dict[str, DPOLoss] = {
    "sigmoid": dpo_loss,
}


def ordered_right(margin: Tensor) -> Tensor:
    """1 where the margin is positive, 1/2 where it is 0 (a tie), else 0."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()


@dataclass(frozen=True)
class DPOObjective:
    """Direct preference optimisation on PairRows."""

    pad_id: int
    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    columns = ("id", "chosen", "rejected", "weight", "ref_chosen_logps", "ref_rejected_logps")

    def collate(self, rows: Sequence[Any]) -> Batch:
        return collate_pairs(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        weights: Tensor = batch["weights"]
        return weights.sum()

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Weighted mean of the pairs' losses; the metrics have TRL's names and the pairs' weights."""
        logps = sequence_logprobs(model, batch)  # (2P,): chosen, rejected, chosen, ...
        chosen, rejected = logps[0::2], logps[1::2]
        losses, chosen_rewards, rejected_rewards = self._losses(chosen, rejected, batch)
        margins = chosen_rewards - rejected_rewards
        weights: Tensor = batch["weights"]
        values = {
            "loss": losses.detach(),
            "rewards/chosen": chosen_rewards,
            "rewards/rejected": rejected_rewards,
            "rewards/accuracies": ordered_right(margins),
            "rewards/margins": margins,
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
        }
        sums = {name: weights * value for name, value in values.items()}
        counts = dict.fromkeys(values, weights)
        return Measured((weights * losses).sum() / weights.sum(), sums, counts)

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """At the start policy and reference are the same model, so every log-ratio is 0.

        Raises AlignmentError when a scored token's log-probability differs from the reference's by more than
        `tolerance` nats on average, or the loss from its value at log-ratio 0 (ln 2 for the sigmoid loss) by more than
        such a difference explains.
        """
        check_head(model)
        with evaluating(model):
            logps = sequence_logprobs(model, batch)
        reference = torch.stack([batch["ref_chosen_logps"], batch["ref_rejected_logps"]], dim=1).flatten()
        tokens = batch["completion_mask"].sum(dim=1)
        drift = float(((logps - reference).abs() / tokens).mean())
        losses = self._losses(logps[0::2], logps[1::2], batch)[0]
        at_zero = self._losses(batch["ref_chosen_logps"], batch["ref_rejected_logps"], batch)[0]
        off = float((losses - at_zero).abs().mean())
        allowed = self.beta * tolerance * float(tokens.sum()) / len(losses) + 1e-6
        if not (drift <= tolerance and off <= allowed):
            raise AlignmentError(
                f"the reference is not the starting policy: log-probabilities differ by {drift:.2g} nats per token "
                f"(allowed {tolerance:g}), first loss {float(losses.mean()):.4f} instead of "
                f"{float(at_zero.mean()):.4f}; give the stage the same model as policy and reference"
            )

    def _losses(self, chosen: Tensor, rejected: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        reference = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        return DPO_LOSSES[self.loss_type](chosen, rejected, *reference, self.beta, self.label_smoothing)


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
