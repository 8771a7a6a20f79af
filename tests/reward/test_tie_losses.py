"""Davidson and Rao-Kupper: Bradley-Terry with a probability for a tie."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reward.losses import bradley_terry, davidson, rao_kupper

FIRST, SECOND, TIE = ([[0.0, 1.0], [0.0, 0.0]], 0.0), ([[0.0, 0.0], [1.0, 0.0]], 0.0), ([[0.0] * 2] * 2, 1.0)


def loss_of(
    loss: Callable[..., Tensor], rewards: list[float], outcome: tuple[list[list[float]], float], **o: float
) -> float:
    wins, tie = outcome
    ties = torch.tensor([[[0.0, tie], [tie, 0.0]]], dtype=torch.float64)
    return float(
        loss(torch.tensor([rewards], dtype=torch.float64), torch.tensor([wins], dtype=torch.float64), ties, **o)
    )


@pytest.mark.parametrize("nu", [0.2, 1.0, 3.0])
def test_davidson_by_hand(nu: float) -> None:
    a, b = math.exp(0.8), math.exp(-0.3)
    total = a + b + nu * math.sqrt(a * b)
    for outcome, worth in ((FIRST, a), (SECOND, b), (TIE, nu * math.sqrt(a * b))):
        assert loss_of(davidson, [0.8, -0.3], outcome, nu=nu) == pytest.approx(-math.log(worth / total))


@pytest.mark.parametrize("theta", [1.1, 2.0, 4.0])
def test_rao_kupper_by_hand(theta: float) -> None:
    a, b = math.exp(0.8), math.exp(-0.3)
    tie = (theta**2 - 1) * a * b / ((a + theta * b) * (theta * a + b))
    for outcome, probability in ((FIRST, a / (a + theta * b)), (SECOND, b / (b + theta * a)), (TIE, tie)):
        assert loss_of(rao_kupper, [0.8, -0.3], outcome, theta=theta) == pytest.approx(-math.log(probability))


@pytest.mark.parametrize(("loss", "options"), [(davidson, {"nu": 0.7}), (rao_kupper, {"theta": 1.7})])
@pytest.mark.parametrize("difference", [-40.0, -1.0, 0.0, 2.5, 40.0])
def test_the_three_outcomes_have_probability_1(
    loss: Callable[..., Tensor], options: dict[str, float], difference: float
) -> None:
    total = sum(math.exp(-loss_of(loss, [difference, 0.0], outcome, **options)) for outcome in (FIRST, SECOND, TIE))
    assert total == pytest.approx(1.0)


def test_equal_rewards_tie_as_often_as_documented() -> None:
    assert math.exp(-loss_of(davidson, [1.0, 1.0], TIE, nu=0.5)) == pytest.approx(0.5 / 2.5)
    assert math.exp(-loss_of(rao_kupper, [1.0, 1.0], TIE, theta=3.0)) == pytest.approx(2 / 4)
    for loss in (davidson, rao_kupper):  # the defaults: all three outcomes are equally likely
        assert math.exp(-loss_of(loss, [1.0, 1.0], TIE)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("loss", "option"), [(davidson, {"nu": 1e-9}), (rao_kupper, {"theta": 1 + 1e-9})])
def test_without_room_for_ties_both_are_bradley_terry(loss: Callable[..., Tensor], option: dict[str, float]) -> None:
    rewards = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wins = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).triu(1)
    torch.testing.assert_close(loss(rewards, wins, torch.zeros_like(wins), **option), bradley_terry(rewards, wins))


@pytest.mark.parametrize("loss", [davidson, rao_kupper])
def test_pairs_of_a_prompt_are_averaged_by_their_shares(loss: Callable[..., Tensor]) -> None:
    rewards = torch.tensor([[0.5, -1.0, 0.2]], requires_grad=True)
    wins, ties = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    wins[0, 0, 1], wins[0, 1, 0] = 0.5, 0.25  # of four annotators two, one, and one who calls it a tie
    ties[0, 0, 1] = ties[0, 1, 0] = 0.25
    ties[0, 1, 2] = ties[0, 2, 1] = 1.0
    a, b = [0.5, -1.0], [-1.0, 0.2]
    expected = (
        0.5 * loss_of(loss, a, FIRST) + 0.25 * loss_of(loss, a, SECOND) + 0.25 * loss_of(loss, a, TIE)
    ) / 2 + loss_of(loss, b, TIE) / 2
    found = loss(rewards, wins, ties)
    assert found.item() == pytest.approx(expected)
    assert loss(rewards, torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)).item() == 0.0


@pytest.mark.parametrize("loss", [davidson, rao_kupper])
@pytest.mark.parametrize("gap", [1e4, -1e4, 0.0])
def test_extreme_rewards_stay_finite(loss: Callable[..., Tensor], gap: float) -> None:
    rewards = torch.tensor([[gap, 0.0, 9e9]], requires_grad=True)  # the third is padding
    wins, ties = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    wins[0, 0, 1] = ties[0, 0, 1] = ties[0, 1, 0] = 0.5
    value = loss(rewards, wins, ties)
    (gradient,) = torch.autograd.grad(value.sum(), rewards)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[0, 2] == 0.0


def test_a_tie_pulls_two_responses_together() -> None:
    rewards = torch.tensor([[1.0, 0.0]], requires_grad=True)
    for loss in (davidson, rao_kupper):
        (gradient,) = torch.autograd.grad(loss(rewards, torch.zeros(1, 2, 2), torch.ones(1, 2, 2)).sum(), rewards)
        assert gradient[0, 0] > 0 > gradient[0, 1]


@pytest.mark.parametrize(
    ("loss", "option", "message"),
    [(davidson, {"nu": 0.0}, "nu must be positive"), (rao_kupper, {"theta": 1.0}, "theta must be above 1")],
)
def test_a_tie_parameter_out_of_range_is_an_error(
    loss: Callable[..., Tensor], option: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(1, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), **option)
