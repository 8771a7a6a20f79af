"""Bootstrap intervals, over items or over whole clusters.

percentile: Efron & Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13; the default everywhere.
bca: bias-corrected and accelerated, the same book, chapter 14: for skewed statistics and small samples.
With clusters whole clusters are drawn (and left out, for the acceleration): their items are no independent evidence.
Draws of few clusters vary too little: below 10 there is the clustered t interval instead, whichever bootstrap was asked
for, and below 5 none of a statistic that is no ratio of sums.
Where every resample gives one number there is no interval, and `method` says what is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from alignment.evaluation.statistics.clusters import Clusters, differences, members, sums
from alignment.evaluation.statistics.intervals import NO_DATA, ROUNDING, Interval, bounded, clipped, unsure, wilson
from alignment.evaluation.statistics.standard_errors import cluster_t_interval

if TYPE_CHECKING:
    from alignment.evaluation.statistics.clusters import Floats, Indices

BootstrapMethod = Literal["percentile", "bca"]

RESAMPLES = 2000
_CLUSTERS, _CLUSTERS_OF_ANY = 10, 5  # fewest to resample: of a ratio of sums, which t can replace; of any statistic
_TAILS = (0.025, 0.975)  # levels that bound the central 95%
_DRAWS_AT_A_TIME = 4_000_000  # bounds the memory of a resampling, not its result


def mean_interval(
    values: Sequence[float], clusters: Clusters = None, *, seed: int, bootstrap: BootstrapMethod = "percentile"
) -> Interval:
    """The mean with its bootstrap interval; `clusters` names the cluster of every value.

    Raises ValueError for values that are not finite and for lists of different lengths.
    """
    return _ratio(values, [1.0] * len(values), clusters, seed, "mean", bootstrap)


def share_interval(values: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """A mean of values in 0..1: Wilson when all are 0 or 1 and independent, else `mean_interval` within 0..1.

    The bootstrap of data that are all 0 (or all 1) would claim certainty. Then Wilson's interval is given here too,
    with the number of clusters in place of n, which is the cautious end: a cluster as one item.
    Raises ValueError for values outside 0..1.
    """
    if any(not 0 <= value <= 1 for value in values):
        raise ValueError("a share is a mean of values in 0..1")
    binary = all(value in (0, 1) for value in values)
    groups = len(values) if clusters is None else len(set(clusters))
    if binary and groups == len(values):
        return wilson(round(sum(values)), len(values))
    if binary and len(set(values)) == 1:
        bounds = wilson(groups * round(values[0]), groups)
        method = f"Wilson score interval over {groups} clusters, all items alike"
        return Interval(bounds.value, bounds.low, bounds.high, method, len(values))
    return clipped(mean_interval(values, clusters, seed=seed))


def rate_interval(values: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """A mean of values in 0..1 by `mean_interval`, within 0..1; where all are 0, or all 1, by `share_interval`.

    Raises ValueError for values outside 0..1.
    """
    alike = set(values) in ({0.0}, {1.0})
    if not alike and any(not 0 <= value <= 1 for value in values):
        raise ValueError("a rate is a mean of values in 0..1")
    average = share_interval if alike else mean_interval
    return clipped(average(values, clusters, seed=seed))


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Clusters = None,
    *,
    seed: int,
    bootstrap: BootstrapMethod = "percentile",
) -> Interval:
    """mean(a - b) over the same items, with the bootstrap interval of the per-item differences.

    Raises ValueError when the two lists differ in length, or a value is not finite.
    """
    changes = differences(a, b).tolist()
    size = max(map(abs, (*a, *b)), default=0.0)
    return _ratio(changes, [1.0] * len(a), clusters, seed, "paired difference", bootstrap, size=size)


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Clusters = None,
    *,
    seed: int,
    bootstrap: BootstrapMethod = "percentile",
) -> Interval:
    """Σ numerators / Σ denominators (bits per byte, errors per word), resampling whole items.

    An item may have the denominator 0 (a document without words): its numerator is in the sum.
    Raises ValueError for a denominator below 0, and where all are 0.
    """
    if any(not denominator >= 0 for denominator in denominators) or (len(denominators) > 0 and not any(denominators)):
        raise ValueError("every denominator must be positive or 0, and their sum positive")
    return _ratio(numerators, denominators, clusters, seed, "ratio of sums", bootstrap)


def statistic_interval(
    statistic: Callable[[Indices], float | None],
    n: int,
    clusters: Clusters = None,
    *,
    seed: int,
    name: str,
    bootstrap: BootstrapMethod = "percentile",
) -> Interval:
    """Any statistic of n items with its bootstrap interval.

    `statistic` takes the positions of the items drawn, and returns None where it is undefined. There is no interval
    when it is undefined on a resample: leaving those out would make the interval too narrow. Nor is there one when
    resamples give one number; values below 1 that differ by less than 1e-12 count as one (a κ of 1, a difference of 0).
    """
    import numpy as np

    if n == 0:
        return NO_DATA
    value = statistic(np.arange(n))
    if value is None:
        return Interval(None, None, None, f"{name}: undefined on these items", n)
    groups = members(n, clusters)
    if len(groups) < min(n, _CLUSTERS_OF_ANY):
        return Interval(value, None, None, f"{name}; too few clusters ({len(groups)}) to resample: no interval", n)
    rng = np.random.default_rng(seed)
    items = np.concatenate(groups)
    sizes = np.asarray([len(group) for group in groups])
    starts = np.cumsum(sizes) - sizes  # of each group in `items`
    found = []
    for _ in range(RESAMPLES if len(groups) > 1 else 0):
        drawn = rng.integers(0, len(groups), len(groups))
        ends = np.cumsum(sizes[drawn])
        shift = np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn])
        found.append(statistic(items[shift + np.arange(ends[-1])]))
    without: list[float | None] = [0.0]
    if bootstrap == "bca" and found:
        without = [statistic(np.concatenate([*groups[:i], *groups[i + 1 :]])) for i in range(len(groups))]
    if not found or any(one is None for one in [*found, *without]):
        return Interval(value, None, None, f"{name}; too few items for an interval", n)
    draws, over = np.asarray(found, float), "clusters" if len(groups) < n else "items"
    size = max(1.0, float(abs(draws).max()))
    return _bounded(value, draws, np.asarray(without, float), bootstrap, name, over, n, size)


def _ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Clusters,
    seed: int,
    name: str,
    bootstrap: BootstrapMethod,
    *,
    size: float | None = None,
) -> Interval:
    """Σ numerators / Σ denominators; a mean has denominators of one, a cluster is one item of summed values.

    `size`: of the numbers that the numerators are differences of; None: of the items' own ratios.
    """
    import numpy as np

    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    if len(above) != len(below):
        raise ValueError(f"{len(above)} numerators for {len(below)} denominators")
    if not (np.isfinite(above).all() and np.isfinite(below).all()):
        raise ValueError("a value is not finite; leave unscored items out and count them")
    n = len(above)
    if n == 0:
        return NO_DATA
    value = float(above.sum() / below.sum())
    items = _own(above, below)
    above, below = sums(above, clusters), sums(below, clusters)
    over = "clusters" if len(above) < n else "items"
    if len(above) == 1:
        return Interval(value, None, None, f"{name} of one {over[:-1]}: no interval", n)
    paired, size = size is not None, float(abs(items[np.isfinite(items)]).max()) if size is None else size
    alike = _alike(items, _own(above, below), over, ROUNDING * size, paired=paired)
    if alike:
        return Interval(value, None, None, unsure(f"{name}; {alike}"), n)
    if len(above) < min(n, _CLUSTERS):
        return cluster_t_interval(above, below, name, n, size)
    found = _resampled(above, below, seed)
    if found is None or (below == below.sum()).any():  # drawn, or left with, no denominator at all
        return Interval(value, None, None, f"{name}; too few items for an interval", n)
    without = (above.sum() - above) / (below.sum() - below)
    return _bounded(value, found, without, bootstrap, name, over, n, size)


def _own(above: Floats, below: Floats) -> Floats:
    """Each item's ratio: infinite where it has a numerator alone, and none of an item that has neither."""
    import numpy as np

    some = (above != 0) | (below != 0)
    with np.errstate(divide="ignore"):
        own: Floats = above[some] / below[some]
    return own


