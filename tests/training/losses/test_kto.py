"""KTO by hand; TRL's trainer is the oracle in tests/training/objectives/test_kto.py."""

import math

import pytest
import torch

from alignment.training.losses.kto import KTO_LOSSES, NEEDS_KL, apo_zero_unpaired, kl_estimate, kto_loss

DESIRABLE = torch.tensor([True, False])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_by_hand() -> None:
    policy, reference = torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -15.0])
    losses, rewards = kto_loss(policy, reference, DESIRABLE, torch.tensor(0.5), 0.2, 1.5, 0.5)
    assert rewards.tolist() == pytest.approx([0.2, 0.6])
    gained = 1.5 - 1.5 * sigmoid(0.2 * (1.0 - 0.5))  # λ_D - λ_D σ(β (r - z0))
    lost = 0.5 - 0.5 * sigmoid(0.2 * (0.5 - 3.0))  # λ_U - λ_U σ(β (z0 - r))
    assert losses.tolist() == pytest.approx([gained, lost])


def test_apo_zero_by_hand_and_as_kto_from_zero() -> None:
    policy, reference = torch.tensor([-10.0, -12.0]), torch.tensor([-11.0, -15.0])
    losses, rewards = apo_zero_unpaired(policy, reference, DESIRABLE, 0.2, 1.5, 0.5)
    assert losses.tolist() == pytest.approx([1.5 * (1 - sigmoid(0.2)), 0.5 * sigmoid(0.6)])
    from_zero = kto_loss(policy, reference, DESIRABLE, torch.tensor(0.0), 0.2, 1.5, 0.5)
    assert losses.tolist() == from_zero[0].tolist()
    assert rewards.tolist() == from_zero[1].tolist()


@pytest.mark.parametrize("name", KTO_LOSSES)
def test_gradients_point_the_right_way_and_stay_finite(name: str) -> None:
    policy = torch.tensor([-3.0, -3.0, -1e4, 1e4], requires_grad=True)
    said = {"kl": torch.tensor(0.1)} if name in NEEDS_KL else {}
    desirable = torch.tensor([True, False, True, False])
    losses, rewards = KTO_LOSSES[name](policy, torch.zeros(4), desirable, beta=1.0, **said)
    (gradient,) = torch.autograd.grad(losses.sum(), policy)
    assert gradient[0] < 0 < gradient[1]
    assert gradient.isfinite().all()
    assert losses.isfinite().all()
    assert not rewards.requires_grad
    assert losses[2:].tolist() == [1.0, 1.0]  # bounded by the weight, however wrong


@pytest.mark.parametrize(("mean", "estimate"), [(0.7, 0.7), (-0.7, 0.0)])
def test_the_estimate_is_clamped_and_not_learned(mean: float, estimate: float) -> None:
    found = kl_estimate(torch.tensor(mean, requires_grad=True))
    assert found.item() == pytest.approx(estimate)
    assert not found.requires_grad
