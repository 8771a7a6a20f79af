"""Standard errors of means, ratios and paired differences, of independent and of clustered items.

Clustered: √(Σ_c (Σ_{i∈c} e_i)²) / n over the residuals e (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640,
equation 4; CR0 of Liang & Zeger 1986). `correct` multiplies by √(G/(G-1)), the correction for few clusters G.
Clusters of one item give √(Σ e²)/n, and with `correct` the usual s/√n.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from alignment.evaluation.statistics.clusters import Clusters, differences, finite, sums
from alignment.evaluation.statistics.intervals import NO_DATA, Interval, bounded, unsure

if TYPE_CHECKING:
    from alignment.evaluation.statistics.clusters import Floats


def standard_error(values: Sequence[float]) -> float | None:
    """s/√n with n-1 degrees of freedom; None for fewer than two values."""
    import numpy as np

    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def clustered_standard_error(
    values: Sequence[float], clusters: Sequence[Hashable], *, correct: bool = False
) -> float | None:
    """Standard error of a mean of clustered items; None for fewer than two clusters."""
    return ratio_standard_error(values, [1.0] * len(values), clusters, correct=correct)


def paired_standard_error(
    a: Sequence[float], b: Sequence[float], clusters: Clusters = None, *, correct: bool = True
) -> float | None:
    """Standard error of mean(a - b) over the same items: that of the per-item differences (Miller 2024, section 4.2).

    None for fewer than two items or clusters. Raises ValueError when the two lists differ in length.
    """
    return _error(differences(a, b), None, clusters, correct)


def ratio_standard_error(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Clusters = None, *, correct: bool = True
) -> float | None:
    """Standard error of R = Σ numerators / Σ denominators, linearised: the residuals are numerator - R·denominator.

    Source: Cochran (1977), "Sampling Techniques", section 6.4. None for fewer than two items or clusters.
    Raises ValueError for lists of different lengths and values that are not finite.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators for {len(denominators)} denominators")
    return _error(finite(numerators), finite(denominators), clusters, correct)


def error_interval(values: Sequence[float], clusters: Clusters = None, *, correct: bool = True) -> Interval:
    """The mean ± t · its standard error, t with G-1 degrees of freedom for G clusters (or items).

    The bootstrap's alternative where clusters are few: its percentiles are too narrow there, t is wide.
    None of items, or clusters, without spread.
    """
    data = finite(values)
    return _t_interval(data, clusters, correct, "mean", max(map(abs, data.tolist()), default=0.0))


def paired_error_interval(
    a: Sequence[float], b: Sequence[float], clusters: Clusters = None, *, correct: bool = True
) -> Interval:
    """mean(a - b) over the same items ± t · its paired (clustered) standard error.

    Raises ValueError when the two lists differ in length.
    """
    size = max(map(abs, (*a, *b)), default=0.0)
    return _t_interval(differences(a, b), clusters, correct, "paired difference", size)


def cluster_t_interval(above: Floats, below: Floats, name: str, n: int, size: float) -> Interval:
    """Σ above / Σ below ± t · its standard error, corrected by G/(G-1), t with G-1 degrees of freedom.

    `above`, `below` (G,): the sums over each of G >= 2 clusters of the n items; `size`: as in `bounded`.
    """
    from scipy.stats import t

    groups = len(above)
    value, error = float(above.sum() / below.sum()), _error(above, below, None, correct=True)
    assert error is not None  # there are two clusters
    half = float(t.ppf(0.975, groups - 1)) * error
    freedom = f"{groups - 1} degree{'s' if groups > 2 else ''} of freedom"
    how = f"{name}, t interval with {freedom} over {groups} clusters (too few to resample)"
    alike = unsure(f"{name}; all clusters alike", "their spread")
    return bounded(value, value - half, value + half, how, n, size=size, without=alike)


def _t_interval(values: Floats, clusters: Clusters, correct: bool, name: str, size: float) -> Interval:
    """`size`: of the numbers that the values are, or are differences of."""
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return NO_DATA
    groups, mean = len(sums(values, clusters)), float(values.mean())
    error = _error(values, None, clusters, correct)
    what = "cluster" if groups < n else "item"
    if error is None:
        return Interval(mean, None, None, f"{name} of one {what}: no interval", n)
    half = float(t.ppf(0.975, groups - 1)) * error
    how = f"{name} ± t·SE over {groups} {what}s{', G/(G-1)' if correct else ''}"
    alike = unsure(f"{name}; all {what}s alike", "their spread")
    return bounded(mean, mean - half, mean + half, how, n, size=size, without=alike)


def _error(above: Floats, below: Floats | None, clusters: Clusters, correct: bool) -> float | None:
    """The error of Σ above / Σ below; a mean (below None) has denominators of one."""
    import numpy as np

    weights = np.ones(len(above)) if below is None else below
    above, counts = sums(above, clusters), sums(weights, clusters)
    groups = len(above)
    if groups < 2:
        return None
    residuals = above - counts * (above.sum() / counts.sum())
    error = math.sqrt(float((residuals**2).sum())) / float(counts.sum())
    return error * math.sqrt(groups / (groups - 1)) if correct else error