def _alike(items: Floats, units: Floats, over: str, rounding: float, *, paired: bool) -> str:
    """What is the same in every resample; empty where something differs."""
    if float(items.max() - items.min()) <= rounding:
        unchanged = paired and float(abs(items).max()) <= rounding
        return "no item changed" if unchanged else "every item changed by the same" if paired else "all items alike"
    return f"all {over} alike" if float(units.max() - units.min()) <= rounding else ""


def _resampled(above: Floats, below: Floats, seed: int) -> Floats | None:
    """The ratio of RESAMPLES draws with replacement; None where one of them has only denominators of 0."""
    import numpy as np

    n = len(above)
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_A_TIME // n)
    ratios = []
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(0, n, (min(rows, RESAMPLES - start), n))
        under = below[drawn].sum(axis=1)
        if not under.all():
            return None
        ratios.append(above[drawn].sum(axis=1) / under)
    return np.concatenate(ratios)


def _bounded(
    value: float,
    found: Floats,
    without: Floats,
    bootstrap: BootstrapMethod,
    name: str,
    over: str,
    n: int,
    size: float,
) -> Interval:
    """The interval of `value` from resamples `found` and, for BCa, from the statistic `without` each unit."""
    import numpy as np

    levels = _bca_levels(value, found, without) if bootstrap == "bca" else _TAILS
    if levels is None:
        reason = f"{name}, BCa bootstrap over {over}: bias or acceleration undefined, no interval"
        return Interval(value, None, None, reason, n)
    low, high = map(float, np.percentile(found, [100 * level for level in levels]))
    title = {"percentile": "percentile", "bca": "BCa"}[bootstrap]
    method = f"{name}, {title} bootstrap over {over}, {RESAMPLES} resamples"
    alike = unsure(f"{name}; the resamples of {over} agree")
    return bounded(value, low, high, method, n, size=size, without=alike)


