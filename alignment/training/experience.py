"""One batch of PPO's experience: answers as they were sampled, what they earned, and how much better than expected.

Layout of every (N, R) tensor: column 0 is an answer's first token, rows are right-padded, `mask` says what is real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignment.training.actor_critic import ActorCritic
from alignment.training.collate import Batch, pad_rows
from alignment.training.losses.ppo import KL_ESTIMATORS, gae, kl_k3, masked_whiten, missing_eos, shaped_rewards
from alignment.training.ppo_options import PPOOptions
from alignment.training.rollouts import Rollout
from alignment.training.score_scaling import ScoreScaling
from alignment.training.tokens import Encoded

if TYPE_CHECKING:
    Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Experience:
    """N answers. Log-probabilities and values are those of the policy that sampled them."""

    rows: list[Encoded]
    mask: Tensor  # (N, R) bool
    logps: Tensor  # (N, R) nats
    ref_logps: Tensor  # (N, R) nats
    values: Tensor  # (N, R)
    scores: Tensor  # (N,) as they enter the rewards
    penalties: Tensor  # (N, R) -kl_coef times the estimated KL of each token
    advantages: Tensor  # (N, R)
    returns: Tensor  # (N, R)

    @property
    def kl(self) -> Tensor:
        """log π - log πref summed over each answer, (N,) nats: unbiased for KL(π‖πref) of whole answers."""
        return (self.logps - self.ref_logps).sum(dim=1)

    @property
    def kl_k3(self) -> Tensor:
        """k3 of every token summed over each answer, (N,) nats: unbiased as `kl` is, and never below 0.

        In double: near πref the difference of two nearly equal numbers is what counts.
        """
        return kl_k3(self.logps.double(), self.ref_logps.double()).clamp(min=0).sum(dim=1)


def response_mask(lengths: Sequence[int]) -> Tensor:
    """(N, R) bool: True for the first `lengths[i]` columns of row i."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def as_responses(flat: Tensor, mask: Tensor) -> Tensor:
    """S values, row by row, at the True places of `mask` (N, R); 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask.to(flat.device), flat)


def micro_batches(rows: Sequence[Encoded], chosen: Sequence[int], size: int) -> list[list[int]]:
    """The chosen rows in groups of `size`, longest first, so that a group's rows are about as long.

    Rows of one prompt stay together where they are as long: they share their prefix.
    """
    order = sorted(chosen, key=lambda i: (-len(rows[i].prompt_ids), rows[i].prompt_ids, i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def without_gradients(
    rows: Sequence[Encoded],
    measure: Callable[[Batch], Tensor],
    pad_id: int,
    size: int,
    device: torch.device,
    autocast: Autocast,
) -> Tensor:
    """`measure` of every row's completion tokens, a few rows at a time: (N, R) float32 on the CPU."""
    mask = response_mask([len(row.completion_ids) for row in rows])
    found = torch.zeros(mask.shape)
    for group in micro_batches(rows, range(len(rows)), size):
        with torch.no_grad(), autocast():
            flat = measure(to_device(pad_rows([rows[i] for i in group], pad_id), device)).float().cpu()
        found[group] = as_responses(flat, mask[group])
    return found


def experience(
    actor: ActorCritic,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Rollout],
    scores: Tensor,
    kl_coef: float,
    options: PPOOptions,
    scaling: ScoreScaling,
    temperature: float,
    pad_id: int,
    size: int,
    autocast: Autocast,
) -> Experience:
    """Rewards, advantages and returns of sampled answers.

    Args:
        actor: the policy that sampled them.
        prompts, answers: N token lists and what was sampled behind them.
        scores: (N,) what the scorer said.
        kl_coef: of the penalty, per nat.
        options: see `PPOOptions`.
        scaling: of the scores; learns their moments when asked to.
        temperature: of the sampling.
        pad_id, size, autocast: of the forward passes.
    """
    rows = [
        Encoded(list(prompt), answer.response_ids, [1] * len(answer.response_ids))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    mask = response_mask([len(answer.response_ids) for answer in answers])
    logps = as_responses(torch.tensor([logp for answer in answers for logp in answer.logps]), mask)

    def measured(measure: Callable[[Batch], Tensor]) -> Tensor:
        return without_gradients(rows, measure, pad_id, size, actor.device, autocast)

    ref_logps = measured(lambda batch: actor.reference_logps(batch, temperature))
    if actor.value_adapter:
        values = measured(actor.values)
    else:
        values = as_responses(torch.tensor([value for answer in answers for value in answer.values or ()]), mask)
    scores = scaling(scores)
    if options.missing_eos_penalty is not None:
        finished = torch.tensor([answer.finished for answer in answers])
        scores = missing_eos(scores, finished, options.missing_eos_penalty)
    kl = KL_ESTIMATORS[options.kl_estimator](logps, ref_logps) * mask
    rewards = shaped_rewards(scores, kl, mask, kl_coef)
    if options.whiten_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False) * mask
    advantages, returns = gae(rewards, values, mask, options.gamma, options.lam)
    if options.whiten_advantages:
        advantages = masked_whiten(advantages, mask) * mask
    return Experience(rows, mask, logps, ref_logps, values, scores, -kl_coef * kl, advantages, returns)
