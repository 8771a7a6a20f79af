"""The update of PPO: a batch of experience, several epochs of mini-batches, one optimizer step each.

A mini-batch runs in as many passes as memory asks for; its gradient and its metrics are those of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignment.errors import AlignmentError
from alignment.training.actor_critic import ActorCritic
from alignment.training.collate import pad_rows
from alignment.training.experience import Experience, as_responses, micro_batches, to_device
from alignment.training.losses.ppo import approx_kl, clipped_policy_loss, clipped_value_loss
from alignment.training.ppo_options import PPOOptions

if TYPE_CHECKING:
    from alignment.training.experience import Autocast

# Mean |log ratio| in nats per token that rounding may make between sampling and training, before anything was learned.
# The mean ratio would show nothing: its expectation is 1 whatever the two distributions are. Measured: 1e-7 in fp32;
# where sampling runs on bf16 weights, 0.0004 to 0.003 on tiny models and about 0.015 on small ones.
START_GAP = 1e-3
START_GAP_LOW_PRECISION = 0.05
LOOKED_BACK = 4  # answers that the guard sees again after the last step of an update
# A recipe that was changed is another stage.
STARTS_OVER = "changed settings start the stage over, unchanged ones stop at this step again"


class Sums:
    """Exact token means over everything that was added."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._tokens = 0.0

    def add(self, mask: torch.Tensor, **values: torch.Tensor) -> None:
        """Adds (N, R) values at the real tokens."""
        self._tokens += float(mask.sum())
        for name, value in values.items():
            total = float((value.detach().double() * mask).sum())
            self._totals[name] = self._totals.get(name, 0.0) + total

    def mean(self, name: str) -> float:
        return self._totals[name] / self._tokens


