"""Win rates with the effect of length taken out: AlpacaEval 2's model (Dubois et al. 2024, arXiv 2404.04475).

    P(the model beats the baseline on i) = σ(φ·tanh(Δ_i / sd(Δ)) + ψ·γ_i + θ),   Δ_i = baseline - model, in characters

without an intercept, γ_i the difficulty of instruction i (published, of other models). L1 logistic regression
(liblinear) on the graded preferences; C is the one of `GRID` with the least log-loss on left-out instructions, five
folds of whole clusters. Rows of a baseline that was told to be brief or verbose ("gamed") have no θ and hold φ and ψ
in place. The win rate at equal length is mean_i σ(ψ·γ_i + θ).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from alignment.evaluation.statistics import Clusters, Interval, unsure
from alignment.evaluation.statistics.clusters import codes, sums

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from alignment.evaluation.statistics.clusters import Floats, Indices

GRID = tuple(10 ** (-4 + 8 * step / 9) for step in range(10))  # LogisticRegressionCV's ten values of C
FOLDS = 5
FEWEST = 50  # independent items (clusters) that a rate from length alone is fitted to
_SEPARATED = 0.01  # a fit that misses no preference by more explains them all
GAMED_WEIGHT = 0.1  # λ/2 = 0.2/2: there are two gamed baselines


@dataclass(frozen=True)
class GamedRow:
    """One answer of a gamed baseline: graded preference in 0..1 and its two features."""

    preference: float
    tanh_length: float
    difficulty: float
    weight: float = GAMED_WEIGHT


@dataclass(frozen=True)
class LengthFit:
    """The win rate at equal length in 0..1 and the coefficients behind it; `weights` are φ, ψ (if fitted), θ."""

    rate: Interval
    weights: tuple[float, ...] | None = None
    regularisation: float | None = None  # C


def length_controlled(
    preferences: Sequence[float | None],
    length_differences: Sequence[float],
    difficulty: Sequence[float] | None = None,
    gamed: Sequence[GamedRow] = (),
    clusters: Clusters = None,
) -> LengthFit:
    """The length-controlled win rate of N items.

    The interval is ±1.96 standard errors of the infinitesimal jackknife (Efron 1982): how the rate moves with the
    weight of every item, refitting included, C, sd(Δ) and the gamed rows held fixed; with clusters as their errors do
    together: √(Σ_c (Σ_{i∈c} e_i)²)/n (Miller 2024, arXiv 2411.00640, equation 4). There is none where all preferences
    are equal or liblinear stopped before the end, and no rate at all where there are wins alone or losses alone to
    learn from, where length and difficulty tell them apart without error (then any coefficients will do that are
    large enough), or where there are ties alone beside gamed rows, which would be what the rate is of.

    Args:
        preferences: N values in 0..1; None for an unscored item, which is predicted but not learned from.
        length_differences: N times baseline minus model, in characters.
        difficulty: N times γ; None leaves ψ out ("length alone").
        gamed: needs `difficulty`.
        clusters: N names; items that share one are no independent evidence and stay in one fold.

    Raises:
        ValueError: lists of different lengths, gamed rows without difficulty.
    """
    import numpy as np

    n = len(preferences)
    if len(length_differences) != n or (difficulty is not None and len(difficulty) != n):
        raise ValueError("preferences, length differences and difficulties must be as many")
    if gamed and difficulty is None:
        raise ValueError("gamed rows need the difficulty of the items")
    scored = np.asarray([value is not None for value in preferences], bool)
    deltas = np.asarray(length_differences, float)
    n_scored = int(scored.sum())
    groups = (np.arange(n) if clusters is None else codes(clusters, n))[scored]
    units = len(np.unique(groups))
    if units < FOLDS:
        what = "scored items" if units == n_scored else "clusters of scored items"
        return _undefined(f"needs {FOLDS} {what}, there are {units}", n_scored)
    spread = float(np.std(deltas, ddof=1))
    if spread == 0:
        return _undefined("all length differences are equal", n_scored)

    features, theirs = _features(deltas / spread, difficulty, gamed)
    known = np.asarray([value for value in preferences if value is not None], float)
    if gamed and (known == 0.5).all():  # AlpacaEval prints 57.9 for the real lengths of a model that ties everywhere
        return _undefined("undefined: all preferences are ties, the rate would be the gamed rows' alone", n_scored)
    table = np.vstack([theirs, features[scored]])
    labels = np.concatenate([np.asarray([row.preference for row in gamed], float), known])
    weights = np.concatenate([np.asarray([row.weight for row in gamed], float), np.ones(n_scored)])

    chosen = _best_c(table, labels, weights, np.concatenate([np.arange(len(gamed)), len(gamed) + groups]))
    if chosen is None:
        return _undefined("no fit: no four fifths of the preferences hold both wins and losses", n_scored)
    beta, ended = _fit(table, labels, weights, chosen)
    missed = np.abs(labels - _sigmoid(table @ beta))[len(gamed) :]
    if set(known.tolist()) == {0.0, 1.0} and missed.max() < _SEPARATED:
        return _undefined("no fit: length separates the wins from the losses", n_scored)
    at_equal_length = features.copy()
    at_equal_length[:, 0] = 0.0
    rate = _with_error(beta, table, labels, weights, at_equal_length, scored, clusters)
    if np.ptp(known) == 0:  # residuals without spread, which would claim certainty
        rate = replace(rate, low=None, high=None, method="logistic model, L1; all preferences are equal: no interval")
    if not ended:
        rate = replace(rate, low=None, high=None, method="logistic model, L1; liblinear stopped early: no interval")
    return LengthFit(rate, tuple(float(value) for value in beta), chosen)


def length_only_rate(
    preferences: Sequence[float | None], length_differences: Sequence[float], clusters: Clusters = None
) -> Interval:
    """The win rate at equal length of prompts of one's own, whose difficulty nobody published.

    `length_controlled` without ψ and without gamed rows, which need difficulties. Undefined below FEWEST scored items
    (clusters, where items share one), and where cross-validation chooses a penalty that leaves neither length nor the
    model an effect.
    """
    n = sum(value is not None for value in preferences)
    variant = "AlpacaEval 2's model, length alone, no difficulties, without gamed rows"
    named = range(len(preferences)) if clusters is None else clusters
    units = len({one for one, value in zip(named, preferences, strict=True) if value is not None})
    if units < FEWEST:
        what = "items" if units == n else "clusters"
        return Interval(None, None, None, f"{variant}: undefined for {units} {what}, needs {FEWEST}", n)
    fit = length_controlled(preferences, length_differences, clusters=clusters)
    if fit.weights is None:
        return replace(fit.rate, method=f"{variant}: undefined, {fit.rate.method}")
    phi, theta = fit.weights
    if phi == 0 == theta:  # σ(0) would claim even chances, and nobody measured them
        return Interval(
            None, None, None, f"{variant}: undefined, the cross-validated penalty leaves no effect at all", n
        )
    weights = f"φ = {phi:.4f}, θ = {theta:.4f}, C = {fit.regularisation:.4g}"
    return replace(fit.rate, method=f"{variant}; {weights}; {fit.rate.method}")


def _undefined(reason: str, n: int) -> LengthFit:
    return LengthFit(Interval(None, None, None, reason, n))


def _features(lengths: Floats, difficulty: Sequence[float] | None, gamed: Sequence[GamedRow]) -> tuple[Floats, Floats]:
    """tanh of the length difference over its deviation, γ if given, 1 (of θ): (N, k), and of gamed rows, without θ."""
    import numpy as np

    ours = [np.tanh(lengths), np.ones(len(lengths))]
    theirs = [[row.tanh_length, 0.0] for row in gamed]
    if difficulty is not None:
        ours.insert(1, np.asarray(difficulty, float))
        theirs = [[row.tanh_length, row.difficulty, 0.0] for row in gamed]
    return np.column_stack(ours), np.asarray(theirs, float).reshape(len(gamed), len(ours))


def _sigmoid(x: Floats) -> Floats:
    import numpy as np

    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def _fit(table: Floats, labels: Floats, weights: Floats, c: float) -> tuple[Floats, bool]:
    """Coefficients (k,), and whether liblinear came to its end.

    A graded label p is the row twice: as 1 with weight p and as 0 with weight 1 - p.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n = len(labels)
    model: Any = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the method where it is the fit that counts
        model.fit(
            np.vstack([table, table]),
            np.repeat([1, 0], n),
            sample_weight=np.concatenate([labels * weights, (1 - labels) * weights]),
        )
    return np.asarray(model.coef_[0], float), int(np.max(model.n_iter_)) < model.max_iter


