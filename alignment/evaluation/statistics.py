"""Numbers with their errors: pure functions, a seed for everything that is drawn.

Intervals are 95%. No data gives no number (`value` None, never 0), one independent item gives a number without an
interval, and where every item says the same the interval is that value and `method` says so.
The bootstrap is the percentile bootstrap (Efron & Tibshirani 1993, chapter 13). With clusters (prompts that share a
source, questions from one template) whole clusters are drawn: items of a cluster are no independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.int64]

RESAMPLES = 2000
_LEVELS = (2.5, 97.5)  # percentiles that bound the central 95%
_DRAWS_AT_A_TIME = 4_000_000  # bounds the memory of a resampling, not its result

Clusters = Sequence[Hashable] | None


@dataclass(frozen=True)
class Interval:
    """An estimate, the bounds of its 95% interval (None = there is none), how it was made, and from how many items."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    n: int


NO_DATA = Interval(None, None, None, "no data", 0)


def wilson(successes: int, n: int) -> Interval:
    """A share of n independent yes/no items with its score interval (Wilson 1927).

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n): never empty, not even for 0 or n successes.
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} items")
    if n == 0:
        return NO_DATA
    share, z = successes / n, NormalDist().inv_cdf(0.975)
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + side * half) / (1 + z * z / n) for side in (-1, 1))
    # At the ends the bound is exact and only rounding could leave 0..1.
    return Interval(share, low if successes else 0.0, high if successes < n else 1.0, "Wilson score interval", n)


def mean_interval(values: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """The mean with its bootstrap interval; `clusters` names the cluster of every value.

    Raises ValueError for values that are not finite and for lists of different lengths.
    """
    return _bootstrap_ratio(values, [1.0] * len(values), clusters, seed, "mean")


def share_interval(values: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """A mean of values in 0..1: Wilson when all are 0 or 1 and independent, else the bootstrap.

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
    return mean_interval(values, clusters, seed=seed)


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """mean(a - b) over the same items, with the bootstrap interval of the per-item differences.

    Raises ValueError when the two lists differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: a paired difference needs the same items in both")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return _bootstrap_ratio(differences, [1.0] * len(a), clusters, seed, "paired difference")


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Clusters = None, *, seed: int
) -> Interval:
    """Σ numerators / Σ denominators (bits per byte, errors per word), resampling whole items.

    Raises ValueError for a denominator that is not positive.
    """
    if any(not denominator > 0 for denominator in denominators):
        raise ValueError("every denominator must be positive")
    return _bootstrap_ratio(numerators, denominators, clusters, seed, "ratio of sums")


def statistic_interval(
    statistic: Callable[[Indices], float | None], n: int, clusters: Clusters = None, *, seed: int, name: str
) -> Interval:
    """Any statistic of n items with its bootstrap interval.

    `statistic` takes the positions of the items drawn, and returns None where it is undefined. There is no interval
    when it is undefined on a resample: leaving those out would make the interval too narrow.
    """
    import numpy as np

    if n == 0:
        return NO_DATA
    value = statistic(np.arange(n))
    if value is None:
        return Interval(None, None, None, f"{name}: undefined on these items", n)
    members = _members(n, clusters)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES if len(members) > 1 else 0):
        drawn = rng.integers(0, len(members), len(members))
        found.append(statistic(np.concatenate([members[i] for i in drawn])))
    if not found or any(resampled is None for resampled in found):
        return Interval(value, None, None, f"{name}; too few items for an interval", n)
    low, high = np.percentile(np.asarray(found, float), _LEVELS)
    return Interval(value, float(low), float(high), _method(name, len(members) < n), n)


def standard_error(values: Sequence[float]) -> float | None:
    """s/√n with n-1 degrees of freedom; None for fewer than two values."""
    import numpy as np

    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def clustered_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of a mean of clustered items: √(Σ_c (Σ_{i∈c} e_i)²) / n, e the residuals (Miller 2024, CR0).

    None for fewer than two clusters. Multiply by √(G/(G-1)) for the usual small-sample correction of G clusters.
    """
    import numpy as np

    sums, counts = _by_cluster(np.asarray(values, float), np.ones(len(values)), clusters)
    if len(sums) < 2:
        return None
    residuals = sums - counts * (sums.sum() / counts.sum())
    return float(np.sqrt(np.sum(residuals**2)) / len(values))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's test, exact: of gained + lost items that changed, half are expected each way.

    1.0 when nothing changed.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Clusters, seed: int, name: str
) -> Interval:
    """Σ numerators / Σ denominators; a mean has denominators of one, a cluster is one item of summed values."""
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
    alike = bool((above / below == above[0] / below[0]).all())
    clustered = False
    if clusters is not None:
        above, below = _by_cluster(above, below, clusters)
        clustered = len(above) < n
    if len(above) == 1:
        what = "cluster" if clustered else "item"
        return Interval(value, None, None, f"{name} of one {what}: no interval", n)
    if alike:
        return Interval(value, value, value, f"{name}; all items alike, the interval is that value", n)
    low, high = _percentiles(above, below, seed)
    return Interval(value, low, high, _method(name, clustered), n)


def _method(name: str, clustered: bool) -> str:
    return f"{name}, percentile bootstrap over {'clusters' if clustered else 'items'}, {RESAMPLES} resamples"


def _percentiles(above: Floats, below: Floats, seed: int) -> tuple[float, float]:
    import numpy as np

    n = len(above)
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_A_TIME // n)
    ratios = []
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(0, n, (min(rows, RESAMPLES - start), n))
        ratios.append(above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(ratios), _LEVELS)
    return float(low), float(high)


def _codes(clusters: Sequence[Hashable], n: int) -> Indices:
    """Clusters as numbers from 0 in order of first appearance: (n,)."""
    import numpy as np

    if len(clusters) != n:
        raise ValueError(f"{n} values but {len(clusters)} cluster names")
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def _by_cluster(above: Floats, below: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    import numpy as np

    codes = _codes(clusters, len(above))
    sums: list[Floats] = [np.bincount(codes, weights=values).astype(np.float64) for values in (above, below)]
    return sums[0], sums[1]


def _members(n: int, clusters: Clusters) -> list[Indices]:
    """Positions of the items of every cluster."""
    import numpy as np

    if clusters is None:
        return list(np.arange(n).reshape(n, 1))
    codes = _codes(clusters, n)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])
