"""Pairs of held-out responses that people compared: what human_wins and judge_agreement are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from alignment.evaluation.benchmarks.benchmark import EvalContext

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord

PEOPLE = frozenset({"human", "aggregate"})  # kinds of annotators; an aggregate is what several people said together


@dataclass(frozen=True)
class HumanPair:
    """Responses `first` < `second` (positions) of a record; `votes`: annotator -> 1 the first is better, -1, 0 tied."""

    record: PreferenceRecord
    first: int
    second: int
    votes: dict[str, int]

    @property
    def id(self) -> str:
        return f"{self.record.id}:{self.first}-{self.second}"

    def text(self, position: int) -> str:
        """All messages of a response, as scorers are given them."""
        return "\n".join(message.content for message in self.record.responses[position].messages)


def human_pairs(context: EvalContext) -> list[HumanPair]:
    """Every pair of the held-out records that people compared, under the context's criterion.

    What rules and models said is left out, and so are control items with a known answer and records that a policy
    could not be asked (tools, turns of others). DataError where the criterion is unclear.
    """
    from alignment.preferences.views import choose_criterion, unusable

    records = [record for record in context.held_out() if len(record.responses) > 1 and not unusable(record, False)]
    judged = [(record, _levels(record)) for record in records]
    judged = [(record, levels) for record, levels in judged if levels]
    criterion = choose_criterion([record for record, _ in judged], context.criterion) if judged else None
    return [pair for record, levels in judged for pair in _pairs(record, levels, criterion)]


Levels = Sequence[tuple[str, str, dict[int, int]]]  # annotator, criterion, position -> tier, 0 the best


def _levels(record: PreferenceRecord) -> Levels:
    from alignment.preferences.tally import counted_judgements

    position = {response.id: i for i, response in enumerate(record.responses)}
    return [
        (judgement.annotator.id, order.criterion, {position[one]: tier for one, tier in order.levels().items()})
        for judgement in counted_judgements(record)
        if judgement.annotator.kind in PEOPLE
        for order in judgement.orders
    ]


def _pairs(record: PreferenceRecord, levels: Levels, criterion: str | None) -> list[HumanPair]:
    votes: dict[tuple[int, int], dict[str, int]] = {}
    for annotator, about, tiers in levels:
        if about == criterion:
            for i, j in combinations(sorted(tiers), 2):
                votes.setdefault((i, j), {})[annotator] = (tiers[j] > tiers[i]) - (tiers[j] < tiers[i])
    return [HumanPair(record, i, j, said) for (i, j), said in sorted(votes.items())]
