"""No function of the statistics gives an interval of zero width, whatever its data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.evaluation import statistics
from alignment.evaluation.statistics import Interval, bootstrap

BY_RESULT = {"Interval", "SeedSummary", "SeedDifference"}
SHARES = [0.0, 0.5, 1.0, 0.3, 0.1 + 0.2]  # two of them are the same but for rounding
VALUES = [*SHARES, -2.0, 1e6]
SEEDS = st.dictionaries(st.integers(0, 4), st.sampled_from(VALUES), min_size=1, max_size=4)


@st.composite
def data(draw: st.DrawFn) -> tuple[list[float], list[float], list[float], list[int] | None]:
    """Two lists of values, one of shares and the clusters of one set of items."""
    n = draw(st.integers(1, 6))
    one = draw(st.sampled_from(VALUES))
    a = draw(st.one_of(st.just([one] * n), st.lists(st.sampled_from(VALUES), min_size=n, max_size=n)))
    b = draw(st.one_of(st.just(a), st.lists(st.sampled_from(VALUES), min_size=n, max_size=n)))
    shares = draw(
        st.lists(st.sampled_from(draw(st.sampled_from([SHARES, [0.0], [1.0], [0.5]]))), min_size=n, max_size=n)
    )
    return a, b, shares, draw(st.none() | st.lists(st.integers(0, 2), min_size=n, max_size=n))


def intervals(
    a: list[float], b: list[float], shares: list[float], clusters: list[int] | None
) -> Iterator[tuple[str, Interval]]:
    """What every function that resamples items, or takes their errors, says of them."""
    weights, array = [1.0 + i % 2 for i in range(len(a))], np.array(a)
    yield "share_interval", statistics.share_interval(shares, clusters, seed=0)
    yield "rate_interval", statistics.rate_interval(shares, clusters, seed=0)
    yield "wilson", statistics.wilson(sum(x > 0.4 for x in shares), len(shares))
    yield "error_interval", statistics.error_interval(a, clusters)
    yield "paired_error_interval", statistics.paired_error_interval(a, b, clusters)
    for how in ("percentile", "bca"):
        more = {"seed": 0, "bootstrap": how}
        yield "mean_interval", statistics.mean_interval(a, clusters, **more)
        yield "ratio_interval", statistics.ratio_interval(a, weights, clusters, **more)
        yield "paired_difference", statistics.paired_difference(a, b, clusters, **more)
        for statistic in (np.mean, np.median, np.max):
            found = statistics.statistic_interval(
                lambda drawn, of=statistic: float(of(array[drawn])), len(a), clusters, name="x", **more
            )
            yield "statistic_interval", found


@settings(max_examples=60, deadline=None)
@given(data(), SEEDS, SEEDS)
def test_no_interval_has_zero_width(
    items: tuple[list[float], list[float], list[float], list[int] | None],
    one: dict[int, float | None],
    other: dict[int, float | None],
) -> None:
    with mock.patch.object(bootstrap, "RESAMPLES", 60):
        found = list(intervals(*items))
    for a, b in ((one, other), (one, one), (one, dict.fromkeys(one, 0.3))):
        found.append(("difference_over_seeds", statistics.difference_over_seeds(a, b).interval))
        found.append(("over_seeds", statistics.over_seeds(b).interval))
    found.append(("bounded", statistics.bounded(0.3, 0.3, 0.1 + 0.2, "", 1, size=1.0, without="no interval")))
    for name, interval in found:
        assert (interval.low is None) == (interval.high is None), (name, interval)
        if interval.low is None or interval.high is None:
            assert interval.method, name  # says why
        else:
            assert interval.high - interval.low > 1e-13, (name, interval)
    functions = {name: getattr(statistics, name) for name in statistics.__all__}
    returns = {
        name: str(inspect.signature(function).return_annotation)
        for name, function in functions.items()
        if inspect.isfunction(function)
    }
    assert {name for name, _ in found} == {name for name, kind in returns.items() if kind in BY_RESULT}
