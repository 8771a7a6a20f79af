"""Two models' values of one metric, item by item."""

from __future__ import annotations

import pytest

from alignment.evaluation.benchmarks.measures import ItemValue, Measure, in_both
from alignment.evaluation.statistics import mcnemar_exact


@pytest.mark.parametrize("right", [1.0, 100.0], ids=["share", "percent"])
def test_right_and_wrong_items_are_tested_exactly_in_every_unit(right: float) -> None:
    """More changes than sign flips are enumerated for: drawn flips could not come below 1 in 10,000."""
    gained, lost, same = 400, 200, 50
    old = [0.0] * gained + [right] * lost + [0.0, right] * same
    new = [right] * gained + [0.0] * lost + [0.0, right] * same
    first, second = (
        Measure("accuracy", {i: ItemValue(value, i) for i, value in enumerate(values)}) for values in (old, new)
    )
    both = in_both(first, second)
    found = both.mcnemar()
    assert found is not None
    assert (found.gained, found.lost) == (gained, lost)
    assert both.p(seed=1).value == mcnemar_exact(gained, lost) < 1e-12


def test_values_between_right_and_wrong_have_no_mcnemar() -> None:
    first, second = (
        Measure("credit", {i: ItemValue(value, i) for i, value in enumerate(values)})
        for values in ([0.0, 50.0, 100.0], [100.0, 100.0, 0.0])
    )
    assert in_both(first, second).mcnemar() is None
