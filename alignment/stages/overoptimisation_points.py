"""Points and curves of an over-optimisation study, from scores and logs: arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.errors import AlignmentError
from alignment.report.study import CurvePoint, Fit, Method, Point, Reward, Seed, StudyFile
from reward.overoptimisation import FORMS, best_of_n, bon_kl, bootstrap_fit

if TYPE_CHECKING:
    from alignment.stages.overoptimisation import Trace

Floats = npt.NDArray[np.float64]

LAWS: dict[Method, str] = {"bon": "bon", "ppo": "rl"}
CURVE = 61  # points of a curve


class Scale(NamedTuple):
    """Mean and standard deviation of a scorer over the start policy's answers."""

    mean: float
    sd: float

    def of(self, score: float) -> float:
        return (score - self.mean) / self.sd


def study(
    gold: Floats,
    proxies: Sequence[Floats],
    traces: Sequence[Trace],
    *,
    names: tuple[str, Sequence[str], Sequence[str]],
    n_prompts: int,
    same_records: bool,
    where: str,
    seed: int,
) -> StudyFile:
    """The whole study.

    Args:
        gold: (P, N) gold scores of N answers of the start policy to each of P prompts.
        proxies: the proxy scores of the same answers, one (P, N) per seed; seeds that share a proxy share the array.
        traces: what the PPO stage of each seed logged.
        names: of gold, of the proxies and of the PPO stages.
        n_prompts: that the PPO stages draw from; the P are some of them, or all.
        same_records: whether the proxies of all seeds learned from the same records.
        where: the stage, for messages.
        seed: of the resampling.

    Raises:
        AlignmentError: a scorer that gives every answer the same score; there is no scale then.
    """
    gold_name, proxy_names, ppo_names = names
    by = _scale(gold, f"{where}: gold {gold_name}")
    scales = [_scale(scores, f"{where}: proxy {name}") for scores, name in zip(proxies, proxy_names, strict=True)]
    points: list[Point] = []
    seen: set[int] = set()
    for number, (scores, scale, trace) in enumerate(zip(proxies, scales, traces, strict=True), 1):
        if id(scores) not in seen:  # a proxy that seeds share says the same of best-of-n once
            points += _best_of(scores, gold, scale, by, number)
        seen.add(id(scores))
        points += [Point("ppo", number, s.step, s.kl, scale.of(s.proxy), by.of(s.gold)) for s in trace.steps]
    seeds = [
        Seed(number, proxy, ppo, scale.mean, scale.sd, trace.left_out)
        for number, (proxy, ppo, scale, trace) in enumerate(zip(proxy_names, ppo_names, scales, traces, strict=True), 1)
    ]
    text = _told(gold, by, n_prompts, max(zero_error(scores, n_prompts) for scores in (gold, *proxies)), same_records)
    prompts, answers = gold.shape
    fits = [_fitted(points, method, reward, seed) for method in LAWS for reward in ("proxy", "gold")]
    return StudyFile(text, answers, prompts, gold_name, by.mean, by.sd, tuple(seeds), tuple(points), tuple(fits))


def _told(gold: Floats, by: Scale, n_prompts: int, error: float, same_records: bool) -> str:
    """What the numbers are of, what no interval holds, and what the seeds have in common."""
    prompts, answers = gold.shape
    text = (
        f"Rewards are measured from the start policy's mean, in standard deviations of its scores, over {answers} "
        f"answers to each of {prompts} of the {n_prompts} prompts that PPO draws from; gold has mean {by.mean:.3g} and "
        f"standard deviation {by.sd:.3g}. That zero is common to all points of PPO, with a standard error of up to "
        f"{error:.2g}, which no interval holds. Best-of-n has the same answers and gold scores in every seed."
    )
    return text + (" The proxies of all seeds learned from the same records." if same_records else "")


def zero_error(scores: Floats, n_prompts: int) -> float:
    """Standard error of the mean score (P, N) as an estimate of that over all `n_prompts`, in standard deviations.

    Two stages of sampling (Cochran 1977, chapter 10), with the share f = P / n_prompts of the prompts answered:

        s.e.² = (1 - f) s_b² / P + f s_w² / (P N),    s_b² of the prompts' means, s_w² within prompts, both unbiased
    """
    prompts, answers = scores.shape
    f = prompts / n_prompts
    between = float(scores.mean(axis=1).var(ddof=1)) if f < 1 else 0.0
    within = float(scores.var(axis=1, ddof=1).mean())
    return math.sqrt((1 - f) * between / prompts + f * within / (prompts * answers)) / float(scores.std())


def sizes(n: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... up to n, and n: about evenly spaced in √KL."""
    found = {1, n} | {base << k for base in (2, 3) for k in range(n.bit_length())}
    return sorted(size for size in found if size <= n)


def _scale(scores: Floats, name: str) -> Scale:
    mean, sd = float(scores.mean()), float(scores.std())
    if not sd > 1e-9 * max(1.0, abs(mean)):
        raise AlignmentError(
            f"{name}: all {scores.size} answers of the start policy have the score {mean:.6g}, so there is no scale; "
            "choose a scorer that tells them apart"
        )
    return Scale(mean, sd)


def _best_of(proxy: Floats, gold: Floats, scale: Scale, by: Scale, seed: int) -> list[Point]:
    found = []
    for n in sizes(gold.shape[1]):
        of_proxy, of_gold = best_of_n(proxy, gold, n)
        found.append(Point("bon", seed, n, bon_kl(n), scale.of(of_proxy), by.of(of_gold)))
    return found


def _fitted(points: Sequence[Point], method: Method, reward: Reward, seed: int) -> Fit:
    """The curve of one method and reward, or why there is none."""
    mine = [point for point in points if point.method == method and point.kl > 0]
    d, r = [point.d for point in mine], [getattr(point, reward) for point in mine]
    seeds = [point.seed for point in mine]
    law = FORMS[LAWS[method]]
    fit = law.fit(d, r)
    if fit is None:
        return Fit(method, reward, len(mine), len(set(seeds)), "fewer than two distances above 0")
    at = np.linspace(0.0, max(d), CURVE)
    values = law.reward(at, fit.alpha, fit.beta)
    band = bootstrap_fit(LAWS[method], d, r, seeds, at, seed=seed)
    lows: Sequence[float | None] = [None] * CURVE if band is None else band.low.tolist()
    highs: Sequence[float | None] = [None] * CURVE if band is None else band.high.tolist()
    curve = zip(at.tolist(), values.tolist(), lows, highs, strict=True)
    alpha_low, alpha_high = (None, None) if band is None else band.alpha
    beta_low, beta_high = (None, None) if band is None else band.beta
    peak = law.peak(fit.alpha, fit.beta)
    return Fit(
        method=method,
        reward=reward,
        n_points=fit.n,
        n_seeds=len(set(seeds)),
        alpha=fit.alpha,
        beta=fit.beta,
        alpha_se=fit.alpha_se,
        beta_se=fit.beta_se,
        alpha_low=alpha_low,
        alpha_high=alpha_high,
        beta_low=beta_low,
        beta_high=beta_high,
        peak=peak if peak is None or math.isfinite(peak) else None,
        curve=tuple(CurvePoint(*point) for point in curve),
    )
