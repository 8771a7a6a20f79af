"""Strengths of several models from battles between two at a time, some of which end in a tie.

Bradley-Terry: P(i beats j) = σ(β_i - β_j), by maximum likelihood, a tie being half a win to both, as arenas do.
Elo = anchor + 400/ln 10 · (β_i - mean β): 400 points are odds of ten to one. The order of battles is of no influence,
unlike in online Elo. Intervals draw whole prompts, as battles over one prompt are no independent evidence.

Davidson (1970) models the ties too: with π = exp(β), s = √(π_i π_j) and D = π_i + π_j + ν s,

    P(i wins) = π_i / D,   P(tie) = ν s / D.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.evaluation.statistics import RESAMPLES, Interval, bounded, unsure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ELO = 400 / math.log(10)
ANCHOR = 1000.0  # the mean of all models
_STEPS = 100
_PRECISE = 1e-9  # nats, of the last Newton step
_AT_A_TIME = 200  # resamples in memory
_INFINITE = 15.0  # nats: odds of three million to one are a maximum at infinity that Newton is on its way to


@dataclass(frozen=True)
class Battle:
    """Two models' answers to one prompt; `outcome` 1 the first won, 0 the second, 1/2 a tie."""

    first: str
    second: str
    outcome: float
    prompt: Hashable = None


@dataclass(frozen=True)
class Strengths:
    """β of every model (mean 0, nats) and Davidson's ν; None, with the reason, where there is no finite maximum."""

    beta: dict[str, float] | None
    nu: float | None = None
    reason: str = ""


def bradley_terry(battles: Sequence[Battle]) -> Strengths:
    """The maximum-likelihood strengths, a tie being half a win to both.

    They are finite when from every model a chain of wins (or ties) leads to every other (Ford 1957).
    Raises ValueError for an outcome other than 1, 1/2, 0 and for a model against itself.
    """
    names = _names(battles)
    if not names:
        return Strengths(None, reason="no battles")
    points = _points(battles, names)
    if not _connected(points):
        return Strengths(None, reason=_SPLIT)
    beta, _ = _fit(points, 0 * points)
    return Strengths(dict(zip(names, beta.tolist(), strict=True)))


def davidson(battles: Sequence[Battle]) -> Strengths:
    """The maximum-likelihood strengths and ν of Davidson's model; without ties ν = 0 and this is Bradley-Terry."""
    names = _names(battles)
    if not names:
        return Strengths(None, reason="no battles")
    wins, ties = _tables(battles, names)
    if not wins.any():
        return Strengths(None, reason="undefined: every battle is a tie")
    if not _connected(wins + ties):
        return Strengths(None, reason=_SPLIT)
    beta, nu = _fit(wins, ties)
    if not abs(beta).max() < _INFINITE:
        return Strengths(None, reason=_SPLIT)
    return Strengths(dict(zip(names, beta.tolist(), strict=True)), nu)


_SPLIT = "undefined: some models never lost or never won against the rest, or never met it"


def elo_table(battles: Sequence[Battle], *, seed: int, anchor: str | None = None) -> dict[str, Interval]:
    """Elo of every model, the mean of all being `ANCHOR`, with intervals from resampled prompts.

    `n` counts the model's battles. A prompt of None is a prompt of its own. With `anchor` that model is at `ANCHOR`
    in every resample and has no interval; the others' intervals are of their distance from it.
    Raises ValueError for an anchor without battles.
    """
    import numpy as np

    names = _names(battles)
    if anchor is not None and anchor not in names:
        raise ValueError(f"{anchor} has no battles, so nothing can be anchored at it")
    fitted = bradley_terry(battles)
    played = {name: sum(name in (battle.first, battle.second) for battle in battles) for name in names}
    if fitted.beta is None:
        return {name: Interval(None, None, None, fitted.reason, played[name]) for name in names}
    zero = 0.0 if anchor is None else fitted.beta[anchor]  # β of mean 0 otherwise
    elo = {name: ANCHOR + ELO * (beta - zero) for name, beta in fitted.beta.items()}
    start = np.asarray([fitted.beta[name] for name in names])
    drawn, why = _resampled(battles, names, start, seed)
    fixed = "mean Elo" if anchor is None else f"Elo of {anchor}"
    method = f"Bradley-Terry, ties as half a win, {fixed} {ANCHOR:g}"
    if drawn is None:
        return {name: Interval(elo[name], None, None, f"{method}; {why}", played[name]) for name in names}
    if anchor is not None:
        drawn = drawn - drawn[:, [names.index(anchor)]]
    low, high = np.percentile(ANCHOR + ELO * drawn, (2.5, 97.5), axis=0)
    how, alike = f"{method}, {why}", unsure(f"{method}; the resamples of prompts agree")
    table = {
        name: bounded(elo[name], float(low[i]), float(high[i]), how, played[name], size=ANCHOR, without=alike)
        for i, name in enumerate(names)
    }
    if anchor is not None:
        table[anchor] = Interval(ANCHOR, None, None, f"{method}: the anchor has no interval", played[anchor])
    return table


def _resampled(battles: Sequence[Battle], names: Sequence[str], start: Floats, seed: int) -> tuple[Floats | None, str]:
    """β of resampled prompts (resamples, models) and the method, or None and why there is no interval."""
    import numpy as np

    groups: dict[Hashable, list[Battle]] = {}
    for index, battle in enumerate(battles):
        groups.setdefault(("prompt", battle.prompt) if battle.prompt is not None else index, []).append(battle)
    if len(groups) < 2:
        return None, "one prompt: no interval"
    points = np.stack([_points(group, names) for group in groups.values()]).reshape(len(groups), -1)
    rng = np.random.default_rng(seed)
    n, size = len(groups), len(names)
    found = []
    for done in range(0, RESAMPLES, _AT_A_TIME):
        some = min(_AT_A_TIME, RESAMPLES - done)
        times = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(some)])
        drawn = (times.astype(float) @ points).reshape(some, size, size)
        if not _connected(drawn):
            return None, "no interval: on some resamples a strength is infinite"
        found.append(_fit_many(drawn, start))
    return np.concatenate(found), f"percentile bootstrap over prompts, {RESAMPLES} resamples"


