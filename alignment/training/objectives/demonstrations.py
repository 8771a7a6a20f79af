"""Supervised fine-tuning: demonstrations as rows, batches and an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from alignment.generation.head import check_head
from alignment.training.collate import Batch, pad_rows
from alignment.training.logprobs import token_logprobs_and_hits
from alignment.training.objectives.objective import Measured
from alignment.training.tokens import Encoded


class DemonstrationRow(TypedDict):
    """A prompt and the response to imitate."""

    id: str
    row: Encoded


def collate_demonstrations(rows: Sequence[DemonstrationRow], pad_id: int) -> Batch:
    """P demonstrations as P rows, with `row_record` (P,) int64."""
    batch = pad_rows([row["row"] for row in rows], pad_id)
    batch["row_record"] = torch.arange(len(rows))
    batch["ids"] = [row["id"] for row in rows]
    return batch


@dataclass(frozen=True)
class SFTObjective:
    """Maximum likelihood of the responses; every scored token weighs the same, as in TRL's SFTTrainer."""

    pad_id: int
    columns = ("id", "row")
    coupled = batchwise = gathers = False

    def collate(self, rows: Sequence[Any]) -> Batch:
        return collate_demonstrations(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        tokens: Tensor = batch["completion_mask"][:, 1:].sum()
        return tokens.float()

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Mean over scored tokens of -log p(token), nats; `mean_token_accuracy` is the share predicted first."""
        logps, hits = token_logprobs_and_hits(model, batch)  # (P, T-1) each, 0 where not scored
        tokens = batch["completion_mask"][:, 1:].sum(dim=1).float()
        sums = {"loss": -logps.detach().sum(dim=1), "mean_token_accuracy": hits.sum(dim=1)}
        return Measured(-logps.sum() / tokens.sum(), sums, dict.fromkeys(sums, tokens))

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """Fine-tuning may start anywhere, from a model whose logits are understood."""
        check_head(model)