def _best_c(table: Floats, labels: Floats, weights: Floats, groups: Indices) -> float | None:
    """The C whose fits to four fifths have the least continuous log-loss on the last; the smallest where several do.

    A row and its mirror image are one group, so whole rows are left out, and whole clusters: `groups` (rows,) numbers
    them; GroupKFold deals them round. Four fifths of wins alone, or of losses alone, cannot be fitted and choose
    nothing; None where all of them are so.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold

    won, lost = labels * weights, (1 - labels) * weights
    folds = [(a, b) for a, b in GroupKFold(FOLDS).split(table, groups=groups) if won[a].any() and lost[a].any()]
    if not folds:
        return None
    losses = [
        np.mean(
            [_log_loss(_fit(table[a], labels[a], weights[a], c)[0], table[b], labels[b], weights[b]) for a, b in folds]
        )
        for c in GRID
    ]
    return GRID[int(np.argmin(losses))]


def _log_loss(beta: Floats, table: Floats, labels: Floats, weights: Floats) -> float:
    """-mean w·(p log q + (1 - p) log(1 - q)), nats; log σ(x) = -log(1 + e^-x)."""
    import numpy as np

    x = table @ beta
    return float(np.mean(weights * (labels * np.logaddexp(0, -x) + (1 - labels) * np.logaddexp(0, x))))


def _with_error(
    beta: Floats,
    table: Floats,
    labels: Floats,
    weights: Floats,
    at_equal_length: Floats,
    scored: npt.NDArray[np.bool_],
    clusters: Clusters,
) -> Interval:
    """mean_i σ(z_i β) with its infinitesimal-jackknife interval.

    Influence of item i: (σ(z_i β) - mean)/N + gᵀ H⁻¹ x_i (p_i - σ(x_i β)), g = mean σ'(zβ) z, H = Σ w σ'(xβ) x xᵀ,
    without φ where the penalty set it to 0; influences are summed over the items of a cluster before they are squared.
    The last rows of `table` are the scored items, those before them the gamed ones. Where the penalty set ψ or θ to 0
    there is no interval.
    """
    import numpy as np

    q = _sigmoid(at_equal_length @ beta)
    n, n_scored, value = len(q), int(scored.sum()), float(q.mean())
    kept = beta != 0
    name = "logistic model, L1"
    if not kept[1:].all():  # all but φ: what the rate is made of
        lost = [of for of, held in zip("ψθ"[-len(kept) + 1 :], kept[1:], strict=True) if not held]
        told = f"{' and '.join(lost)} {'was' if len(lost) == 1 else 'were'} penalised to 0"
        even = "" if kept[1:].any() else ", which makes any rate one half"
        return Interval(value, None, None, f"{name}; {told}{even}: no interval", n_scored)
    fitted = _sigmoid(table @ beta)
    x = table[:, kept]
    hessian = (x * (weights * fitted * (1 - fitted))[:, None]).T @ x
    gradient = (at_equal_length[:, kept] * (q * (1 - q))[:, None]).mean(axis=0)
    own = slice(len(table) - n_scored, None)
    try:
        moved = x[own] @ np.linalg.solve(hessian, gradient) * (labels - fitted)[own]
    except np.linalg.LinAlgError:
        return Interval(value, None, None, f"{name}; the preferences are separated: no interval", n_scored)
    influence = (q - value) / n
    influence[scored] += moved
    together = sums(influence, clusters)
    over = "clusters" if len(together) < n else "items"
    half = NormalDist().inv_cdf(0.975) * float(np.sqrt(np.sum(together**2)))
    if float(np.ptp(together)) <= 1e-9 * float(np.abs(influence).max()):
        return Interval(value, None, None, unsure(f"{name}; all {over} alike", "the jackknife"), n_scored)
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Interval(value, low, high, f"{name}; infinitesimal jackknife over {over}", n_scored)
