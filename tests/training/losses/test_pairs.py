"""Losses on pairs by hand, from the formulas of their papers; against TRL: tests/training/objectives/test_pairs.py."""

import math
from typing import Any

import pytest
import torch

from alignment.training.losses import pair_options
from alignment.training.losses.divergences import DIVERGENCES, alpha_divergence, forward_kl, js_divergence, reverse_kl
from alignment.training.losses.pair_logps import PairLogps, length_desensitised, logistic, wpo_weights
from alignment.training.losses.pairs import DPO_LOSSES, implicit_rewards, options_of, tensors_of
from alignment.training.losses.unreferenced import log_odds_ratio

REFERENCED = sorted(set(DPO_LOSSES) - pair_options.REFERENCE_FREE)
# ln u_w = 1 and -0.5, ln u_l = -2 and 0.5, of 4 and 2, 5 and 10 tokens
LOGPS = PairLogps(
    chosen=torch.tensor([-10.0, -4.5]),
    rejected=torch.tensor([-14.0, -7.5]),
    chosen_tokens=torch.tensor([4.0, 2.0]),
    rejected_tokens=torch.tensor([5.0, 10.0]),
    ref_chosen=torch.tensor([-11.0, -4.0]),
    ref_rejected=torch.tensor([-12.0, -8.0]),
)
NLL = {"nll": torch.tensor([10.0, 4.5]), "nll_tokens": torch.tensor([4.0, 2.0])}


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def losses_of(name: str, logps: PairLogps = LOGPS, **given: Any) -> list[float]:
    tensors = {key: value for key, value in NLL.items() if key in tensors_of(name)}
    losses = DPO_LOSSES[name](logps, **tensors, **given)
    assert losses.shape == logps.chosen.shape
    return losses.tolist()


# loss, options, the formula for one pair: u = ln u_w, v = ln u_l, with n and m tokens
BY_HAND: list[tuple[str, dict[str, Any], Any]] = [
    ("sigmoid", {}, lambda u, v, n, m: -log_sigmoid(0.2 * (u - v))),
    (
        "sigmoid",
        {"label_smoothing": 0.1},
        lambda u, v, n, m: -0.9 * log_sigmoid(0.2 * (u - v)) - 0.1 * log_sigmoid(-0.2 * (u - v)),
    ),
    ("sigmoid_norm", {}, lambda u, v, n, m: -log_sigmoid(0.2 * (u / n - v / m))),
    ("hinge", {}, lambda u, v, n, m: max(0.0, 1 - 0.2 * (u - v))),
    ("ipo", {}, lambda u, v, n, m: (u / n - v / m - 2.5) ** 2),
    (
        "robust",
        {"label_smoothing": 0.1},
        lambda u, v, n, m: (-0.9 * log_sigmoid(0.2 * (u - v)) + 0.1 * log_sigmoid(-0.2 * (u - v))) / 0.8,
    ),
    (
        "exo_pair",
        {"label_smoothing": 0.01},
        lambda u, v, n, m: (
            sigmoid(0.2 * (u - v)) * (log_sigmoid(0.2 * (u - v)) - math.log(0.99))
            + sigmoid(-0.2 * (u - v)) * (log_sigmoid(-0.2 * (u - v)) - math.log(0.01))
        ),
    ),
    (
        "discopop",
        {"discopop_tau": 0.5},
        lambda u, v, n, m: (
            (1 - sigmoid(0.4 * (u - v))) * -log_sigmoid(0.2 * (u - v))
            + sigmoid(0.4 * (u - v)) * math.exp(-0.2 * (u - v))
        ),
    ),
    ("dpop", {"dpop_lambda": 5.0}, lambda u, v, n, m: -log_sigmoid(0.2 * (u - v - 5 * max(0.0, -u)))),
    (
        "nca_pair",
        {},
        lambda u, v, n, m: -log_sigmoid(0.2 * u) - 0.5 * log_sigmoid(-0.2 * u) - 0.5 * log_sigmoid(-0.2 * v),
    ),
    ("bco_pair", {}, lambda u, v, n, m: -log_sigmoid(0.2 * u) - log_sigmoid(-0.2 * v)),
    # the mean reward of the batch: 0.2 (1 - 0.5 - 2 + 0.5) / 4 = -0.05
    (
        "bco_pair",
        {"reward_shift": True},
        lambda u, v, n, m: -log_sigmoid(0.2 * u + 0.05) - log_sigmoid(-(0.2 * v + 0.05)),
    ),
    ("sppo_hard", {}, lambda u, v, n, m: (u - 2.5) ** 2 + (v + 2.5) ** 2),
    ("apo_zero", {}, lambda u, v, n, m: 1 - sigmoid(0.2 * u) + sigmoid(0.2 * v)),
    ("apo_down", {}, lambda u, v, n, m: sigmoid(0.2 * u) + 1 - sigmoid(0.2 * (u - v))),
]


