import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from reward.losses import RANKING_LOSSES, bradley_terry, centering, with_length


def wins_of(p: int, k: int, *beats: tuple[int, int, int]) -> torch.Tensor:
    wins = torch.zeros(p, k, k)
    for prompt, i, j in beats:
        wins[prompt, i, j] = 1.0
    return wins


def test_a_pair_is_minus_log_sigmoid_of_the_difference() -> None:
    rewards = torch.tensor([[1.0, -0.5], [0.2, 0.9]])
    losses = bradley_terry(rewards, wins_of(2, 2, (0, 0, 1), (1, 0, 1)))
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-1.5)), math.log1p(math.exp(0.7))])


def test_equal_rewards_cost_ln_2() -> None:
    losses = bradley_terry(torch.full((1, 4), 3.0), wins_of(1, 4, (0, 0, 1), (0, 1, 2), (0, 3, 0)))
    assert losses.item() == pytest.approx(math.log(2))


def test_a_ranking_of_four_is_the_mean_over_its_six_pairs() -> None:
    rewards = torch.tensor([[0.3, 1.2, -0.7, 0.1]])
    order = [2, 0, 3, 1]  # best first
    pairs = [(order[a], order[b]) for a in range(4) for b in range(a + 1, 4)]
    losses = bradley_terry(rewards, wins_of(1, 4, *[(0, i, j) for i, j in pairs]))
    expected = sum(math.log1p(math.exp(-(rewards[0, i] - rewards[0, j]))) for i, j in pairs) / 6
    assert losses.item() == pytest.approx(float(expected))


def test_soft_labels_are_a_cross_entropy() -> None:
    wins = torch.tensor([[[0.0, 3.0], [1.0, 0.0]]])  # three of four annotators preferred the first
    losses = bradley_terry(torch.tensor([[0.8, 0.3]]), wins)
    p = 1 / (1 + math.exp(-0.5))
    assert losses.item() == pytest.approx(-0.75 * math.log(p) - 0.25 * math.log(1 - p))


def test_padding_and_prompts_without_comparisons_add_nothing() -> None:
    rewards = torch.tensor([[1.0, 0.0, 9e9], [5.0, -5.0, 0.0]], requires_grad=True)
    losses = bradley_terry(rewards, wins_of(2, 3, (0, 0, 1)))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses[0].item() == pytest.approx(math.log1p(math.exp(-1.0)))
    assert losses[1].item() == 0.0
    assert rewards.grad is not None
    assert rewards.grad[0, 2] == 0
    assert not rewards.grad[1].any()


def test_margins_by_hand() -> None:
    rewards, wins = torch.tensor([[2.0, 0.5, 0.0]]), wins_of(1, 3, (0, 0, 1), (0, 1, 2))
    margins = torch.full((1, 3, 3), math.nan)
    margins[0, 0, 1] = 0.5  # nobody said how much better 1 is than 2
    losses = bradley_terry(rewards, wins, margins, margin_scale=2.0)
    assert losses.item() == pytest.approx((math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-0.5))) / 2)
    margins[0, 1, 2] = 3.0
    assert bradley_terry(rewards, wins, margins).item() > losses.item()


def test_centering_by_hand() -> None:
    rewards = torch.tensor([[2.0, 0.5, -1.0]])
    wins, ties = wins_of(1, 3, (0, 0, 1)), wins_of(1, 3, (0, 1, 2), (0, 2, 1))
    assert centering(rewards, wins).item() == pytest.approx(2.5**2)
    assert centering(rewards, wins, ties).item() == pytest.approx((2.5**2 + 0.5**2) / 2)
    assert centering(rewards, torch.zeros(1, 3, 3)).item() == 0.0


def test_length_explains_its_part_of_a_comparison() -> None:
    rewards = torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]])
    lengths = torch.tensor([[10.0, 30.0, math.nan], [1.0, 2.0, 6.0]])
    moved = with_length(rewards, lengths, 0.1)
    assert moved.tolist() == [pytest.approx([0.0, 3.0, 9.0]), pytest.approx([-0.2, -0.1, 0.3])]
    chosen_is_longer = bradley_terry(with_length(torch.zeros(1, 2), lengths[:1, :2], 0.1), wins_of(1, 2, (0, 1, 0)))
    assert chosen_is_longer.item() == pytest.approx(math.log1p(math.exp(-0.1 * 20)))  # Park et al.: α|y_w| - α|y_l|
    assert torch.equal(with_length(rewards, lengths, 0.0), rewards)


@pytest.mark.parametrize("gap", [500.0, -500.0])
def test_large_differences_stay_finite(gap: float) -> None:
    rewards = torch.tensor([[gap, 0.0]], requires_grad=True)
    losses = bradley_terry(rewards, wins_of(1, 2, (0, 0, 1)))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.item() == pytest.approx(max(0.0, -gap))
    assert rewards.grad is not None
    assert rewards.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.permutations(range(4)), st.floats(-3, 3), st.floats(0.1, 9)
)
def test_order_of_responses_common_shift_and_scale_of_weights_do_not_matter(
    values: list[float], order: list[int], shift: float, scale: float
) -> None:
    rewards = torch.tensor([values], dtype=torch.float64)
    wins = wins_of(1, 4, (0, 0, 1), (0, 2, 1), (0, 3, 0)).double()
    losses = bradley_terry(rewards, wins)
    moved = bradley_terry(rewards[:, order] + shift, scale * wins[:, order][:, :, order])
    assert moved.item() == pytest.approx(losses.item(), abs=1e-9)


def test_two_responses_equal_trl() -> None:
    """TRL's RewardTrainer computes -logsigmoid(chosen - rejected - margin).mean() + c mean((chosen + rejected)²)."""
    chosen, rejected = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    margin = torch.rand(8)
    theirs = -logsigmoid(chosen - rejected - margin).mean() + 0.1 * torch.mean((chosen + rejected) ** 2)
    wins = wins_of(8, 2, *[(p, 0, 1) for p in range(8)])
    rewards = torch.stack([chosen, rejected], dim=1)
    losses = bradley_terry(rewards, wins, margin.view(8, 1, 1).expand(8, 2, 2))
    ours = (losses + 0.1 * centering(rewards, wins)).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    for a, b in zip(
        torch.autograd.grad(ours, (chosen, rejected)), torch.autograd.grad(theirs, (chosen, rejected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_several_annotators_equal_their_votes_expanded_to_pairs() -> None:
    """TRL has no soft labels: four votes would be four rows."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(1, 2, generator=generator, requires_grad=True)
    wins = torch.tensor([[[0.0, 0.75], [0.25, 0.0]]])
    ours = bradley_terry(rewards, wins)
    a, b = rewards[0]
    theirs = -torch.stack([logsigmoid(d) for d in (a - b, a - b, a - b, b - a)]).mean()
    torch.testing.assert_close(ours[0], theirs)
    for one, two in zip(torch.autograd.grad(ours.sum(), rewards), torch.autograd.grad(theirs, rewards), strict=True):
        torch.testing.assert_close(one, two)


def test_the_table_names_the_functions() -> None:
    for name, loss in RANKING_LOSSES.items():
        assert loss.__name__ == name  # type: ignore[attr-defined]
