"""f-divergences that may hold a policy near its reference. Adding one is a function and a row of DIVERGENCES.

DPO under KL(πθ ‖ πref) compares log-ratios ln u, u = πθ(y|x) / πref(y|x). Under another f-divergence it compares f'(u)
(Wang et al. 2023, "Beyond Reverse KL", arXiv:2309.16240). Every function takes ln u and returns f'(u), elementwise; a
constant in f' cancels between the two responses of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Divergence = Callable[[Tensor], Tensor]

# Exponents are cut off here, as in TRL: e^80 and its products with losses are float32 numbers, e^89 is not.
LARGEST_EXPONENT = 80.0


def reverse_kl(log_ratio: Tensor) -> Tensor:
    """f'(u) = ln u (+ 1): DPO itself."""
    return log_ratio


def forward_kl(log_ratio: Tensor) -> Tensor:
    """f'(u) = 1 - 1/u: the α-divergence at α = 0."""
    return alpha_divergence(log_ratio, alpha=0.0)


def js_divergence(log_ratio: Tensor) -> Tensor:
    """f'(u) = ln (2u / (1 + u)) = ln 2 + ln σ(ln u): Jensen-Shannon."""
    return math.log(2) + functional.logsigmoid(log_ratio)


def alpha_divergence(log_ratio: Tensor, alpha: float = 0.5) -> Tensor:
    """f'(u) = (u^(α-1) - 1) / (α - 1), and its limit ln u at α = 1; with TRL's sign of α, where 0 is the forward KL."""
    if abs(alpha - 1.0) < 1e-6:
        return reverse_kl(log_ratio)
    return torch.expm1(((alpha - 1.0) * log_ratio).clamp(max=LARGEST_EXPONENT)) / (alpha - 1.0)


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "js_divergence": js_divergence,
    "alpha_divergence": alpha_divergence,
}
