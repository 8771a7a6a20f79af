"""Direct preference optimisation: pairs as rows, batches and an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from alignment.errors import AlignmentError, DataError
from alignment.training.collate import Batch, pad_rows
from alignment.training.logprobs import check_head, evaluating, sequence_logprobs
from alignment.training.losses.pairs import DPO_LOSSES
from alignment.training.objectives.objective import Measured, ordered_right
from alignment.training.tokens import Encoded


class PairRow(TypedDict):
    """A comparison of two responses to one prompt."""

    id: str
    chosen: Encoded
    rejected: Encoded
    weight: float  # > 0: 1 / number of pairs of the record when a ranking was taken apart
    ref_chosen_logps: float  # nats, log πref(chosen | prompt)
    ref_rejected_logps: float


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
