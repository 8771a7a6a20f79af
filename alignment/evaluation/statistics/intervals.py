"""What a number of an evaluation is: an estimate with its interval, or a number that has none.

An interval has a width. Where all data say the same, resampling and spread find none, and it would claim certainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
    """An estimate, the bounds of its 95% interval (None = there is none), how it was made, and from how many items."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    n: int


@dataclass(frozen=True)
class Estimate:
    """A number that has no interval (a p-value, a power), and how it was made; None: `method` says why it has none."""

    value: float | None
    method: str


NO_DATA = Interval(None, None, None, "no data", 0)
ROUNDING = 1e-12  # of the size of numbers: those closer together are one number, summed in another order


def bounded(value: float, low: float, high: float, method: str, n: int, *, size: float, without: str) -> Interval:
    """`value` with its bounds; without them, and with the method `without`, where they are one number but for rounding.

    `size`: of the numbers that were summed or subtracted, in their unit.
    """
    if high - low <= ROUNDING * size:
        return Interval(value, None, None, without, n)
    return Interval(value, low, high, method, n)


def clipped(share: Interval) -> Interval:
    """A share with its bounds within 0..1, where a symmetric interval may leave them."""
    if share.low is None or share.high is None:
        return share
    return replace(share, low=max(0.0, share.low), high=min(1.0, share.high))


def unsure(what: str, by: str = "resampling") -> str:
    """The method of a number without an interval because of `what` (all items alike...)."""
    return f"{what}, {by} cannot say how sure that is: no interval"


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