@pytest.mark.parametrize(
    ("name", "options", "formula"), BY_HAND, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(BY_HAND)]
)
def test_losses_of_a_pair_by_hand(name: str, options: dict[str, Any], formula: Any) -> None:
    expected = [formula(1.0, -2.0, 4, 5), formula(-0.5, 0.5, 2, 10)]
    assert losses_of(name, beta=0.2, **options) == pytest.approx(expected, rel=1e-5)


def test_aot_compares_quantiles_by_hand() -> None:
    # gaps of the policy: 4 and 3, sorted 3 and 4; of the reference: 1 and 4
    expected = [-log_sigmoid(0.2 * (3 - 1)), -log_sigmoid(0.2 * (4 - 4))]
    assert losses_of("aot", beta=0.2) == pytest.approx(expected)
    smoothed = [0.8 * e - 0.2 * log_sigmoid(-0.2 * d) for e, d in zip(expected, (2, 0), strict=True)]
    assert losses_of("aot", beta=0.2, label_smoothing=0.2) == pytest.approx(smoothed)
    # ln u_w sorted: -0.5 and 1; ln u_l sorted: -2 and 0.5
    expected = [-log_sigmoid(0.2 * 1.5), -log_sigmoid(0.2 * 0.5)]
    assert losses_of("aot_unpaired", beta=0.2) == pytest.approx(expected)


def test_losses_without_a_reference_by_hand() -> None:
    bare = LOGPS._replace(ref_chosen=None, ref_rejected=None)
    # log-probabilities per token: -2.5 and -2.25, -2.8 and -0.75
    expected = [-log_sigmoid(2.0 * 0.3 - 0.4), -log_sigmoid(2.0 * -1.5 - 0.4)]
    assert losses_of("simpo", bare, beta=2.0, simpo_gamma=0.4) == pytest.approx(expected, rel=1e-5)
    # 14.5 nats over 6 tokens
    cpo = [-log_sigmoid(0.2 * 4) + 0.5 * 10 / 3, -log_sigmoid(0.2 * 3) + 0.5 * 4.5 / 3]
    assert losses_of("cpo", bare, beta=0.2, cpo_alpha=0.5) == pytest.approx(cpo, rel=1e-5)

    def log_odds(logp: float) -> float:
        return math.log(math.exp(logp) / (1 - math.exp(logp)))

    odds = [log_odds(-2.5) - log_odds(-2.8), log_odds(-2.25) - log_odds(-0.75)]
    assert log_odds_ratio(bare).tolist() == pytest.approx(odds, rel=1e-5)
    orpo = [nll / 3 - 0.2 * log_sigmoid(ratio) for nll, ratio in zip((10, 4.5), odds, strict=True)]
    assert losses_of("orpo", bare, beta=0.2) == pytest.approx(orpo, rel=1e-5)


def test_an_nll_term_is_a_mean_over_the_batch_or_of_each_response() -> None:
    by_tokens = losses_of("sft")
    assert by_tokens == pytest.approx([10 / 3, 4.5 / 3])
    assert sum(by_tokens) / 2 == pytest.approx(14.5 / 6)
    weighted = losses_of("sft", weights=torch.tensor([3.0, 1.0]))
    assert (3 * weighted[0] + weighted[1]) / 4 == pytest.approx((3 * 10 + 4.5) / (3 * 4 + 2))
    assert losses_of("sft", nll_average="responses") == pytest.approx([2.5, 2.25])


