"""Plackett-Luce against the product formula written out by hand."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.losses import bradley_terry, plackett_luce

Order = Sequence[int]  # tier of each response, -1 = left out


def loss_of(rewards: Sequence[float], *orders: Order) -> float:
    tiers = torch.tensor([orders])
    weights = torch.full((1, len(orders)), 1 / len(orders), dtype=torch.float64)
    return float(plackett_luce(torch.tensor([rewards], dtype=torch.float64), tiers, weights))


def by_hand(rewards: Sequence[float], order: Order) -> float:
    """-log of the product: tiers best first, each tied response with its tier partly gone."""
    worths = [math.exp(r) for r in rewards]
    probability = 1.0
    for tier in sorted(set(order) - {-1}):
        tied = [i for i, t in enumerate(order) if t == tier]
        rest = sum(w for w, t in zip(worths, order, strict=True) if t > tier)
        for gone, i in enumerate(tied):
            left = sum(worths[j] for j in tied) * (1 - gone / len(tied))
            probability *= worths[i] / (rest + left)
    return -math.log(probability)


@pytest.mark.parametrize("k", [3, 4])
def test_strict_orders_are_the_product_of_choices_and_their_probabilities_add_up_to_1(k: int) -> None:
    rewards = [0.3, -1.2, 0.9, 2.0][:k]
    total = 0.0
    for best_first in itertools.permutations(range(k)):
        expected = 1.0
        for position, i in enumerate(best_first):
            expected *= math.exp(rewards[i]) / sum(math.exp(rewards[j]) for j in best_first[position:])
        order = [best_first.index(i) for i in range(k)]
        loss = loss_of(rewards, order)
        assert loss == pytest.approx(-math.log(expected))
        total += math.exp(-loss)
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(
    "order",
    [[0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1, 1], [2, 0, 0, 0], [1, 0, 1, 2], [0, -1, 1, 1], [-1, -1, 0, 0]],
)
def test_ties_and_partial_orders_equal_efrons_product(order: list[int]) -> None:
    rewards = [0.3, -1.2, 0.9, 2.0][: len(order)]
    assert loss_of(rewards, order) == pytest.approx(by_hand(rewards, order))


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0]])
def test_a_tie_of_equal_responses_costs_what_any_order_of_them_costs(order: list[int]) -> None:
    rewards = [0.7 if tier == order[-1] or order.count(tier) > 1 else -0.4 for tier in order]
    strict = sorted(range(len(order)), key=lambda i: order[i])
    assert loss_of(rewards, order) == pytest.approx(loss_of(rewards, [strict.index(i) for i in range(len(order))]))


def test_two_responses_equal_bradley_terry_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = (3 * torch.randn(32, 2, generator=generator)).requires_grad_()
    first_wins = torch.arange(32) % 2 == 0
    wins = torch.zeros(32, 2, 2)
    wins[first_wins, 0, 1] = 1.0
    wins[~first_wins, 1, 0] = 1.0
    tiers = torch.stack([(~first_wins).long(), first_wins.long()], dim=1).unsqueeze(1)
    expected, found = bradley_terry(rewards, wins), plackett_luce(rewards, tiers, torch.ones(32, 1))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), rewards)
    (gradient,) = torch.autograd.grad(found.sum(), rewards)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


def test_several_annotators_are_averaged_and_padding_adds_nothing() -> None:
    rewards = torch.tensor([[0.5, -0.5, 1.0], [2.0, 1.0, 9e9]], requires_grad=True)
    tiers = torch.tensor([[[0, 1, 2], [2, 1, 0]], [[0, 1, -1], [-1, -1, -1]]])
    losses = plackett_luce(rewards, tiers, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    first = (by_hand([0.5, -0.5, 1.0], [0, 1, 2]) + by_hand([0.5, -0.5, 1.0], [2, 1, 0])) / 2
    assert losses.tolist() == pytest.approx([first, math.log1p(math.exp(-1.0))])
    (gradient,) = torch.autograd.grad(losses.sum(), rewards)
    assert gradient[1, 2] == 0.0
    assert gradient.isfinite().all()


def test_a_response_left_out_of_an_order_is_not_last() -> None:
    rewards = torch.tensor([[1.0, 0.0, 5.0]], requires_grad=True)
    left_out = plackett_luce(rewards, torch.tensor([[[0, 1, -1]]]), torch.ones(1, 1))
    last = plackett_luce(rewards, torch.tensor([[[0, 1, 2]]]), torch.ones(1, 1))
    assert torch.autograd.grad(left_out.sum(), rewards)[0][0, 2] == 0.0
    assert torch.autograd.grad(last.sum(), rewards)[0][0, 2] > 0.0


def test_a_tie_pulls_its_responses_together() -> None:
    rewards = torch.tensor([[1.0, -1.0, -1.0]], requires_grad=True)
    all_tied = plackett_luce(rewards, torch.tensor([[[0, 0, 0]]]), torch.ones(1, 1))
    (gradient,) = torch.autograd.grad(all_tied.sum(), rewards)
    assert gradient[0, 0] > 0  # descent lowers the one that stands out
    assert gradient[0, 1] == gradient[0, 2] < 0


@pytest.mark.parametrize("rewards", [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [0, 0, 1], [0, 0, 0], [0, -1, 1]])
def test_extreme_rewards_stay_finite(rewards: list[float], order: list[int]) -> None:
    values = torch.tensor([rewards], requires_grad=True)
    loss = plackett_luce(values, torch.tensor([[order]]), torch.ones(1, 1))
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@settings(max_examples=50)
@given(
    st.lists(st.floats(-5, 5), min_size=5, max_size=5),
    st.lists(st.integers(-1, 3), min_size=5, max_size=5),
    st.permutations(range(5)),
    st.floats(-3, 3),
)
def test_order_of_responses_and_a_common_shift_do_not_matter(
    rewards: list[float], order: list[int], permutation: list[int], shift: float
) -> None:
    moved = loss_of([rewards[i] + shift for i in permutation], [order[i] for i in permutation])
    assert moved == pytest.approx(loss_of(rewards, order), abs=1e-9)