def _points(battles: Sequence[Battle], names: Sequence[str]) -> Floats:
    wins, ties = _tables(battles, names)
    return wins + ties / 2


def _names(battles: Sequence[Battle]) -> list[str]:
    for battle in battles:
        if battle.outcome not in (0, 0.5, 1) or battle.first == battle.second:
            raise ValueError(f"{battle}: an outcome is 1, 1/2 or 0, of two different models")
    return sorted({name for battle in battles for name in (battle.first, battle.second)})


def _tables(battles: Sequence[Battle], names: Sequence[str]) -> tuple[Floats, Floats]:
    """wins[i, j]: i beat j; ties[i, j] = ties[j, i]."""
    import numpy as np

    place = {name: index for index, name in enumerate(names)}
    wins, ties = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    for battle in battles:
        i, j = place[battle.first], place[battle.second]
        if battle.outcome == 0.5:
            ties[i, j] += 1
            ties[j, i] += 1
        else:
            wins[(i, j) if battle.outcome == 1 else (j, i)] += 1
    return wins, ties


def _connected(points: Floats) -> bool:
    """Whether in each of the tables (..., size, size) a chain of points leads from every model to every other.

    That is: from the first model to every other, and from every other to the first.
    """
    import numpy as np

    for beats in (points > 0, np.swapaxes(points > 0, -1, -2)):
        steps = beats.astype(np.float32)  # matrix products of booleans are slow
        reached = np.zeros((*points.shape[:-2], 1, points.shape[-1]), bool)
        reached[..., 0] = True
        for _ in range(points.shape[-1] - 1):
            if reached.all():
                break
            reached |= reached.astype(np.float32) @ steps > 0
        if not reached.all():
            return False
    return True


def _fit(wins: Floats, ties: Floats) -> tuple[Floats, float]:
    """(β, ν) by Newton's method with halved steps; the log-likelihood is concave in (β, ln ν).

    ∂/∂β_i = Σ_j (wins_ij + ties_ij/2 - n_ij E[x_ij]), x = 1, 1/2, 0 for a win, tie, defeat;
    ∂/∂ln ν = Σ_{i<j} (ties_ij - n_ij P(tie)); minus the Hessian is the covariance of the same.
    """
    import numpy as np

    size = len(wins)
    games = wins + wins.T + ties
    tied = bool(ties.any())
    at = np.zeros(size + 1)

    def log_p(at: Floats) -> tuple[Floats, Floats]:
        """log P(i beats j) and log P(tie), (size, size) each."""
        half = (at[:size, None] - at[None, :size]) / 2
        log_nu = at[size] if tied else -np.inf
        total = np.logaddexp(np.logaddexp(half, -half), log_nu)
        return half - total, log_nu - total

    def likelihood(at: Floats) -> float:
        win, tie = log_p(at)
        return float(np.sum(wins * win) + (np.sum(ties * tie) / 2 if tied else 0.0))

    for _ in range(_STEPS):
        win, tie = (np.exp(x) for x in log_p(at))
        mean = win + tie / 2
        gradient = np.append((wins + ties / 2 - games * mean).sum(axis=1), np.sum(ties - games * tie) / 2)
        spread = games * (win + tie / 4 - mean**2)
        minus_hessian = np.zeros((size + 1, size + 1))
        # β is known up to a constant: the ones keep its mean where it is
        minus_hessian[:size, :size] = np.diag(spread.sum(axis=1)) - spread + 1.0
        minus_hessian[:size, size] = minus_hessian[size, :size] = (games * tie * (1 / 2 - mean)).sum(axis=1)
        minus_hessian[size, size] = np.sum(games * tie * (1 - tie)) / 2 if tied else 1.0
        step = np.linalg.lstsq(minus_hessian, gradient)[0]
        before, scale = likelihood(at), 1.0
        while likelihood(at + scale * step) < before and scale > _PRECISE:
            scale /= 2
        at = at + scale * step
        if abs(scale * step).max() < _PRECISE or abs(at).max() > 2 * _INFINITE:
            break
    return at[:size] - at[:size].mean(), float(np.exp(at[size])) if tied else 0.0


def _fit_many(points: Floats, start: Floats) -> Floats:
    """Bradley-Terry β (R, size) of R tables of points (R, size, size) at once, by Newton's method from `start`.

    Steps are at most 1 nat long, which keeps the method from overshooting; where that is not enough, `_fit` is.
    """
    import numpy as np

    size = len(start)
    games = points + points.transpose(0, 2, 1)
    at = np.repeat(start[None, :], len(points), axis=0)
    for _ in range(_STEPS):
        won = 1 / (1 + np.exp(at[:, None, :] - at[:, :, None]))
        gradient = (points - games * won).sum(axis=2)
        spread = games * won * (1 - won)
        minus_hessian = spread.sum(axis=2)[:, :, None] * np.eye(size) - spread + 1.0
        step = np.linalg.solve(minus_hessian, gradient[:, :, None])[:, :, 0]
        at = at + step / np.maximum(1.0, abs(step).max(axis=1, keepdims=True))
        if abs(step).max() < _PRECISE:
            return np.asarray(at - at.mean(axis=1, keepdims=True))
    return np.stack([_fit(table, 0 * table)[0] for table in points])