def _bca_levels(value: float, found: Floats, without: Floats) -> tuple[float, float] | None:
    """Percentiles that take the place of 2.5% and 97.5%; None where they are undefined.

    z0 = Φ⁻¹(share of resamples below the estimate), a = Σ (θ̄ - θ_i)³ / 6 (Σ (θ̄ - θ_i)²)^(3/2) over the jackknife,
    α' = Φ(z0 + (z0 + z_α) / (1 - a (z0 + z_α))) (Efron 1987; Efron & Tibshirani 1993, equations 14.10-14.15).
    """
    import numpy as np

    normal = NormalDist()
    # Resamples equal to the estimate count half on each side: discrete data have many. Rounding must not decide it.
    equal = abs(found - value) <= 1e-12 * max(abs(value), float(abs(found).max()))
    below = float(np.mean((found < value) & ~equal) + np.mean(equal) / 2)
    spread = without.mean() - without
    scale = float((spread**2).sum()) ** 1.5
    if not 0 < below < 1 or scale == 0:
        return None
    bias, acceleration = normal.inv_cdf(below), float((spread**3).sum()) / (6 * scale)
    levels = []
    for tail in _TAILS:
        moved = bias + normal.inv_cdf(tail)
        if 1 - acceleration * moved <= 0:
            return None
        levels.append(normal.cdf(bias + moved / (1 - acceleration * moved)))
    return levels[0], levels[1]
