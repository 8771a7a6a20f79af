"""Losses on pairs of responses. Adding a DPO variant is one function and one row of DPO_LOSSES.

Every loss takes the log-probabilities of P pairs and returns (P,) losses. Its other positional arguments are (P,)
tensors of the batch, under the batch's names; its keyword-only arguments are options (`tensors_of`, `options_of`).

    u_w = πθ(y_w|x) / πref(y_w|x), u_l likewise: the ratios to the reference of the chosen (y_w) and rejected response
    f': from `losses.divergences`, ln unless said otherwise; it serves losses of the difference f'(u_w) - f'(u_l),
        from which the reward's unknown β·log Z(x) has dropped out
    β:  strength of the pull towards the reference, > 0

Names, and values where TRL 1.16 has the loss, are TRL's. `alignment.training.losses.pair_options` says what goes with
what.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from math import log, log1p

import torch
from torch import Tensor
from torch.nn import functional

from alignment.training.losses.divergences import LARGEST_EXPONENT, Divergence, reverse_kl
from alignment.training.losses.pair_logps import PairLogps, logistic
from alignment.training.losses.pair_options import REFERENCE_FREE
from alignment.training.losses.unreferenced import cpo, orpo, sft, simpo

DPOLoss = Callable[..., Tensor]


def sigmoid(
    logps: PairLogps,
    soft_labels: Tensor | None = None,
    margins: Tensor | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    margin_scale: float = 1.0,
    f_divergence: Divergence = reverse_kl,
) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7): logistic regression on preferences.

        L = -p log σ(z) - (1 - p) log σ(-z),    z = β (f'(u_w) - f'(u_l)) - s·m

    Args:
        logps: (P,) each.
        soft_labels: p, the share of annotators that prefer y_w; takes the place of label smoothing. None: p = 1 - ε.
        margins: m, how much better y_w was called (ODPO, Amini et al. 2024, arXiv:2402.10571); NaN where nobody said,
            and there no margin is asked for.
        beta: β.
        label_smoothing: ε, the probability that a preference was recorded the wrong way round (cDPO, Mitchell 2023).
        margin_scale: s, what one unit of the stated margins is in units of reward.
        f_divergence: f'.

    Returns:
        (P,) nats.
    """
    logits = beta * _difference(logps, f_divergence)
    if margins is not None:
        logits = logits - margin_scale * margins.nan_to_num(nan=0.0)
    return logistic(logits, 1 - label_smoothing if soft_labels is None else soft_labels)


def sigmoid_norm(logps: PairLogps, *, beta: float = 0.1, f_divergence: Divergence = reverse_kl) -> Tensor:
    """Length-normalised DPO (Lambert et al. 2024, "Tülu 3", arXiv:2411.15124).

    -log σ(β (f'(u_w)/|y_w| - f'(u_l)/|y_l|))
    """
    return logistic(beta * _difference_per_token(logps, f_divergence))


def hinge(logps: PairLogps, *, beta: float = 0.1, f_divergence: Divergence = reverse_kl) -> Tensor:
    """SLiC's hinge (Zhao et al. 2023, arXiv:2305.10425) on log-ratios, as in RSO (Liu et al. 2023, arXiv:2309.06657).

    max(0, 1 - β (f'(u_w) - f'(u_l)))
    """
    return torch.relu(1 - beta * _difference(logps, f_divergence))


def ipo(logps: PairLogps, *, beta: float = 0.1, f_divergence: Divergence = reverse_kl) -> Tensor:
    """IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17): (f'(u_w)/|y_w| - f'(u_l)/|y_l| - 1/(2β))²; β is the paper's τ.

    Log-ratios are averaged over tokens. The paper does not say so; its authors confirmed it to TRL's, and TRL does it.
    """
    return (_difference_per_token(logps, f_divergence) - 1 / (2 * beta)).square()


def robust(
    logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0, f_divergence: Divergence = reverse_kl
) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, arXiv:2403.00409): DPO's loss without the bias of labels flipped at rate ε.

        (-(1 - ε) log σ(z) + ε log σ(-z)) / (1 - 2ε),    z = β (f'(u_w) - f'(u_l))

    Raises ValueError unless 0 <= ε < 1/2.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"robust: label_smoothing must lie in [0, 0.5), not {label_smoothing}")
    logits = beta * _difference(logps, f_divergence)
    kept, flipped = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return (label_smoothing * flipped - (1 - label_smoothing) * kept) / (1 - 2 * label_smoothing)


