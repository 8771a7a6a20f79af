"""Metrics as exact ratios: sums over counts since the last log, never means of batch means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MARGINS = "rewards/margins"
_SIDES = ("rewards/chosen", "rewards/rejected")
_TERM = "+"


def term(metric: str, name: str) -> str:
    """What a term of `metric` with sums and counts of its own is called; the metric is the sum of its terms' ratios."""
    return f"{metric}{_TERM}{name}"


def metric_of(name: str) -> str:
    """The metric that sums of this name belong to."""
    return name.partition(_TERM)[0]


def measured_names(sums: Iterable[str]) -> list[str]:
    """The metrics that can come of records with these sums."""
    names = list(dict.fromkeys(map(metric_of, sums)))
    return [*names, MARGINS] if MARGINS not in names and set(_SIDES) <= set(names) else names


class Meter:
    """Adds up what records contribute to every metric, in float64 on the CPU."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, float]] = {}

    def add(self, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> None:
        """Adds one batch: (P,) tensors by metric name."""
        names = list(sums)
        columns = [sums[name] for name in names] + [counts[name] for name in names]
        table = torch.stack([column.detach().float() for column in columns]).cpu().double()  # one transfer
        totals = table.sum(dim=1).tolist()
        for i, name in enumerate(names):
            before = self._totals.get(name, (0.0, 0.0))
            self._totals[name] = before[0] + totals[i], before[1] + totals[len(names) + i]

    def ratios(self) -> dict[str, float]:
        """Metric -> sum / count, summed over its terms; a metric nothing counted for is left out, not 0.

        Where responses come one by one (KTO) none has a margin of its own: `rewards/margins` is then the mean reward of
        the chosen minus that of the rejected, as in TRL.
        """
        undefined = {metric_of(name) for name, (_, count) in self._totals.items() if not count}
        found: dict[str, float] = {}
        for name, (total, count) in self._totals.items():
            if metric_of(name) not in undefined:
                found[metric_of(name)] = found.get(metric_of(name), 0.0) + total / count
        if MARGINS not in self._totals and all(side in found for side in _SIDES):
            found[MARGINS] = found[_SIDES[0]] - found[_SIDES[1]]
        return found

    def state(self) -> dict[str, tuple[float, float]]:
        """Everything added so far, as plain numbers."""
        return dict(self._totals)

    def load(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Replaces everything added so far."""
        self._totals = {name: (float(total), float(count)) for name, (total, count) in state.items()}

    def clear(self) -> None:
        """Starts afresh."""
        self._totals = {}
