"""Losses on pairs that need no reference policy. Their rows are in `losses.pairs.DPO_LOSSES`.

Signatures are those of `losses.pairs`. `nll` (P,) is -log πθ of what is imitated, in nats, of `nll_tokens` (P,) tokens;
`weights` (P,) are those of the pairs, None: all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from alignment.training.losses.pair_logps import PairLogps, logistic


def simpo(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0, simpo_gamma: float = 0.5) -> Tensor:
    """SimPO (Meng et al. 2024, arXiv:2405.14734, eq. 6); its authors take β from 2 to 2.5 and γ from 0.3 to 1.6.

    -log σ(β/|y_w| log πθ(y_w) - β/|y_l| log πθ(y_l) - γ)
    """
    difference = logps.chosen / logps.chosen_tokens - logps.rejected / logps.rejected_tokens
    return logistic(beta * difference - simpo_gamma, 1 - label_smoothing)


def cpo(
    logps: PairLogps,
    nll: Tensor,
    nll_tokens: Tensor,
    weights: Tensor | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    cpo_alpha: float = 1.0,
    nll_average: str = "tokens",
) -> Tensor:
    """CPO (Xu et al. 2024, arXiv:2401.08417, eq. 3), with TRL's weight of the second term.

    -log σ(β (log πθ(y_w) - log πθ(y_l))) + α NLL(y_w)
    """
    preference = logistic(beta * (logps.chosen - logps.rejected), 1 - label_smoothing)
    return preference + cpo_alpha * imitation(nll, nll_tokens, weights, nll_average)


def orpo(
    logps: PairLogps,
    nll: Tensor,
    nll_tokens: Tensor,
    weights: Tensor | None = None,
    *,
    beta: float = 0.1,
    nll_average: str = "tokens",
) -> Tensor:
    """ORPO (Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7); β is the paper's λ.

    NLL - β log σ(log odds(y_w) - log odds(y_l))

    Over what the NLL goes is the caller's business: the authors' code and TRL take prompt and response.
    """
    return imitation(nll, nll_tokens, weights, nll_average) - beta * functional.logsigmoid(log_odds_ratio(logps))


def log_odds_ratio(logps: PairLogps) -> Tensor:
    """log odds(y_w) / odds(y_l), odds = P / (1 - P), P = exp(log πθ(y) / |y|) (Hong et al. 2024, eq. 4); (P,)."""
    chosen = (logps.chosen / logps.chosen_tokens).clamp(max=-1e-7)  # a certain response has no finite odds
    rejected = (logps.rejected / logps.rejected_tokens).clamp(max=-1e-7)
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def sft(
    logps: PairLogps, nll: Tensor, nll_tokens: Tensor, weights: Tensor | None = None, *, nll_average: str = "tokens"
) -> Tensor:
    """NLL of the chosen response, to be mixed into another loss (RPO, Pang et al. 2024, arXiv:2404.19733, eq. 1)."""
    return imitation(nll, nll_tokens, weights, nll_average)


def imitation(nll: Tensor, nll_tokens: Tensor, weights: Tensor | None, average: str) -> Tensor:
    """(P,) negative log-likelihoods per token.

    `tokens`: over the batch's tokens per pair, so that the pairs' mean is Σ nll / Σ tokens as in TRL, with weights
    Σ w·nll / Σ w·tokens; over several batches that mean is no mean of theirs (see `pair_scores.nll_sums`).
    `responses`: each over its own, as in the RPO paper; pairs do not depend on each other.
    """
    if average == "responses":
        return nll / nll_tokens
    weights = torch.ones_like(nll) if weights is None else weights
    return nll * weights.sum() / (weights * nll_tokens).sum()


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, without cancellation."""
    return torch.where(x < -0.6931471805599453, torch.log1p(-x.exp()), torch.log(-torch.expm1(x)))
