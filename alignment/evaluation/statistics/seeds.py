"""Seeds as the unit: a claim about training is a claim about training again.

Intervals over items hold the model fixed; they do not cover what another seed would have given. Here every number is
the value of one whole run, and the interval is Student's t over runs: mean ± t_(.975, k-1) · s/√k (Student 1908).
Two or three seeds give a wide one, which is what is known. Seeds that all give one number have no interval: their
spread of 0 would claim that every seed does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignment.evaluation.statistics.intervals import ROUNDING, Estimate, Interval, unsure


@dataclass(frozen=True)
class SeedSummary:
    """Mean over seeds with its interval (`interval.n` seeds), the spread, and every seed's own value.

    `spread` is the standard deviation with k-1 degrees of freedom; None for fewer than two seeds.
    """

    interval: Interval
    spread: float | None
    values: Mapping[int, float | None]


@dataclass(frozen=True)
class SeedDifference:
    """a - b over seeds, and the p-value of no difference; `paired` where both have the same seeds.

    `values` are the differences seed by seed; empty where the seeds differ.
    """

    interval: Interval
    spread: float | None
    values: Mapping[int, float]
    p: Estimate
    paired: bool


def over_seeds(values: Mapping[int, float | None]) -> SeedSummary:
    """A number's mean, spread and t interval over seeds; `values` maps seed -> value, None where it is undefined.

    A number that is undefined for some seed has no mean: the mean of the others would be of chosen seeds.
    """
    found = _defined(values)
    if isinstance(found, str):
        return SeedSummary(Interval(None, None, None, found, len(values)), None, dict(values))
    return SeedSummary(_mean(found, "mean", _size(found)), _deviation(found), dict(values))


def difference_over_seeds(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> SeedDifference:
    """mean(a) - mean(b): paired over seeds when both have the same ones, else Welch's (1947) unequal variances.

    Seeds pair two models where they also fix what both share (the order of rows, the start they were trained from).
    """
    one, other = _defined(a), _defined(b)
    paired = set(a) == set(b)
    if isinstance(one, str) or isinstance(other, str):
        reason = one if isinstance(one, str) else str(other)
        return SeedDifference(Interval(None, None, None, reason, 0), None, {}, Estimate(None, reason), paired)
    if not paired:
        return _welch(one, other)
    changes = {seed: value - other[seed] for seed, value in one.items()}
    size = max(_size(one), _size(other))
    interval, spread = _mean(changes, "paired difference", size), _deviation(changes)
    return SeedDifference(interval, spread, changes, _paired_p(list(changes.values()), size), True)


def _defined(values: Mapping[int, float | None]) -> dict[int, float] | str:
    """The values, or why there is no mean of them."""
    if not values:
        return "no seeds"
    missing = [seed for seed, value in values.items() if value is None or not math.isfinite(value)]
    if missing:
        return f"undefined for seed {', '.join(map(str, missing))}"
    return {seed: value for seed, value in values.items() if value is not None}


def _deviation(values: Mapping[int, float]) -> float | None:
    import numpy as np

    return float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else None


def _size(values: Mapping[int, float]) -> float:
    return max(map(abs, values.values()))


def _alike(values: Sequence[float], size: float) -> bool:
    """Whether values are one number but for rounding; `size`: of the numbers that they are, or are differences of."""
    return max(values) - min(values) <= ROUNDING * size


def _mean(values: Mapping[int, float], name: str, size: float) -> Interval:
    from scipy.stats import t

    k, mean = len(values), math.fsum(values.values()) / len(values)
    deviation = _deviation(values)
    if deviation is None:
        return Interval(mean, None, None, f"{name} of one seed: no interval", 1)
    if _alike(list(values.values()), size):
        return Interval(mean, None, None, unsure(f"{name}; all {k} seeds alike", "their spread"), k)
    half = float(t.ppf(0.975, k - 1)) * deviation / math.sqrt(k)
    return Interval(mean, mean - half, mean + half, f"{name}, t interval over {k} seeds", k)


def _paired_p(changes: Sequence[float], size: float) -> Estimate:
    from scipy.stats import ttest_1samp

    if len(changes) < 2:
        return Estimate(None, "one seed: nothing to test")
    if _alike(changes, size):
        return Estimate(None, "all seeds differ alike: no spread to test against")
    return Estimate(float(ttest_1samp(changes, 0.0).pvalue), f"paired t test over {len(changes)} seeds")


def _welch(a: Mapping[int, float], b: Mapping[int, float]) -> SeedDifference:
    """Unequal variances, degrees of freedom by Satterthwaite (1946)."""
    from scipy.stats import ttest_ind

    one, other = list(a.values()), list(b.values())
    difference = math.fsum(one) / len(one) - math.fsum(other) / len(other)
    counts = f"{len(one)} and {len(other)} seeds, not the same ones"
    reason = ""
    if min(len(one), len(other)) < 2:
        reason = f"difference of {counts}: no spread of a single seed"
    elif _alike(one, _size(a)) and _alike(other, _size(b)):
        reason = f"difference of {counts}: no spread on either side"
    if reason:
        return SeedDifference(
            Interval(difference, None, None, reason, min(len(one), len(other))), None, {}, Estimate(None, reason), False
        )
    with warnings.catch_warnings():
        # scipy warns of a side without spread, which the other side's makes up for
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = ttest_ind(one, other, equal_var=False)
    bounds = test.confidence_interval(0.95)
    interval = Interval(
        difference,
        float(bounds.low),
        float(bounds.high),
        f"difference, Welch's t interval of {counts}",
        min(len(one), len(other)),
    )
    return SeedDifference(interval, None, {}, Estimate(float(test.pvalue), f"Welch's t test of {counts}"), False)
