"""From hidden states to log-probabilities: a chunk of logits at a time, none of which is kept.

A token's log-probability depends on its own state alone, so its gradient is known as soon as its distribution is: W[y]
minus the mean of W under p, for a plain head. Where the head is frozen (LoRA) that vector is made at once and kept in
the place of the logits: the head runs twice a token. Where the head learns, or what is said beside the log-probability
has a gradient too, a chunk is projected again in the backward pass: three times a token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from alignment.generation.head import head_logits


class Distributions:
    """The distributions of logits (n, V), in parts that are computed when first asked for."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @cached_property
    def probabilities(self) -> Tensor:
        """(n, V)."""
        return self.logits.softmax(-1)

    @cached_property
    def normalizer(self) -> Tensor:
        """log Σ_v exp(logits): (n,)."""
        if "probabilities" not in vars(self):
            return self.logits.logsumexp(-1)
        top, where = self.logits.max(-1, keepdim=True)  # its probability is at least 1/V, far from underflow
        return (top - self.probabilities.gather(-1, where).log()).squeeze(-1)

    def logps(self, targets: Tensor) -> Tensor:
        """log p(target): (n,) nats."""
        return self.logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - self.normalizer


Beside = Callable[[Distributions, Tensor], Tensor]  # (distributions, targets (n,)) -> (n,)


def entropy(found: Distributions, targets: Tensor) -> Tensor:
    """H = -Σ_v p(v) log p(v), nats."""
    expected = torch.einsum("nv,nv->n", found.probabilities, found.logits)
    return found.normalizer - expected


def hits(found: Distributions, targets: Tensor) -> Tensor:
    """1 where the target is the most likely token, else 0."""
    wanted = found.logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (wanted >= found.logits.amax(-1)).float()


def collision(found: Distributions, targets: Tensor) -> Tensor:
    """log Σ_v p(v)², nats: of the probability that two draws are the same token."""
    return torch.einsum("nv,nv->n", found.probabilities, found.probabilities).log()


def projected(
    causal: Any,
    states: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_tokens: int,
    beside: Beside | None = None,
    beside_learns: bool = False,
) -> list[Tensor]:
    """log p(target) of states (S, H), and what `beside` says of their distributions: each (S,) float32.

    Args:
        causal: a model of transformers, out of its PeftModel.
        states, targets: what predicts, and the tokens (S,).
        temperature: the logits are divided by it.
        chunk_tokens: states projected at a time.
        beside: `entropy`, `hits` or `collision`.
        beside_learns: what it says has a gradient.
    """
    head_learns = any(weight.requires_grad for weight in causal.get_output_embeddings().parameters())
    once = torch.is_grad_enabled() and states.requires_grad and not head_learns and not beside_learns
    chunks = zip(torch.split(states, chunk_tokens), torch.split(targets, chunk_tokens), strict=True)
    parts = [
        _Once.apply(chunk, causal, target, temperature, beside)  # type: ignore[no-untyped-call]
        if once
        else checkpoint(_said, chunk, causal, target, temperature, beside, beside_learns, use_reentrant=False)
        for chunk, target in chunks
    ]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _said(
    states: Tensor, causal: Any, targets: Tensor, temperature: float, beside: Beside | None, learns: bool
) -> tuple[Tensor, ...]:
    found = Distributions(_tempered(causal, states, temperature))
    if beside is None:
        return (found.logps(targets),)
    if learns:
        return found.logps(targets), beside(found, targets)
    return found.logps(targets), beside(Distributions(found.logits.detach()), targets)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, causal: Any, targets: Tensor, temperature: float, beside: Beside | None
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            known = states.detach().requires_grad_()
            logits = _tempered(causal, known, temperature)
        found = Distributions(logits.detach())
        towards = found.probabilities
        said = (found.logps(targets), *(() if beside is None else (beside(found, targets),)))
        towards.neg_()[torch.arange(len(targets), device=targets.device), targets] += 1  # ∂ log p(target) / ∂ logits
        ctx.save_for_backward(*torch.autograd.grad(logits, known, towards))
        ctx.mark_non_differentiable(*said[1:])
        return said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors  # (n, H), a row's own
        return (grad[:, None] * gradient).to(gradient.dtype), None, None, None, None


def _tempered(causal: Any, states: Tensor, temperature: float) -> Tensor:
    logits = head_logits(causal, states)
    return logits if temperature == 1.0 else logits / temperature  # a division would copy all of them
