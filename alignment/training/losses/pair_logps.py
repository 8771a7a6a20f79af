"""What losses on pairs are functions of, and how it is reduced from tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class PairLogps(NamedTuple):
    """Log-probabilities of P pairs in nats, summed over the scored tokens of a response; every field is (P,)."""

    chosen: Tensor  # log πθ(y_w | x)
    rejected: Tensor  # log πθ(y_l | x)
    chosen_tokens: Tensor  # |y_w|, float
    rejected_tokens: Tensor  # |y_l|, float
    ref_chosen: Tensor | None = None  # log πref(y_w | x); None where no loss asks for a reference
    ref_rejected: Tensor | None = None

    @property
    def reference(self) -> tuple[Tensor, Tensor]:
        """log πref of chosen and rejected. Raises ValueError where there is none."""
        if self.ref_chosen is None or self.ref_rejected is None:
            raise ValueError("this loss compares with a reference: it needs ref_chosen and ref_rejected")
        return self.ref_chosen, self.ref_rejected

    @property
    def chosen_ratio(self) -> Tensor:
        """log πθ(y_w | x) / πref(y_w | x)."""
        return self.chosen - self.reference[0]

    @property
    def rejected_ratio(self) -> Tensor:
        """log πθ(y_l | x) / πref(y_l | x)."""
        return self.rejected - self.reference[1]


def logistic(logits: Tensor, target: Tensor | float = 1.0) -> Tensor:
    """-p log σ(z) - (1 - p) log σ(-z), elementwise: cross-entropy of P(chosen ≻ rejected) = σ(z) with a target p."""
    losses = -target * functional.logsigmoid(logits)
    if isinstance(target, float) and target == 1.0:
        return losses
    return losses - (1 - target) * functional.logsigmoid(-logits)


def length_desensitised(token_logps: Tensor, scored: Tensor, ld_alpha: float) -> Tensor:
    """Log-probabilities in which the tokens by which one response is longer than the other count less.

        log π(y) = Σ_{t <= l} log π(y_t) + α Σ_{t > l} log π(y_t),    l = min(|y_w|, |y_l|)

    LD-DPO (Liu et al. 2024, "Length Desensitization in DPO", arXiv:2409.06411); policy and reference alike. α = 1 is
    DPO, α = 0 forgets the tail.

    Args:
        token_logps: (2P, T) nats: chosen, rejected, chosen, ...; 0 where not scored.
        scored: (2P, T) bool.
        ld_alpha: α.

    Returns:
        (2P,) nats.
    """
    place = scored.cumsum(dim=1)  # a token's number among the scored ones, from 1
    shared = scored.sum(dim=1).view(-1, 2).amin(dim=1).repeat_interleave(2)  # l
    return torch.where(place <= shared.unsqueeze(1), token_logps, ld_alpha * token_logps).sum(dim=1)


def wpo_weights(token_logps: Tensor, log_collision: Tensor, scored: Tensor) -> Tensor:
    """Weights of pairs by how likely the policy is to write them itself.

        w(y) = exp( 1/|y| Σ_t [log π(y_t) - log Σ_v π(v)²] ),    weight = w(y_w) w(y_l)

    WPO (Zhou et al. 2024, arXiv:2406.11827, eq. 2, "sampled alignment"): a token weighs 1 when it is as likely as one
    that the policy samples is on average.

    Args:
        token_logps: (2P, T) nats: chosen, rejected, chosen, ...; 0 where not scored.
        log_collision: (2P, T), log Σ_v π(v)² of the distributions that predicted them; 0 where not scored.
        scored: (2P, T) bool.

    Returns:
        (P,), without gradient.
    """
    per_token = (token_logps - log_collision).detach().sum(dim=1) / scored.sum(dim=1)
    return per_token.exp().view(-1, 2).prod(dim=1)