def test_a_certain_response_has_finite_odds() -> None:
    sure = torch.zeros(1, requires_grad=True)
    ratio = log_odds_ratio(PairLogps(sure, torch.tensor([-3.0]), torch.ones(1), torch.ones(1)))
    (gradient,) = torch.autograd.grad(ratio.sum(), sure)
    assert ratio.isfinite().all()
    assert gradient.isfinite().all()


def test_soft_labels_and_margins_by_hand() -> None:
    p, m = torch.tensor([0.75, 1.0]), torch.tensor([2.0, math.nan])
    losses = losses_of("sigmoid", beta=0.2, soft_labels=p, margins=m, margin_scale=0.1)
    z = 0.2 * 3 - 0.1 * 2
    expected = [-0.75 * log_sigmoid(z) - 0.25 * log_sigmoid(-z), -log_sigmoid(0.2 * -1.0)]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_annotators_one_by_one_are_their_soft_label() -> None:
    swapped = PairLogps(*(LOGPS[i] for i in (1, 0, 3, 2, 5, 4)))
    voted = [(2 * a + b) / 3 for a, b in zip(losses_of("sigmoid"), losses_of("sigmoid", swapped), strict=True)]
    assert losses_of("sigmoid", soft_labels=torch.full((2,), 2 / 3)) == pytest.approx(voted, rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_robust_dpo_is_unbiased_under_flipped_labels(epsilon: float) -> None:
    """(1 - ε) of the labels right and ε flipped give the clean loss on average (Chowdhury et al. 2024, lemma 3.1)."""
    swapped = PairLogps(*(LOGPS[i] for i in (1, 0, 3, 2, 5, 4)))
    right, flipped = (losses_of("robust", pair, label_smoothing=epsilon) for pair in (LOGPS, swapped))
    noisy = [(1 - epsilon) * a + epsilon * b for a, b in zip(right, flipped, strict=True)]
    assert noisy == pytest.approx(losses_of("sigmoid"), rel=1e-5)


def test_divergences_by_hand() -> None:
    log_u = torch.tensor([-1.0, 0.0, 0.7], dtype=torch.float64)
    u = log_u.exp()
    torch.testing.assert_close(reverse_kl(log_u), u.log())
    torch.testing.assert_close(forward_kl(log_u), 1 - 1 / u)
    torch.testing.assert_close(js_divergence(log_u), (2 * u / (1 + u)).log())
    torch.testing.assert_close(alpha_divergence(log_u, 0.3), (u**-0.7 - 1) / -0.7)
    torch.testing.assert_close(alpha_divergence(log_u, 1 - 1e-5), log_u, atol=1e-5, rtol=0)
    assert alpha_divergence(log_u, 1.0) is log_u
    for derivative in DIVERGENCES.values():
        assert float(derivative(torch.zeros(1))) == 0


def test_divergences_stay_finite_far_away() -> None:
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    for derivative in DIVERGENCES.values():
        (gradient,) = torch.autograd.grad(derivative(far).sum(), far)
        assert derivative(far).isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop", "sigmoid_norm"])
def test_a_divergence_takes_the_place_of_the_log_ratio(name: str) -> None:
    moved = LOGPS._replace(
        chosen=LOGPS.reference[0] + forward_kl(LOGPS.chosen_ratio),
        rejected=LOGPS.reference[1] + forward_kl(LOGPS.rejected_ratio),
    )
    given = {"label_smoothing": 0.1} if "label_smoothing" in options_of(name) else {}
    assert losses_of(name, f_divergence=forward_kl, **given) == pytest.approx(losses_of(name, moved, **given), rel=1e-4)


@pytest.mark.parametrize("name", sorted(DPO_LOSSES))
def test_losses_and_gradients_stay_finite_far_away(name: str) -> None:
    chosen = torch.tensor([-1e4, -1.0, -1e4], requires_grad=True)
    rejected = torch.tensor([-1.0, -1e4, -1e4], requires_grad=True)
    tokens, reference = torch.full((3,), 10.0), torch.full((3,), -100.0)
    logps = PairLogps(chosen, rejected, tokens, tokens, reference, reference)
    tensors = {key: value for key, value in {"nll": -chosen, "nll_tokens": tokens}.items() if key in tensors_of(name)}
    losses = DPO_LOSSES[name](logps, beta=1.0, **tensors) if name != "sft" else DPO_LOSSES[name](logps, **tensors)
    assert losses.isfinite().all()
    for gradient in torch.autograd.grad(losses.sum(), [chosen, rejected], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", REFERENCED)
def test_losses_with_a_reference_say_that_they_need_one(name: str) -> None:
    with pytest.raises(ValueError, match="needs ref_chosen and ref_rejected"):
        losses_of(name, LOGPS._replace(ref_chosen=None))


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm", "robust", "aot", "aot_unpaired"])
def test_logistic_losses_start_at_ln_2(name: str) -> None:
    start = LOGPS._replace(chosen=LOGPS.reference[0], rejected=LOGPS.reference[1])
    assert losses_of(name, start) == pytest.approx([math.log(2)] * 2)
    assert not torch.stack(implicit_rewards(name, start, 0.1)).any()


def test_the_reward_shift_has_no_gradient() -> None:
    chosen = torch.tensor([-2.0], requires_grad=True)
    one = torch.ones(1)
    loss = DPO_LOSSES["bco_pair"](PairLogps(chosen, -5 * one, one, one, -one, -one), beta=0.5, reward_shift=True)
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    # r_w = -0.5, δ = (-0.5 - 2) / 2; d/dr of -log σ(r - δ) is -σ(-(r - δ))
    assert gradient.item() == pytest.approx(-0.5 * sigmoid(-0.75))


def test_rewards_are_what_the_loss_speaks_of() -> None:
    chosen, rejected = implicit_rewards("ipo", LOGPS, 0.2)
    assert chosen.tolist() == pytest.approx([0.2, -0.1])
    assert rejected.tolist() == pytest.approx([-0.4, 0.1])
    assert implicit_rewards("cpo", LOGPS, 0.2)[0].tolist() == pytest.approx([-2.0, -0.9])
    assert implicit_rewards("simpo", LOGPS, 0.2)[1].tolist() == pytest.approx([-0.56, -0.15])


@pytest.mark.parametrize(("name", "epsilon"), [("robust", 0.5), ("robust", -0.1), ("exo_pair", 0.0), ("exo_pair", 1.0)])
def test_smoothing_that_a_formula_cannot_take_is_refused(name: str, epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: label_smoothing must lie in"):
        losses_of(name, label_smoothing=epsilon)


def test_logistic_with_a_target() -> None:
    z = torch.tensor([0.5, -2.0])
    expected = [-p * log_sigmoid(x) - (1 - p) * log_sigmoid(-x) for p, x in ((0.7, 0.5), (0.2, -2.0))]
    assert logistic(z, torch.tensor([0.7, 0.2])).tolist() == pytest.approx(expected)


# Rows of one pair: 3 and 1 scored tokens, with a gap in the first
TOKENS = torch.tensor([[0.0, -1.0, 0.0, -2.0, -4.0], [0.0, -3.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[0, 1, 0, 1, 1], [0, 1, 0, 0, 0]], dtype=torch.bool)


def test_tokens_beyond_the_shorter_response_count_less_by_hand() -> None:
    assert length_desensitised(TOKENS, MASK, 0.5).tolist() == [-1 - 0.5 * 6, -3.0]
    assert length_desensitised(TOKENS, MASK, 0.0).tolist() == [-1.0, -3.0]
    assert length_desensitised(TOKENS, MASK, 1.0).tolist() == [-7.0, -3.0]


def test_wpo_weights_by_hand() -> None:
    collision = torch.tensor([[0.0, -0.5, 0.0, -1.0, -0.1], [0.0, -0.7, 0.0, 0.0, 0.0]])
    weights = wpo_weights(TOKENS.clone().requires_grad_(), collision, MASK)
    assert weights.tolist() == pytest.approx([math.exp((-7 + 1.6) / 3) * math.exp(-3 + 0.7)])
    assert not weights.requires_grad
