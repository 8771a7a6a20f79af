"""Process reward models from labelled steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from alignment.errors import DataError
from alignment.training.collate import Batch, pad_rows
from alignment.training.objectives.objective import Measured, ordered_right
from alignment.training.tokens import Encoded
from reward.model import position_rewards
from reward.steps import step_loss


class StepRow(TypedDict):
    """A response and which of its steps are right."""

    id: str
    row: Encoded
    ends: Sequence[int]  # (S,) index in row.ids of every step's last token
    labels: Sequence[float | None]  # (S,) share of annotators who call the step right; None = nobody said


def collate_steps(rows: Sequence[StepRow], pad_id: int) -> Batch:
    """P responses as P rows, with `row_record` (P,) int64.

    Adds `step_ends` (P, S) int64, -1 where padded, and `step_labels` (P, S) float32, NaN where nobody said.
    Raises DataError for a record whose ends or labels do not fit.
    """
    for row in rows:
        _check(row)
    most = max(len(row["ends"]) for row in rows)
    batch = pad_rows([row["row"] for row in rows], pad_id)
    batch["row_record"] = torch.arange(len(rows))
    batch["step_ends"] = torch.tensor([[*row["ends"], *[-1] * (most - len(row["ends"]))] for row in rows])
    labels = [[math.nan if label is None else label for label in row["labels"]] for row in rows]
    batch["step_labels"] = torch.tensor([[*row, *[math.nan] * (most - len(row))] for row in labels])
    batch["ids"] = [row["id"] for row in rows]
    return batch


def _check(row: StepRow) -> None:
    ends, labels = list(row["ends"]), [label for label in row["labels"] if label is not None]
    if len(ends) != len(row["labels"]) or not labels:
        raise DataError(f"record {row['id']}: every step has an end and a label or None, and one at least has a label")
    if ends != sorted(set(ends)) or not 0 <= ends[0] <= ends[-1] < len(row["row"]):
        raise DataError(f"record {row['id']}: step ends must rise within the row of {len(row['row'])} tokens")
    if not all(0 <= label <= 1 for label in labels):
        raise DataError(f"record {row['id']}: a step's label lies in 0..1")


@dataclass(frozen=True)
class ProcessRewardObjective:
    """A process reward model on StepRows; every labelled step weighs the same, as in TRL's former PRMTrainer."""

    pad_id: int
    columns = ("id", "row", "ends", "labels")
    coupled = batchwise = gathers = False

    def collate(self, rows: Sequence[Any]) -> Batch:
        return collate_steps(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        labelled: Tensor = ~batch["step_labels"].isnan()
        return labelled.sum().float()

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Mean over labelled steps of the cross-entropy.

        `step_accuracy` is over steps on which more than half of the annotators agree; `mean_reward` is the mean
        probability that a labelled step is right.
        """
        labels, ends = batch["step_labels"], batch["step_ends"]
        rows, steps = (ends >= 0).nonzero(as_tuple=True)
        found = position_rewards(model, batch, rows, ends[rows, steps])[:, 0]
        logits = found.new_zeros(ends.shape).index_put((rows, steps), found)  # (P, S)
        losses = step_loss(logits, labels)
        labelled = (~labels.isnan()).float()
        side = labels.nan_to_num(nan=0.5) - 0.5  # 0 where nobody said, and where the annotators disagree evenly
        decided = (side != 0).float()
        scores = logits.detach()
        sums = {
            "loss": losses.detach().sum(dim=1),
            "step_accuracy": (decided * ordered_right(scores * side)).sum(dim=1),
            "mean_reward": (labelled * scores.sigmoid()).sum(dim=1),
        }
        counts = dict.fromkeys(sums, labelled.sum(dim=1)) | {"step_accuracy": decided.sum(dim=1)}
        return Measured(losses.sum() / labelled.sum(), sums, counts)

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """A reward model may start anywhere."""