class Update:
    """Makes optimizer steps from experience."""

    def __init__(
        self,
        actor: ActorCritic,
        optimizer: torch.optim.Optimizer,
        options: PPOOptions,
        *,
        temperature: float,
        pad_id: int,
        size: int,
        max_grad_norm: float,
        autocast: Autocast,
        low_precision: bool,
        compared: bool = False,  # sampling was held against training already, at a limit of its own
    ) -> None:
        self._actor = actor
        self._optimizer = optimizer
        self._options = options
        self._temperature = temperature
        self._pad_id = pad_id
        self._size = size
        self._max_grad_norm = max_grad_norm
        self._autocast = autocast
        self._low_precision = low_precision
        self._compared = compared

    def __call__(self, exp: Experience, groups: Sequence[Sequence[int]], seed: Sequence[int]) -> dict[str, float]:
        """Learns from `exp` and returns the update's metrics.

        Args:
            exp: N answers.
            groups: their indices by prompt; a mini-batch holds whole groups, which share their prefix.
            seed: of the mini-batches' order.

        Raises:
            AlignmentError: a loss or gradient that is not finite, answers of another policy, or an update that runs
                away, before they are stepped on.
        """
        every, ratios, first, stopped = Sums(), [], True, False
        steps = 0
        chosen: list[int] = []
        for chosen in self._mini_batches(groups, seed):
            sums = Sums()
            self._optimizer.zero_grad()
            tokens = float(exp.mask[list(chosen)].sum())
            for part in micro_batches(exp.rows, chosen, self._size):
                self._backward(exp, part, tokens, (sums, every))
            ratios.append(sums.mean("ratio"))
            self._check(sums, first)
            limit = self._options.early_stop_kl
            if stopped := limit is not None and sums.mean("approxkl") > limit:
                self._optimizer.zero_grad()
                break
            self._step()
            first, steps = False, steps + 1
        if not stopped:  # else the last mini-batch has seen what the steps before it made of the policy
            self._look_back(exp, chosen[:LOOKED_BACK])
        return {
            "policy/approxkl_avg": every.mean("approxkl"),
            "policy/clipfrac_avg": every.mean("clipped"),
            "policy/entropy_avg": every.mean("entropy"),
            "loss/policy_avg": every.mean("policy"),
            "loss/value_avg": every.mean("value"),
            "val/clipfrac_avg": every.mean("value_clipped"),
            "val/ratio": float(np.mean(ratios)),
            "policy/updates": float(steps),
            "policy/stopped_early": float(stopped),
        } | ({"val/ratio_var": float(np.var(ratios, ddof=1))} if len(ratios) > 1 else {})

    def _mini_batches(self, groups: Sequence[Sequence[int]], seed: Sequence[int]) -> Iterator[list[int]]:
        for epoch in range(self._options.num_ppo_epochs):
            order = np.random.default_rng([*seed, epoch]).permutation(len(groups))
            for part in np.array_split(order, self._options.num_mini_batches):
                if len(part):
                    yield [i for group in part for i in groups[group]]

    def _backward(self, exp: Experience, part: list[int], tokens: float, sums: tuple[Sums, Sums]) -> None:
        """Adds the gradient of some rows of a mini-batch that has `tokens` tokens."""
        options, actor = self._options, self._actor
        batch = to_device(pad_rows([exp.rows[i] for i in part], self._pad_id), actor.device)
        mask = exp.mask[part].to(actor.device)
        old = {name: getattr(exp, name)[part].to(actor.device) for name in ("logps", "values", "advantages", "returns")}
        with self._autocast():
            flat_logps, flat_entropy, flat_values = actor.act(batch, self._temperature, options.entropy_coef != 0)
        logps, entropy = as_responses(flat_logps, mask), as_responses(flat_entropy, mask)
        policy, clipped = clipped_policy_loss(logps, old["logps"], old["advantages"], options.cliprange)
        loss = ((policy - options.entropy_coef * entropy) * mask).sum() / tokens
        if flat_values is None:
            _backward(loss)
            with actor.as_value(), self._autocast():
                values = as_responses(actor.values(batch), mask)
                value, value_clipped = self._value_loss(values, old)
                _backward(options.vf_coef * (value * mask).sum() / tokens)
        else:
            value, value_clipped = self._value_loss(as_responses(flat_values, mask), old)
            _backward(loss + options.vf_coef * (value * mask).sum() / tokens)
        measured = {
            "policy": policy,
            "value": value,
            "entropy": entropy,
            "clipped": clipped,
            "value_clipped": value_clipped,
            "ratio": (logps.detach() - old["logps"]).exp(),
            "gap": (logps.detach() - old["logps"]).abs(),
            "approxkl": approx_kl(logps, old["logps"]),
        }
        for each in sums:
            each.add(mask, **measured)

    @torch.no_grad()
    def _look_back(self, exp: Experience, rows: list[int]) -> None:
        """Looks at what the last step made of the policy, which no mini-batch comes after to see."""
        batch = to_device(pad_rows([exp.rows[i] for i in rows], self._pad_id), self._actor.device)
        mask, old = (each[rows].to(self._actor.device) for each in (exp.mask, exp.logps))
        with self._autocast():
            change = as_responses(self._actor.act(batch, self._temperature)[0], mask) - old
        sums = Sums()
        sums.add(mask, gap=change.abs(), ratio=change.exp())
        self._check(sums, first=False)

    def _value_loss(self, values: torch.Tensor, old: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return clipped_value_loss(values, old["values"], old["returns"], self._options.cliprange_value)

    def _check(self, sums: Sums, first: bool) -> None:
        """Looks at what the steps so far have made of the policy, on a mini-batch before it is stepped on."""
        gap, ratio = sums.mean("gap"), sums.mean("ratio")
        allowed = START_GAP_LOW_PRECISION if self._low_precision else START_GAP
        if first and not self._compared and not gap <= allowed:
            raise AlignmentError(
                f"log-probabilities of sampling and training disagree for this model: by {gap:.3g} nats per token "
                f"before anything was learned from this batch, where rounding explains {allowed:g}"
                + ("; try trainer.bf16: false" if self._low_precision else "")
            )
        guard = self._options.guard
        if guard.max_log_ratio is not None and not gap <= guard.max_log_ratio:
            raise AlignmentError(
                f"an update has moved the policy by {gap:.3g} nats per token, beyond ppo.guard.max_log_ratio "
                f"{guard.max_log_ratio:g}: it runs away; lower the learning rate or num_ppo_epochs ({STARTS_OVER})"
            )
        if guard.max_ratio is not None and not 1 / guard.max_ratio <= ratio <= guard.max_ratio:
            raise AlignmentError(
                f"the mean probability ratio of a mini-batch is {ratio:.3g}, beyond ppo.guard.max_ratio "
                f"{guard.max_ratio:g}: the update runs away; lower the learning rate or num_ppo_epochs ({STARTS_OVER})"
            )

    def _step(self) -> None:
        weights: list[Any] = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, self._max_grad_norm or math.inf)
        if not bool(norm.isfinite()):
            raise AlignmentError(
                f"the gradient is not finite; lower the learning rate, or look at the scores ({STARTS_OVER})"
            )
        self._optimizer.step()


def _backward(loss: torch.Tensor) -> None:
    if not bool(loss.isfinite()):
        raise AlignmentError(f"the loss is not finite; lower the learning rate, or look at the scores ({STARTS_OVER})")
    torch.autograd.backward(loss)
