"""Metrics as exact ratios: sums over counts since the last log, never means of batch means."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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
        """Metric -> sum / count; a metric nothing counted for is left out, not 0."""
        return {name: total / count for name, (total, count) in self._totals.items() if count}

    def state(self) -> dict[str, tuple[float, float]]:
        """Everything added so far, as plain numbers."""
        return dict(self._totals)

    def load(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Replaces everything added so far."""
        self._totals = {name: (float(total), float(count)) for name, (total, count) in state.items()}

    def clear(self) -> None:
        """Starts afresh."""
        self._totals = {}
