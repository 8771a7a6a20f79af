"""Losses on single responses that are desirable or not. Adding one is a function and a row of KTO_LOSSES."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

KTOLoss = Callable[..., tuple[Tensor, Tensor]]


def kto_loss(
    policy_logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 7).

        loss_y = λ_y - v(x, y),    v = λ_D σ(β (log πθ/πref - z0)) if y is desirable, λ_U σ(β (z0 - log πθ/πref)) if not

    Args:
        policy_logps: (P,) log πθ(y | x), nats, summed over the response's tokens; ref_logps likewise.
        desirable: (P,) bool.
        kl: scalar z0 >= 0, nats, without gradient: the point that gains and losses are felt from (see `kl_estimate`).
        beta: strength of the pull towards the reference.
        desirable_weight: λ_D. With n_D and n_U responses of the two kinds, n_D λ_D / (n_U λ_U) should be in [1, 4/3]
            (eq. 8).
        undesirable_weight: λ_U.

    Returns:
        (P,) losses, between 0 and the response's weight, and the (P,) implicit rewards, without gradient.
    """
    rewards = beta * (policy_logps - ref_logps)
    gain = torch.where(desirable, rewards - beta * kl, beta * kl - rewards)
    weights = torch.where(desirable, desirable_weight, undesirable_weight)
    return weights * torch.sigmoid(-gain), rewards.detach()  # λ - λ σ(gain) = λ σ(-gain)


def apo_zero_unpaired(
    policy_logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """APO-zero for single responses (D'Oosterlinck et al. 2024, eq. 7), as in TRL: KTO's loss with z0 = 0.

    It pushes desirable responses up and undesirable ones down from where the reference has them, and needs no estimate.
    Arguments and results are those of `kto_loss`.
    """
    zero = policy_logps.new_zeros(())
    return kto_loss(policy_logps, ref_logps, desirable, zero, beta, desirable_weight, undesirable_weight)


def kl_estimate(log_ratio: Tensor) -> Tensor:
    """z0: KL(πθ ‖ πref) of a batch, estimated without sampling (Ethayarajh et al. 2024, section 4.1).

        z0 = max(0, mean of log πθ(y' | x) / πref(y' | x))

    Args:
        log_ratio: the mean of log πθ/πref over prompts x with responses y' to other prompts, nats.

    Returns:
        The same clamped at 0 and without gradient: z0 sets the scale, it is not learned.
    """
    return log_ratio.detach().clamp_min(0)


KTO_LOSSES: dict[str, KTOLoss] = {
    "kto": kto_loss,
    "apo_zero_unpaired": apo_zero_unpaired,
}
NEEDS_KL = frozenset({"kto"})  # these take `kl`, and a batch needs mismatched rows
