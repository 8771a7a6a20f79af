"""Many tests at once: p-values adjusted over all cells of a table.

A cell without a p-value (None) was not tested: it stays None and does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

PValues = Sequence[float | None]


def holm(p_values: PValues) -> list[float | None]:
    """Family-wise error (Holm 1979): max over j <= i of (m - j + 1) p_(j), capped at 1. For claims.

    Raises ValueError for a p-value outside 0..1.
    """
    order = _ascending(p_values)
    found = accumulate(((len(order) - i) * p for i, (p, _) in enumerate(order)), max)
    return _in_place(p_values, order, found)


def benjamini_hochberg(p_values: PValues) -> list[float | None]:
    """False discovery rate (Benjamini & Hochberg 1995): min over j >= i of m p_(j) / j. For exploring.

    Raises ValueError for a p-value outside 0..1.
    """
    order = _ascending(p_values)
    m = len(order)
    found = accumulate((order[j - 1][0] / (j / m) for j in range(m, 0, -1)), min)
    return _in_place(p_values, order[::-1], found)


CORRECTIONS: Mapping[str, Callable[[PValues], list[float | None]]] = {
    "Holm": holm,
    "Benjamini-Hochberg": benjamini_hochberg,
}


def _ascending(p_values: PValues) -> list[tuple[float, int]]:
    """The p-values of tested cells with their places."""
    tested = sorted((float(p), place) for place, p in enumerate(p_values) if p is not None)
    if any(not 0 <= p <= 1 for p, _ in tested):
        raise ValueError("a p-value is in 0..1")
    return tested


def _in_place(p_values: PValues, order: Sequence[tuple[float, int]], found: Iterable[float]) -> list[float | None]:
    adjusted: list[float | None] = [None] * len(p_values)
    for (_, place), p in zip(order, found, strict=True):
        adjusted[place] = min(1.0, p)
    return adjusted
