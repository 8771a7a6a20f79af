"""Kahneman-Tversky optimisation: single responses with a label as rows, batches and an objective.

KTO compares a response's log-ratio with z0, an estimate of how far the policy has moved from the reference at all. It
is the mean log-ratio of mismatched rows: prompts of the batch with responses to other prompts. Which response goes with
which prompt is settled once, for the data set (`mismatched`), so that the reference's log-probabilities of these rows
can be cached and a resumed run meets the same ones; the rows are then read in that order, as in TRL.

z0 belongs to a batch, in evaluation too: `eval_loss` and `eval_kl` are those of batches of the size they were measured
in, and another `per_device_eval_batch_size` gives others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, distributed

from alignment.errors import DataError, RecipeError, nearest
from alignment.training.collate import Batch, pad_rows
from alignment.training.logprobs import sequence_logprobs
from alignment.training.losses.kto import KTO_LOSSES, NEEDS_KL, kl_estimate
from alignment.training.objectives.objective import Measured
from alignment.training.objectives.start import check_start_at_reference
from alignment.training.tokens import Encoded


class LabelledRow(TypedDict):
    """A response to a prompt and whether it is desirable."""

    id: str
    row: Encoded
    label: bool
    ref_logps: float  # nats, log πref(response | prompt)
    kl_row: NotRequired[Encoded]  # the prompt with a response to another prompt
    ref_kl_logps: NotRequired[float]


def mismatched(rows: Sequence[Encoded], block: int, max_length: int) -> list[Encoded]:
    """Every row's prompt with a response to another prompt.

    Within blocks of `block` rows, which become batches, the responses move on by one place, the last to the front, as
    in TRL: prompts and responses of a batch's mismatched rows are those of its own rows. Where prompts stand beside
    themselves the responses move on far enough to meet another prompt everywhere; in a block where they cannot, the
    nearest earlier response to another prompt is taken.

    Args:
        rows: prompts and their responses, none longer than `max_length`.
        block: rows per batch.
        max_length: tokens of prompt and response; what is beyond is cut off and marked as truncated.

    Returns:
        As many rows. Raises DataError when all prompts are the same.
    """
    prompts = [tuple(row.prompt_ids) for row in rows]
    if len(set(prompts)) < 2:
        raise DataError("KTO's KL estimate needs at least two different prompts; use loss: apo_zero_unpaired")
    made: list[Encoded] = []
    for start in range(0, len(rows), block):
        places = range(start, min(start + block, len(rows)))
        for i, other in zip(places, _moved_on(prompts, places), strict=True):
            given = rows[other]
            room = max_length - len(prompts[i])
            ids, mask = given.completion_ids[:room], given.completion_mask[:room]
            made.append(Encoded(rows[i].prompt_ids, ids, mask, truncated=len(given.completion_ids) > room))
    return made


def _moved_on(prompts: Sequence[tuple[int, ...]], places: range) -> list[int]:
    """For every place of a block, the place of a response to another prompt."""
    for by in range(1, len(places)):
        others = [*places[-by:], *places[:-by]]
        if all(prompts[i] != prompts[other] for i, other in zip(places, others, strict=True)):
            return others
    backwards = [[(i - step) % len(prompts) for step in range(1, len(prompts))] for i in places]
    return [next(j for j in js if prompts[j] != prompts[i]) for i, js in zip(places, backwards, strict=True)]


def collate_labelled(rows: Sequence[LabelledRow], pad_id: int) -> Batch:
    """P labelled responses as P rows, in the order given.

    Adds `labels` (P,) bool, `ref_logps` (P,) float32 and `row_record` (P,) int64. Where the rows have mismatched ones:
    `kl_input_ids`, `kl_attention_mask`, `kl_completion_mask`, (P, T') each, and `ref_kl_logps` (P,) float32.
    """
    batch = pad_rows([row["row"] for row in rows], pad_id)
    batch["row_record"] = torch.arange(len(rows))
    batch["labels"] = torch.tensor([row["label"] for row in rows], dtype=torch.bool)
    batch["ref_logps"] = torch.tensor([row["ref_logps"] for row in rows], dtype=torch.float32)
    if all("kl_row" in row for row in rows):
        padded = pad_rows([row["kl_row"] for row in rows], pad_id)
        batch |= {f"kl_{name}": value for name, value in padded.items()}
        batch["ref_kl_logps"] = torch.tensor([row["ref_kl_logps"] for row in rows], dtype=torch.float32)
    batch["ids"] = [row["id"] for row in rows]
    return batch


@dataclass(frozen=True)
class KTOObjective:
    """KTO, or another row of KTO_LOSSES, on LabelledRows; every response weighs what its label's weight says."""

    pad_id: int
    beta: float = 0.1
    loss_type: str = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    gathers = True  # z0 is over the batches of all processes

    def __post_init__(self) -> None:
        if self.loss_type not in KTO_LOSSES:
            raise RecipeError(f"unknown loss {self.loss_type!r}{nearest(self.loss_type, KTO_LOSSES)}")

    @property
    def coupled(self) -> bool:
        """Whether a response's loss depends on the rest of its batch: through z0."""
        return self.loss_type in NEEDS_KL

    @property
    def batchwise(self) -> bool:
        """Whether the loss is a function of batches: through z0."""
        return self.coupled

    @property
    def columns(self) -> tuple[str, ...]:
        needed = ("id", "row", "label", "ref_logps")
        return (*needed, "kl_row", "ref_kl_logps") if self.coupled else needed

    def collate(self, rows: Sequence[Any]) -> Batch:
        return collate_labelled(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        reference: Tensor = batch["ref_logps"]
        return reference.new_tensor(len(reference))

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Mean over the batch's responses; metrics have TRL's names.

        `rewards/chosen` and `logps/chosen` are means over the desirable responses, `.../rejected` over the undesirable
        ones. `kl` is z0. `rewards/margins` is no mean over responses; `Meter` adds it.
        """
        reference = {"kl": self._kl(model, batch)} if self.coupled else {}
        logps = sequence_logprobs(model, batch)  # (P,)
        losses, rewards = KTO_LOSSES[self.loss_type](
            logps,
            batch["ref_logps"],
            batch["labels"],
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            **reference,
        )
        ones = torch.ones_like(rewards)
        sums, counts = {"loss": losses.detach()}, {"loss": ones}
        for side, is_it in (("chosen", batch["labels"].float()), ("rejected", (~batch["labels"]).float())):
            sums |= {f"rewards/{side}": is_it * rewards, f"logps/{side}": is_it * logps.detach()}
            counts |= {f"rewards/{side}": is_it, f"logps/{side}": is_it}
        for name, value in reference.items():
            sums[name], counts[name] = value * ones, ones
        return Measured(losses.mean(), sums, counts)

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """Raises AlignmentError when the policy does not start as its reference."""
        check_start_at_reference(model, batch, batch["ref_logps"], tolerance)

    def _kl(self, model: Any, batch: Batch) -> Tensor:
        """z0, over the batches of all processes. The mismatched rows run by themselves: they need no gradient."""
        names = ("input_ids", "attention_mask", "completion_mask")
        with torch.no_grad():
            log_ratios = sequence_logprobs(model, {name: batch[f"kl_{name}"] for name in names}) - batch["ref_kl_logps"]
        total = torch.stack([log_ratios.sum(), log_ratios.new_tensor(len(log_ratios))])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
        return kl_estimate(total[0] / total[1])
