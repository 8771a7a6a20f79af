"""What a comparison could have seen: all of it from the standard error of the paired (clustered) difference."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from alignment.evaluation.statistics import minimum_detectable_effect, ratio_standard_error, units_needed

_ROUNDING = 1e-9  # a difference that is so small beside its error is one of rounding


@dataclass(frozen=True)
class Detectable:
    """`mde`: the true difference found with probability of about 80% at alpha 0.05, two-sided; in the metric's unit.

    By the normal approximation; below 100 items or 10 clusters the row's own test finds it in nearer 70%.
    `units_needed`: items to find the observed difference so, in clusters as they are. `design_effect`: how many times
    clusters multiply the variance, as if each item stood alone = 1. None: undefined, no difference, no clusters.
    """

    mde: float | None
    units_needed: int | None
    design_effect: float | None


def detectable(
    changes: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[Hashable],
    difference: float | None,
    error: float | None,
) -> Detectable:
    """Of the per-item changes (n,) with their weights; `error` is the standard error of Σ changes / Σ weights."""
    mde = minimum_detectable_effect(error).value
    if not error or difference is None:
        return Detectable(mde, None, None)
    n = len(changes)
    needed = units_needed(difference, n * error**2) if abs(difference) > _ROUNDING * error else None
    alone = ratio_standard_error(changes, weights) if len(set(clusters)) < n else None
    return Detectable(mde, needed, (error / alone) ** 2 if alone else None)
