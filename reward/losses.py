"""Ranking losses: pure functions of the rewards of a prompt's responses and of who beat whom.

Every loss returns one value per prompt, so a prompt with many comparisons weighs as much as one with a single pair.
Adding a loss is one function and one row of RANKING_LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

RankingLoss = Callable[..., Tensor]


def bradley_terry(
    rewards: Tensor, wins: Tensor, margin: Tensor | None = None, center_coefficient: float = 0.0
) -> Tensor:
    """Negative log-likelihood of the comparisons under Bradley-Terry (1952), averaged over each prompt's pairs.

        loss_p = - Σ_ij w_ij log σ(r_i - r_j - m_ij) / Σ_ij w_ij        (Ouyang et al. 2022, eq. 1)
                 + c Σ_ij w_ij (r_i + r_j)² / Σ_ij w_ij                 (Eisenstein et al. 2023, centring)

    With K = 2 and one comparison this is -log σ(r_chosen - r_rejected).

    Args:
        rewards: (P, K) rewards of the K responses of each of P prompts; padding may hold any finite value.
        wins: (P, K, K), w_ij >= 0 says how much response i beat j; fractions are soft labels, padding is 0.
        margin: (P, K, K) or None; how much better i must be than j (Touvron et al. 2023, eq. 2).
        center_coefficient: pulls the rewards towards zero mean, which the comparisons leave open.

    Returns:
        (P,) losses in nats; 0 for a prompt without comparisons, which the caller leaves out of the mean.
    """
    weights = wins / wins.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(wins.dtype).tiny)
    difference = rewards.unsqueeze(2) - rewards.unsqueeze(1)  # (P, K, K): r_i - r_j
    if margin is not None:
        difference = difference - margin
    losses = -(weights * functional.logsigmoid(difference)).sum(dim=(1, 2))
    if center_coefficient:
        together = rewards.unsqueeze(2) + rewards.unsqueeze(1)
        losses = losses + center_coefficient * (weights * together.square()).sum(dim=(1, 2))
    return losses


RANKING_LOSSES: dict[str, RankingLoss] = {
    "bradley_terry": bradley_terry,
}
