"""Losses on pairs of responses. Adding a DPO variant is one function and one row of DPO_LOSSES."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

DPOLoss = Callable[..., tuple[Tensor, Tensor, Tensor]]


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023).

    Args:
        policy_chosen_logps: (P,) log πθ(yw | x), nats, summed over the response's tokens; the others likewise.
        beta: strength of the pull towards the reference.
        label_smoothing: probability ε that a preference was recorded the wrong way round (conservative DPO).

    Returns:
        (P,) losses in nats, and the (P,) implicit rewards of chosen and rejected, without gradient.
    """
    chosen_rewards = beta * (policy_chosen_logps - ref_chosen_logps)  # eq. 5: r(x, y) = β log πθ(y|x) / πref(y|x)
    rejected_rewards = beta * (policy_rejected_logps - ref_rejected_logps)
    margin = chosen_rewards - rejected_rewards
    losses = -functional.logsigmoid(margin)  # eq. 7: -log σ(β log πθ/πref (yw) - β log πθ/πref (yl))
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * functional.logsigmoid(-margin)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


DPO_LOSSES: dict[str, DPOLoss] = {
    "sigmoid": dpo_loss,
}
