"""How much a number differs between groups of people: over texts that continue prompts, and over pairs of prompts.

The largest difference between groups of one domain (gender, religion...) is a maximum of noisy means: above 0 even
where all groups are treated alike, the more so the more groups there are. So it stands beside a permutation test, and
its bootstrap interval, which is as biased, is not to be read as a test.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alignment.evaluation.statistics import (
    NO_DATA,
    RESAMPLES,
    Estimate,
    Interval,
    bounded,
    mean_interval,
    share_interval,
    unsure,
)

if TYPE_CHECKING:
    from alignment.evaluation.statistics import Floats

PERMUTATIONS = 1999  # drawn; the observed labels are counted among them, so p is at least 1/2000


@dataclass(frozen=True)
class Observation:
    """One number about a group. Those of one `unit` (a template that groups share, an article) are dependent."""

    domain: str
    group: str
    unit: Hashable
    value: float


def gap(observations: Sequence[Observation], *, seed: int) -> tuple[Interval, Estimate]:
    """The largest difference between the means of two groups of one domain, and its permutation p.

    T = max_d (max_{g in d} m_g - min_{g in d} m_g). Under the null hypothesis that groups do not matter their labels
    can be exchanged: those of a domain's numbers within a unit, where units are shared by groups (matched templates),
    or else those of whole units (articles). p = (1 + #{T* >= T}) / (1 + PERMUTATIONS) (Phipson & Smyth 2010).
    Undefined where no domain has two groups; no p where all numbers are the same.
    """
    table = _Table(observations)
    if not table.cells:
        return NO_DATA, Estimate(None, "no data")
    value = float(table.largest_gap(table.sums[None], table.counts[None])[0])
    n = len(observations)
    if math.isnan(value):
        return Interval(None, None, None, "no domain has two groups", n), Estimate(None, "one group")
    drawn = table.largest_gap(*table.resampled(seed))
    return _bounded(value, drawn, table, n, "largest gap of group means"), table.exchanged(value, seed)


def gap_change(here: Sequence[Observation], there: Sequence[Observation], *, seed: int) -> Interval:
    """gap(here) - gap(there) of two models on the same prompts, one set of resampled units for both.

    Raises ValueError when the two are not about the same prompts in the same order.
    """
    if [(o.domain, o.group, o.unit) for o in here] != [(o.domain, o.group, o.unit) for o in there]:
        raise ValueError("a paired change needs the same prompts in both")
    mine, other = _Table(here), _Table(there)
    if not mine.cells:
        return NO_DATA
    value = float(
        mine.largest_gap(mine.sums[None], mine.counts[None])[0]
        - other.largest_gap(other.sums[None], other.counts[None])[0]
    )
    if math.isnan(value):
        return Interval(None, None, None, "no domain has two groups", len(here))
    drawn = mine.largest_gap(*mine.resampled(seed)) - other.largest_gap(*other.resampled(seed))
    return _bounded(value, drawn, mine, len(here), "paired difference of largest gaps")


def from_domain_mean(observations: Sequence[Observation], *, seed: int) -> dict[tuple[str, str], Interval]:
    """(domain, group) -> the group's mean minus the mean of all its domain's group means: m_g - Σ_h m_h / G."""
    import numpy as np

    table = _Table(observations)
    if not table.cells:
        return {}
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (table.sums / table.counts)[None]
        sums, counts = table.resampled(seed)
        drawn = sums / counts
    found = {}
    for column, (domain, group) in enumerate(table.groups):
        others = [i for i, (name, _) in enumerate(table.groups) if name == domain]
        if len(others) < 2:
            continue
        value = float(means[0, column] - means[0, others].mean())
        n = int(table.counts[column])
        moved = drawn[:, column] - drawn[:, others].mean(axis=1)
        found[domain, group] = _bounded(value, moved, table, n, "group mean - mean of the domain's groups")
    return found


def preference(a: Sequence[float], b: Sequence[float], units: Sequence[Hashable], *, seed: int) -> Interval:
    """Share of pairs whose first side has the higher score, equal ones as 1/2."""
    return share_interval([(x > y) + (x == y) / 2 for x, y in zip(a, b, strict=True)], units, seed=seed)


def pooled_deviation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """√((s_a² + s_b²) / 2), what Cohen's d divides by (Cohen 1988, section 2.2); None below two pairs."""
    import numpy as np

    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} scores: a pair has both")
    if len(a) < 2:
        return None
    return math.sqrt((float(np.var(a, ddof=1)) + float(np.var(b, ddof=1))) / 2)


def standardised_gap(
    a: Sequence[float], b: Sequence[float], units: Sequence[Hashable], deviation: float | None, *, seed: int
) -> Interval:
    """mean(a - b) / deviation, the deviation held fixed while units are resampled.

    Undefined without a deviation, and where it is 0: a scorer that gives everything one score has no unit.
    """
    if not a:
        return NO_DATA
    if not deviation:
        return Interval(None, None, None, "the scores do not vary: no unit to measure a gap in", len(a))
    changes = [(x - y) / deviation for x, y in zip(a, b, strict=True)]
    found = mean_interval(changes, units, seed=seed)
    return replace(found, method=f"{found.method}; in pooled standard deviations of the scores, held fixed")


