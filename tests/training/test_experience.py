"""One batch of experience by hand: plain numbers from the formulas, with every option on, and with each one changed."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from statistics import fmean, stdev, variance
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from alignment.training.experience import experience
from alignment.training.ppo_options import PPOOptions
from alignment.training.rollouts import Rollout
from alignment.training.score_scaling import ScoreScaling

Numbers = list[list[float]]

KL_COEF, TEMPERATURE = 0.3, 0.7
PROMPTS = [[5, 6], [7], [8, 9, 10]]
SCORES = [2.0, -3.0, 0.5]
ANSWERS = [
    Rollout([11, 12, 2], [-0.5, -1.5, -0.2], [0.3, -0.1, 0.8], True, "one"),
    Rollout([13, 14, 15, 16], [-2.0, -0.4, -0.9, -1.1], [0.0, 0.5, -0.6, 0.2], False, "two"),  # cut off
    Rollout([2], [-0.7], [0.4], True, ""),
]
ALL = {
    "missing_eos_penalty": 1.5,
    "normalize_scores": True,
    "clip_scores": 0.9,
    "kl_estimator": "k3",
    "whiten_rewards": True,
    "whiten_advantages": True,
    "gamma": 0.9,
    "lam": 0.8,
}


def ref_logp(token: int) -> float:
    """Of the reference, at the temperature of sampling."""
    return -0.3 - 0.1 * (token % 7) / TEMPERATURE


class FakeActor:
    """A reference by the token alone; values come with the answers."""

    value_adapter = False
    device = torch.device("cpu")

    def reference_logps(self, batch: Any, temperature: float) -> Tensor:
        assert temperature == TEMPERATURE
        chosen = batch["completion_mask"].bool()
        return torch.tensor([ref_logp(int(token)) for token in batch["input_ids"][chosen]])


class Wanted(NamedTuple):
    scores: list[float]
    penalties: Numbers
    advantages: Numbers
    returns: Numbers


def whitened(rows: Numbers, shift: bool) -> Numbers:
    flat = [x for row in rows for x in row]
    mean, spread = fmean(flat), math.sqrt(variance(flat) + 1e-8)
    return [[(x - mean) / spread + (0 if shift else mean) for x in row] for row in rows]


def by_hand(options: dict[str, Any]) -> Wanted:
    scores = list(SCORES)
    if options["normalize_scores"]:
        mean, spread = fmean(scores), stdev(scores)
        scores = [(score - mean) / spread for score in scores]
    if options["clip_scores"] is not None:
        scores = [min(max(score, -options["clip_scores"]), options["clip_scores"]) for score in scores]
    if options["missing_eos_penalty"] is not None:
        scores[1] -= options["missing_eos_penalty"]
    estimate = {
        "k1": lambda log_r: -log_r,
        "k2": lambda log_r: log_r**2 / 2,
        "k3": lambda log_r: math.exp(log_r) - 1 - log_r,
    }[options["kl_estimator"]]
    penalties = [
        [-KL_COEF * estimate(ref_logp(token) - logp) for token, logp in zip(a.response_ids, a.logps, strict=True)]
        for a in ANSWERS
    ]
    rewards = [[*row[:-1], row[-1] + score] for row, score in zip(penalties, scores, strict=True)]
    if options["whiten_rewards"]:
        rewards = whitened(rewards, shift=False)
    advantages = []
    for row, answer in zip(rewards, ANSWERS, strict=True):
        values = [*(answer.values or ()), 0.0]
        deltas = [r + options["gamma"] * values[t + 1] - values[t] for t, r in enumerate(row)]
        decay = options["gamma"] * options["lam"]
        advantages.append([sum(decay**i * d for i, d in enumerate(deltas[t:])) for t in range(len(row))])
    returns = [
        [a + v for a, v in zip(row, x.values or (), strict=True)] for row, x in zip(advantages, ANSWERS, strict=True)
    ]
    if options["whiten_advantages"]:
        advantages = whitened(advantages, shift=True)
    return Wanted(scores, penalties, advantages, returns)


def found_with(options: dict[str, Any]) -> Any:
    settings = PPOOptions(**options)
    return experience(
        FakeActor(),  # type: ignore[arg-type]
        PROMPTS,
        ANSWERS,
        torch.tensor(SCORES),
        KL_COEF,
        settings,
        ScoreScaling(settings.normalize_scores, settings.clip_scores),
        TEMPERATURE,
        pad_id=0,
        size=2,
        autocast=nullcontext,
    )


def flat(rows: Numbers) -> list[float]:
    return [x for row in rows for x in row]


CHANGES: list[dict[str, Any]] = [
    {},
    {"missing_eos_penalty": None},
    {"normalize_scores": False},
    {"clip_scores": None},
    {"kl_estimator": "k1"},
    {"kl_estimator": "k2"},
    {"whiten_rewards": False},
    {"whiten_advantages": False},
    {"gamma": 1.0},
    {"lam": 0.95},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change) if change else "all on")
def test_experience_by_hand(change: dict[str, Any]) -> None:
    options = ALL | change
    found, wanted = found_with(options), by_hand(options)
    assert found.mask.sum(dim=1).tolist() == [3, 4, 1]
    assert found.scores.tolist() == pytest.approx(wanted.scores, rel=1e-5)
    for name in ("penalties", "advantages", "returns"):
        tensor = getattr(found, name)
        assert tensor[found.mask].tolist() == pytest.approx(flat(getattr(wanted, name)), rel=1e-4, abs=1e-5), name
        assert tensor[~found.mask].tolist() == [0.0] * 4
    assert found.logps[found.mask].tolist() == pytest.approx([x for a in ANSWERS for x in a.logps])
    assert found.values[found.mask].tolist() == pytest.approx([x for a in ANSWERS for x in a.values or ()])
    # log ratio of whole answers, whatever the estimator of the penalty
    log_ratios = [sum(logp - ref_logp(t) for t, logp in zip(a.response_ids, a.logps, strict=True)) for a in ANSWERS]
    assert found.kl.tolist() == pytest.approx(log_ratios, abs=1e-5)
    k3 = [
        sum(
            math.exp(ref_logp(t) - logp) - 1 - (ref_logp(t) - logp)
            for t, logp in zip(a.response_ids, a.logps, strict=True)
        )
        for a in ANSWERS
    ]
    assert found.kl_k3.tolist() == pytest.approx(k3, rel=1e-5)


def test_the_distance_is_never_negative_and_near_the_reference_it_is_not_rounded_away() -> None:
    found = found_with(ALL)
    same = replace(found, ref_logps=found.logps)
    assert same.kl_k3.tolist() == [0.0] * 3
    off = torch.linspace(-3e-5, 3e-5, 12).reshape(3, 4) * found.mask
    close = replace(found, logps=found.logps.double(), ref_logps=found.logps.double() + off)
    assert close.kl_k3.tolist() == pytest.approx((off.double().square() / 2).sum(dim=1).tolist(), rel=1e-4)
    single = replace(found, ref_logps=found.logps + off.float())
    assert (single.kl_k3 > 0).all()


@pytest.mark.parametrize("change", CHANGES[1:], ids=str)
def test_every_option_changes_what_is_learned_from(change: dict[str, Any]) -> None:
    plain, changed = by_hand(ALL), by_hand(ALL | change)
    assert flat(changed.advantages) != pytest.approx(flat(plain.advantages), rel=1e-3)
