"""Ranking losses: pure functions of the rewards of a prompt's responses and of what annotators said about them.

Every loss returns one value per prompt. Its positional arguments are tensors of a batch, under the batch's names; its
keyword-only arguments are options (`tensors_of`, `options_of`). Adding one is a function and a row of RANKING_LOSSES.

Shapes: P prompts, K responses each (padding included), J orders that annotators gave. α_i = exp(r_i) is the worth of a
response. What annotators said comes in two forms:

    wins, ties (P, K, K): of the annotators who compared i and j, the share with i above j, and the share with a tie.
        Several annotators make soft labels: the loss is the cross-entropy with their shares. Padding is 0.
    tiers (P, J, K) with tier_weights (P, J): every order by itself, as the index of each response's tier, 0 = best;
        equal = tied, -1 = not part of this order (not compared: neither last nor tied). With J annotators each weighs
        1/J; padding is -1 and weighs 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import Parameter, signature

import torch
from torch import Tensor
from torch.nn import functional

RankingLoss = Callable[..., Tensor]


def bradley_terry(rewards: Tensor, wins: Tensor, margins: Tensor | None = None, *, margin_scale: float = 1.0) -> Tensor:
    """Negative log-likelihood of the comparisons under Bradley-Terry (1952), averaged over each prompt's pairs.

        loss_p = - Σ_ij w_ij log σ(r_i - r_j - s·m_ij) / Σ_ij w_ij        (Ouyang et al. 2022, eq. 1)

    With K = 2 and one comparison this is -log σ(r_chosen - r_rejected). A tie is no comparison here.

    Args:
        rewards: (P, K); padding may hold any finite value.
        wins: (P, K, K), w_ij >= 0 says how much response i beat j; fractions are soft labels.
        margins: (P, K, K) or None; how much better than j an annotator called i (Touvron et al. 2023, eq. 2). NaN where
            nobody said, and there no margin is asked for.
        margin_scale: s, what one unit of the stated margins is in units of reward.

    Returns:
        (P,) losses in nats; 0 for a prompt without comparisons, which the caller leaves out of the mean.
    """
    difference = _differences(rewards)
    if margins is not None:
        difference = difference - margin_scale * margins.nan_to_num(nan=0.0)
    return -(_shares(wins) * functional.logsigmoid(difference)).sum(dim=(1, 2))


def plackett_luce(rewards: Tensor, tiers: Tensor, tier_weights: Tensor) -> Tensor:
    """Negative log-likelihood of tiers under Plackett-Luce (Luce 1959; Plackett 1975), ties by Efron's rule.

    A strict order is a sequence of choices of the best among those that are left:

        P(1 ≻ 2 ≻ ... ≻ K) = Π_i α_i / Σ_{l: tier_l >= tier_i} α_l            (Turner et al. 2020, eq. 1)

    A tier T of k tied responses is chosen in k steps without saying in which order, so the m-th of them is chosen while
    the share m/k of its tier is already gone (Efron 1977, as in the partial likelihood of Cox's model):

        P(T before the rest R) = Π_{i in T} α_i / Π_{m=0}^{k-1} (Σ_{l in R} α_l + (1 - m/k) Σ_{l in T} α_l)

    Where the tied responses have equal rewards this is the likelihood of each of the k! strict orders, which then all
    agree; elsewhere a tie pulls its responses together. It has no parameter to choose and costs O(K²). A response that
    an order leaves out takes no part in it.

    The K - 1 choices of an order are independent, so their log-likelihoods are added, not averaged: a longer ranking
    says more. With K = 2 and no tie this is Bradley-Terry.

    Args:
        rewards: (P, K); padding may hold any finite value.
        tiers: (P, J, K) int64.
        tier_weights: (P, J); Σ_j weight_j · (loss of order j) is the prompt's loss.

    Returns:
        (P,) losses in nats; 0 for a prompt without orders.
    """
    mine, other = tiers.unsqueeze(3), tiers.unsqueeze(2)  # (P, J, K, 1), (P, J, 1, K)
    ranked = mine >= 0
    tied = (mine == other) & ranked  # (P, J, K, K), with itself too
    size = tied.sum(dim=3, keepdim=True).clamp_min(1).to(rewards.dtype)  # k
    before = tied.tril(diagonal=-1).sum(dim=3, keepdim=True)  # m: any numbering of a tier gives the same product
    worse = ((other > mine) & ranked).to(rewards.dtype)
    left = torch.where(tied, 1 - before / size, worse)  # how much of l is there to choose from when i is chosen
    left = torch.where(ranked, left, torch.eye(tiers.shape[2], dtype=left.dtype, device=left.device))
    remaining = torch.logsumexp(rewards[:, None, None, :] + left.log(), dim=3)  # (P, J, K); -inf + a reward is left out
    return (tier_weights * (remaining - rewards.unsqueeze(1)).sum(dim=2)).sum(dim=1)


def davidson(rewards: Tensor, wins: Tensor, ties: Tensor, *, nu: float = 1.0) -> Tensor:
    """Bradley-Terry with ties by Davidson (1970), averaged over each prompt's pairs.

        P(i ≻ j) = α_i / (α_i + α_j + ν √(α_i α_j))        P(i ~ j) = ν √(α_i α_j) / (α_i + α_j + ν √(α_i α_j))

    Responses of equal reward tie with probability ν / (2 + ν).

    Args:
        rewards: (P, K); padding may hold any finite value.
        wins: (P, K, K) shares with i above j.
        ties: (P, K, K) shares with a tie, symmetric.
        nu: how common ties are, > 0.

    Returns:
        (P,) losses in nats; 0 for a prompt without comparisons. Raises ValueError unless nu > 0.
    """
    if not nu > 0:
        raise ValueError(f"davidson: nu must be positive, not {nu}")
    half = _differences(rewards) / 2  # P(i ≻ j) = e^(d/2) / (e^(d/2) + e^(-d/2) + ν), d = r_i - r_j
    total = torch.logsumexp(torch.stack([half, -half, torch.full_like(half, math.log(nu))]), dim=0)
    return _tie_aware(wins, ties, half - total, math.log(nu) - total)


def rao_kupper(rewards: Tensor, wins: Tensor, ties: Tensor, *, theta: float = 2.0) -> Tensor:
    """Bradley-Terry with ties by Rao and Kupper (1967), averaged over each prompt's pairs.

        P(i ≻ j) = α_i / (α_i + θ α_j)        P(i ~ j) = (θ² - 1) α_i α_j / ((α_i + θ α_j) (θ α_i + α_j))

    A difference below the threshold ln θ is not seen. Responses of equal reward tie with probability (θ - 1) / (θ + 1).

    Args:
        rewards: (P, K); padding may hold any finite value.
        wins: (P, K, K) shares with i above j.
        ties: (P, K, K) shares with a tie, symmetric.
        theta: e to the threshold, > 1.

    Returns:
        (P,) losses in nats; 0 for a prompt without comparisons. Raises ValueError unless theta > 1.
    """
    if not theta > 1:
        raise ValueError(f"rao_kupper: theta must be above 1, not {theta}")
    difference = _differences(rewards)
    above = functional.logsigmoid(difference - math.log(theta))  # α_i / (α_i + θ α_j) = σ(r_i - r_j - ln θ)
    below = above.transpose(1, 2)
    return _tie_aware(wins, ties, above, above + below + math.log(theta**2 - 1))


RANKING_LOSSES: dict[str, RankingLoss] = {
    "bradley_terry": bradley_terry,
    "plackett_luce": plackett_luce,
    "davidson": davidson,
    "rao_kupper": rao_kupper,
}
KNOWS_TIES = frozenset({"plackett_luce", "davidson", "rao_kupper"})  # a prompt with nothing but ties teaches them too


def tensors_of(loss: str, required: bool = False) -> tuple[str, ...]:
    """The tensors of a batch that a row of RANKING_LOSSES reads beside the rewards, or only those it must have."""
    found = list(signature(RANKING_LOSSES[loss]).parameters.values())[1:]
    return tuple(
        p.name for p in found if p.kind is not Parameter.KEYWORD_ONLY and (p.default is Parameter.empty or not required)
    )


def options_of(loss: str) -> dict[str, float]:
    """The options of a row of RANKING_LOSSES and their defaults."""
    found = signature(RANKING_LOSSES[loss]).parameters.values()
    return {p.name: p.default for p in found if p.kind is Parameter.KEYWORD_ONLY}


def centering(rewards: Tensor, wins: Tensor, ties: Tensor | None = None) -> Tensor:
    """Pulls the rewards of compared responses towards zero mean, which comparisons leave open.

        penalty_p = Σ_ij c_ij (r_i + r_j)² / Σ_ij c_ij        (Eisenstein et al. 2023, eq. 2; as in TRL)

    Args:
        rewards: (P, K); padding may hold any finite value.
        wins: (P, K, K).
        ties: (P, K, K) or None; c_ij = w_ij + t_ij / 2, so that a tied pair weighs as much as a decided one.

    Returns:
        (P,) penalties, 0 for a prompt without comparisons; a coefficient times this is added to a loss.
    """
    compared = wins if ties is None else wins + ties / 2
    together = rewards.unsqueeze(2) + rewards.unsqueeze(1)
    return (_shares(compared) * together.square()).sum(dim=(1, 2))


def with_length(rewards: Tensor, lengths: Tensor, coefficient: float) -> Tensor:
    """What annotators are assumed to have compared: quality plus a liking for length.

        r'_k = r_k + α (ℓ_k - mean ℓ)        (Park et al. 2024: the term α|y_w| - α|y_l| in the logistic)

    A loss of r' leaves r to explain what length does not; only r is used afterwards. AlpacaEval 2 debiases win rates
    in the same way (Dubois et al. 2024). It needs no other prompt, and shifts of a whole prompt cancel in every loss.

    Args:
        rewards: (P, K).
        lengths: (P, K) tokens of the responses, NaN where padded.
        coefficient: α in units of reward per token.

    Returns:
        (P, K); padding as it was.
    """
    centred = lengths - lengths.nanmean(dim=1, keepdim=True)
    return rewards + coefficient * centred.nan_to_num(nan=0.0)


def _differences(rewards: Tensor) -> Tensor:
    """(P, K, K): r_i - r_j."""
    return rewards.unsqueeze(2) - rewards.unsqueeze(1)


def _shares(weights: Tensor) -> Tensor:
    """(P, K, K) weights that add up to 1 in every prompt, or to 0 where there are none."""
    return weights / weights.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def _tie_aware(wins: Tensor, ties: Tensor, log_above: Tensor, log_tied: Tensor) -> Tensor:
    """Cross-entropy of the shares with (P, K, K) log-probabilities, averaged over pairs; `ties` counts a pair twice."""
    total = (wins + ties / 2).sum(dim=(1, 2)).clamp_min(torch.finfo(wins.dtype).tiny)
    return -(wins * log_above + ties / 2 * log_tied).sum(dim=(1, 2)) / total