def exo_pair(
    logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 1e-3, f_divergence: Divergence = reverse_kl
) -> Tensor:
    """EXO on pairs (Ji et al. 2024, arXiv:2402.00856, eq. 16): the KL from the policy's choice to the annotators'.

        σ(z) (log σ(z) - log(1 - ε)) + σ(-z) (log σ(-z) - log ε),    z = β (f'(u_w) - f'(u_l))

    Raises ValueError unless 0 < ε < 1.
    """
    if not 0 < label_smoothing < 1:
        raise ValueError(f"exo_pair: label_smoothing must lie in (0, 1), not {label_smoothing}")
    logits = beta * _difference(logps, f_divergence)
    won = torch.sigmoid(logits) * (functional.logsigmoid(logits) - log1p(-label_smoothing))
    return won + torch.sigmoid(-logits) * (functional.logsigmoid(-logits) - log(label_smoothing))


def discopop(
    logps: PairLogps, *, beta: float = 0.1, discopop_tau: float = 0.05, f_divergence: Divergence = reverse_kl
) -> Tensor:
    """DiscoPOP (Lu et al. 2024, arXiv:2406.08414, eq. 5): a blend of logistic and exponential loss found by a model.

    (1 - m) (-log σ(z)) + m e^(-z),    m = σ(z/τ),    z = β (f'(u_w) - f'(u_l))
    """
    logits = beta * _difference(logps, f_divergence)
    mix = torch.sigmoid(logits / discopop_tau)
    return (1 - mix) * logistic(logits) + mix * torch.exp((-logits).clamp(max=LARGEST_EXPONENT))


def dpop(logps: PairLogps, *, beta: float = 0.1, dpop_lambda: float = 50.0) -> Tensor:
    """DPO-positive (Pal et al. 2024, "Smaug", arXiv:2402.13228, eq. 3): chosen must not become less likely.

    -log σ(β (ln u_w - ln u_l - λ max(0, -ln u_w)))
    """
    penalty = torch.relu(-logps.chosen_ratio)  # max(0, log πref(y_w) / πθ(y_w))
    return logistic(beta * (logps.chosen_ratio - logps.rejected_ratio - dpop_lambda * penalty))


