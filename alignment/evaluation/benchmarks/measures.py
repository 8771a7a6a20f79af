"""What stored samples say of their items: the values whose mean is a metric.

Comparisons, tests and the intervals of forgetting are made of them. Only metrics that are means (or ratios of sums)
over items have item values; calibration errors and correlations have none, and are compared over seeds.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from alignment.evaluation.statistics import Estimate, McNemar, mcnemar, sign_flip_test

RIGHT = {"share": 1.0, "percent": 100.0}  # unit -> what a right item is worth; no other unit has right and wrong items


@dataclass(frozen=True)
class ItemValue:
    """One item of a metric. `cluster`: items that share it are no independent evidence; `weight`: its denominator."""

    value: float | None  # None: it could not be scored
    cluster: Hashable
    weight: float = 1.0


@dataclass(frozen=True)
class Measure:
    """A metric as Σ value / Σ weight over items, by item."""

    metric: str
    items: Mapping[Hashable, ItemValue]
    unit: str = "share"
    higher_is_better: bool | None = True

    def value(self) -> float | None:
        """The metric over the items that have a value; None where none has."""
        scored = [(item.value, item.weight) for item in self.items.values() if item.value is not None]
        return sum(value for value, _ in scored) / sum(weight for _, weight in scored) if scored else None


@dataclass(frozen=True)
class Both:
    """The items of a metric that two models both have a value for: `old` and `new` values, item by item."""

    old: tuple[float, ...]
    new: tuple[float, ...]
    weights: tuple[float, ...]
    clusters: tuple[Hashable, ...]
    unit: str

    @property
    def difference(self) -> float | None:
        """Σ (new - old) / Σ weight; None without items."""
        return (sum(self.new) - sum(self.old)) / sum(self.weights) if self.weights else None

    @property
    def independent(self) -> bool:
        return len(set(self.clusters)) == len(self.clusters)

    def mcnemar(self) -> McNemar | None:
        """Gained and lost items; None where items are not right or wrong."""
        values, right = (*self.old, *self.new), RIGHT.get(self.unit)
        if right is None or not values or any(value not in (0, right) for value in values):
            return None
        return mcnemar([v / right for v in self.new], [v / right for v in self.old])

    def p(self, *, seed: int) -> Estimate:
        """Two-sided: exact McNemar where items are right or wrong and independent, else sign flips of clusters."""
        changed = self.mcnemar()
        if changed is not None and self.independent:
            return changed.p
        return sign_flip_test(self.new, self.old, self.clusters, seed=seed)


def in_both(old: Measure, new: Measure) -> Both:
    """The items of a metric that both have a value for, in the order of the first."""
    found = []
    for key, item in old.items.items():
        other = new.items.get(key)
        if other is not None and item.value is not None and other.value is not None:
            found.append((float(item.value), float(other.value), item.weight, item.cluster))
    values, others, weights, clusters = zip(*found, strict=True) if found else ((), (), (), ())
    return Both(values, others, weights, clusters, old.unit if old.unit == new.unit else "two units")
