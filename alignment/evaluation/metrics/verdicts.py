"""A judge's verdicts on two answers, each pair shown in both orders (Zheng et al. 2023, arXiv 2306.05685).

A win counts where both orders name the same answer; everything else that could be read is a tie, as MT-Bench has it.
A judge that always names the first answer so gives ties only: consistency 0, win rate 1/2, first-position rate 1.
Consistency is not quality: a judge may be wrong both times.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from alignment.evaluation.statistics import Interval, rate_interval, share_interval

Winner = Literal["first", "second", "tie"]

_SHOWN_FIRST = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class BothOrders:
    """Verdicts on one pair: its answer is shown first in `forward`, second in `backward`; None: could not be read."""

    forward: Winner | None
    backward: Winner | None
    cluster: Hashable
    identical: bool = False  # the two answers are one text: a tie, and nobody was asked

    @property
    def outcomes(self) -> tuple[float | None, float | None]:
        """1 a win of the answer, 1/2 a tie, 0 a defeat, in each order."""
        forward = None if self.forward is None else _SHOWN_FIRST[self.forward]
        backward = None if self.backward is None else 1 - _SHOWN_FIRST[self.backward]
        return forward, backward

    @property
    def preference(self) -> float | None:
        """1 or 0 where both orders say so, else 1/2; None where a verdict is missing."""
        if self.identical:
            return 0.5
        forward, backward = self.outcomes
        if forward is None or backward is None:
            return None
        return forward if forward == backward else 0.5

    @property
    def mean(self) -> float | None:
        """Mean outcome of the two orders; None where a verdict is missing."""
        if self.identical:
            return 0.5
        forward, backward = self.outcomes
        return None if forward is None or backward is None else (forward + backward) / 2

    @property
    def consistent(self) -> bool | None:
        """Whether both orders say the same; None where a verdict is missing, or nobody was asked."""
        forward, backward = self.outcomes
        return None if self.identical or forward is None or backward is None else forward == backward


def mean_win_rate(pairs: Sequence[BothOrders], *, seed: int) -> Interval:
    """Mean outcome over both orders, without asking that they agree."""
    known = [(pair.mean, pair.cluster) for pair in pairs if pair.mean is not None]
    return rate_interval([value for value, _ in known], [cluster for _, cluster in known], seed=seed)


def consistency(pairs: Sequence[BothOrders], *, seed: int) -> Interval:
    """Share of pairs on which both orders say the same, of those with two verdicts."""
    known = [(float(pair.consistent), pair.cluster) for pair in pairs if pair.consistent is not None]
    return share_interval([value for value, _ in known], [cluster for _, cluster in known], seed=seed)


def first_position_rate(pairs: Sequence[BothOrders], *, seed: int) -> Interval:
    """Share of the verdicts for the answer shown first, of those that name a winner; 1/2 without position bias."""
    named = [
        (float(verdict == "first"), pair.cluster)
        for pair in pairs
        if not pair.identical
        for verdict in (pair.forward, pair.backward)
        if verdict in ("first", "second")
    ]
    return share_interval([value for value, _ in named], [cluster for _, cluster in named], seed=seed)


def unparseable_share(pairs: Sequence[BothOrders], *, seed: int) -> Interval:
    """Share of the replies asked for, two per pair, that hold no verdict."""
    asked = [pair for pair in pairs if not pair.identical]
    lost = [(float(said is None), pair.cluster) for pair in asked for said in (pair.forward, pair.backward)]
    return share_interval([value for value, _ in lost], [cluster for _, cluster in lost], seed=seed)