def nca_pair(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """NCA on pairs (Chen et al. 2024, arXiv:2402.05369): noise contrast of each response by itself, r = β ln u.

    -log σ(r_w) - 1/2 log σ(-r_w) - 1/2 log σ(-r_l)
    """
    chosen, rejected = beta * logps.chosen_ratio, beta * logps.rejected_ratio
    return logistic(chosen) + 0.5 * logistic(-chosen) + 0.5 * logistic(-rejected)


def bco_pair(logps: PairLogps, *, beta: float = 0.1, reward_shift: bool = False) -> Tensor:
    """BCO on pairs (Jung et al. 2024, arXiv:2404.04656): a classifier of good and bad responses, r = β ln u.

        -log σ(r_w - δ) - log σ(-(r_l - δ))

    δ is 0 as in TRL, or with `reward_shift` the mean reward of the batch, without gradient: the paper's reward shift,
    whose mean runs over all batches so far. The batch's own mean needs no state and is the same in the first batch; an
    evaluation in batches of another size gives another loss.
    """
    chosen, rejected = beta * logps.chosen_ratio, beta * logps.rejected_ratio
    shift = torch.cat([chosen, rejected]).mean().detach() if reward_shift else 0.0
    return logistic(chosen - shift) + logistic(-(rejected - shift))


def sppo_hard(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """SPPO with hard labels (Wu et al. 2024, arXiv:2405.00675, eq. 4.7 with P = 1 and 0); β is the paper's 1/η.

    (ln u_w - 1/(2β))² + (ln u_l + 1/(2β))²
    """
    return (logps.chosen_ratio - 0.5 / beta).square() + (logps.rejected_ratio + 0.5 / beta).square()


def apo_zero(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7), for chosen responses better than the model's own.

    1 - σ(β ln u_w) + σ(β ln u_l): chosen up, rejected down
    """
    return torch.sigmoid(-beta * logps.chosen_ratio) + torch.sigmoid(beta * logps.rejected_ratio)


def apo_down(logps: PairLogps, *, beta: float = 0.1) -> Tensor:
    """APO-down (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8), for chosen responses worse than the model's own.

    σ(β ln u_w) + 1 - σ(β (ln u_w - ln u_l)): chosen down, rejected further down
    """
    difference = logps.chosen_ratio - logps.rejected_ratio
    return torch.sigmoid(beta * logps.chosen_ratio) + torch.sigmoid(-beta * difference)


def aot(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """AOT on pairs (Melnyk et al. 2024, arXiv:2406.05882): the policy's preference gaps dominate the reference's.

        -log σ(β (q_k(log πθ(y_w)/πθ(y_l)) - q_k(log πref(y_w)/πref(y_l))))

    q_k is the k-th smallest of the batch: losses belong to quantiles, and the (P,) returned to no single pair. An
    evaluation in batches of another size gives another loss.
    """
    ref_chosen, ref_rejected = logps.reference
    policy, reference = (logps.chosen - logps.rejected).sort().values, (ref_chosen - ref_rejected).sort().values
    return logistic(beta * (policy - reference), 1 - label_smoothing)


def aot_unpaired(logps: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """AOT on two unpaired sets (Melnyk et al. 2024): the rewards of the chosen dominate those of the rejected.

    -log σ(β (q_k(ln u_w) - q_k(ln u_l))), with q_k as in `aot`
    """
    chosen, rejected = logps.chosen_ratio.sort().values, logps.rejected_ratio.sort().values
    return logistic(beta * (chosen - rejected), 1 - label_smoothing)


DPO_LOSSES: dict[str, DPOLoss] = {
    "sigmoid": sigmoid,
    "sigmoid_norm": sigmoid_norm,
    "hinge": hinge,
    "ipo": ipo,
    "robust": robust,
    "exo_pair": exo_pair,
    "discopop": discopop,
    "dpop": dpop,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "simpo": simpo,
    "cpo": cpo,
    "orpo": orpo,
    "sft": sft,
}
PER_TOKEN_REWARDS = frozenset({"simpo", "orpo"})


def tensors_of(loss: str) -> tuple[str, ...]:
    """The tensors that a row of DPO_LOSSES reads beside the log-probabilities."""
    found = list(signature(DPO_LOSSES[loss]).parameters.values())[1:]
    return tuple(p.name for p in found if p.kind is not Parameter.KEYWORD_ONLY)


def options_of(loss: str) -> dict[str, object]:
    """The options of a row of DPO_LOSSES and their defaults."""
    found = signature(DPO_LOSSES[loss]).parameters.values()
    return {p.name: p.default for p in found if p.kind is Parameter.KEYWORD_ONLY}


def implicit_rewards(loss: str, logps: PairLogps, beta: float) -> tuple[Tensor, Tensor]:
    """(P,) rewards of chosen and rejected that a loss speaks of, without gradient, as TRL logs them.

    β ln u (Rafailov et al. 2023, eq. 5); without a reference β log πθ(y), for SimPO and ORPO per token.
    """
    if loss not in REFERENCE_FREE:
        chosen, rejected = logps.chosen_ratio, logps.rejected_ratio
    elif loss in PER_TOKEN_REWARDS:
        chosen, rejected = logps.chosen / logps.chosen_tokens, logps.rejected / logps.rejected_tokens
    else:
        chosen, rejected = logps.chosen, logps.rejected
    return beta * chosen.detach(), beta * rejected.detach()


def _difference(logps: PairLogps, f_divergence: Divergence) -> Tensor:
    return f_divergence(logps.chosen_ratio) - f_divergence(logps.rejected_ratio)


def _difference_per_token(logps: PairLogps, f_divergence: Divergence) -> Tensor:
    chosen = f_divergence(logps.chosen_ratio) / logps.chosen_tokens
    return chosen - f_divergence(logps.rejected_ratio) / logps.rejected_tokens