class _Table:
    """Sums and counts of the observations by unit and group.

    A cell is what one unit says about one group. Units that are about one group only (articles) are resampled group by
    group, so that every resample has every group; the others (templates) all together.
    """

    def __init__(self, observations: Sequence[Observation]) -> None:
        import numpy as np

        self.groups = sorted({(o.domain, o.group) for o in observations})
        columns = {group: column for column, group in enumerate(self.groups)}
        rows = {unit: row for row, unit in enumerate(dict.fromkeys(o.unit for o in observations))}
        totals, numbers = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
        for o in observations:
            totals[rows[o.unit], columns[o.domain, o.group]] += o.value
            numbers[rows[o.unit], columns[o.domain, o.group]] += 1
        self.by_unit, self.counted = totals, numbers
        self.cells = [(int(row), int(column)) for row, column in zip(*numbers.nonzero(), strict=True)]
        self.sums, self.counts = totals.sum(axis=0), numbers.sum(axis=0)
        self.alike = len({o.value for o in observations}) == 1

    def largest_gap(self, sums: Floats, counts: Floats) -> Floats:
        """T of every row of sums and counts (B, groups): (B,). NaN where no domain has two groups with numbers."""
        import numpy as np

        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / counts
        spans = [np.full(len(means), np.nan)]
        for domain in dict.fromkeys(name for name, _ in self.groups):
            own = means[:, [column for column, (name, _) in enumerate(self.groups) if name == domain]]
            if own.shape[1] > 1:
                spans.append(own.max(axis=1) - own.min(axis=1))  # NaN when a group has none
        return np.asarray(np.fmax.reduce(spans), float)

    def strata(self) -> list[list[int]]:
        """Units that are resampled together."""
        found: dict[int, list[int]] = {}
        for row, numbers in enumerate(self.counted):
            about = numbers.nonzero()[0]
            found.setdefault(int(about[0]) if len(about) == 1 else -1, []).append(row)
        return list(found.values())

    def resampled(self, seed: int) -> tuple[Floats, Floats]:
        """Sums and counts (RESAMPLES, groups) of units drawn with replacement."""
        import numpy as np

        rng = np.random.default_rng(seed)
        shape = (RESAMPLES, len(self.groups))
        sums, counts = np.zeros(shape), np.zeros(shape)
        for rows in self.strata():
            drawn = rng.multinomial(len(rows), [1 / len(rows)] * len(rows), size=RESAMPLES).astype(float)
            sums += drawn @ self.by_unit[rows]
            counts += drawn @ self.counted[rows]
        return sums, counts

    def exchanged(self, value: float, seed: int) -> Estimate:
        """The p of T = `value` when the labels of the cells of a block are exchanged."""
        import numpy as np

        if self.alike:
            return Estimate(None, "all items alike, nothing to test")
        within: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for row, column in self.cells:
            within.setdefault((row, self.groups[column][0]), []).append((row, column))
        blocks: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for (row, domain), cells in within.items():
            blocks.setdefault((row if len(cells) > 1 else -1, domain), []).extend(cells)
        rng, draws = np.random.default_rng(seed), np.arange(PERMUTATIONS)
        sums, counts = np.zeros((2, PERMUTATIONS, len(self.groups)))
        for cells in blocks.values():
            labels = np.tile(np.array([column for _, column in cells]), (PERMUTATIONS, 1))
            for (row, column), given in zip(cells, rng.permuted(labels, axis=1).T, strict=True):
                sums[draws, given] += self.by_unit[row, column]
                counts[draws, given] += self.counted[row, column]
        # Sums of the same numbers in another order differ by rounding, which must not decide.
        reached = int((self.largest_gap(sums, counts) >= value - 1e-9 * max(1.0, abs(value))).sum())
        shared = any(row >= 0 for row, _ in blocks)
        where = "within templates" if shared else "of whole articles within domains"
        method = f"{PERMUTATIONS} exchanges of group labels {where}"
        return Estimate((1 + reached) / (1 + PERMUTATIONS), method)


def _bounded(value: float, drawn: Floats, table: _Table, n: int, name: str) -> Interval:
    """The percentile interval; none where a stratum is a single unit, a group is not drawn, or all resamples agree."""
    import numpy as np

    if not np.isfinite(drawn).all() or min(len(rows) for rows in table.strata()) < 2:
        return Interval(value, None, None, f"{name}; too few templates for an interval", n)
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    what = f"{name}, percentile bootstrap over templates or articles, {RESAMPLES} resamples"
    alike = unsure(f"{name}; the resamples of templates or articles agree")
    return bounded(value, low, high, what, n, size=max(1.0, float(abs(drawn).max())), without=alike)
