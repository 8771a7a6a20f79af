"""Which judgements of a record count, and how they add up to shares for every pair of its responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from alignment.preferences.judgement import Judgement, Order
from alignment.preferences.record import PreferenceRecord

Matrix = tuple[tuple[float, ...], ...]
OptionalMatrix = tuple[tuple[float | None, ...], ...]


def counted_judgements(record: PreferenceRecord) -> list[Judgement]:
    """The judgements that count: of each annotator the latest revision, if that one is submitted.

    A `gold` judgement is the answer key of a control item and nobody's vote: it never counts, in training as in
    evaluation. Annotators are controlled by comparing theirs with it, and theirs count.

    A draft changes nothing until it is submitted. A later revision that is skipped or retracted withdraws the
    earlier one: going back to an answer that the annotator had already replaced would put words in their mouth.
    """
    latest: dict[str, Judgement] = {}
    for judgement in record.judgements:
        if judgement.gold:
            continue
        held = latest.get(judgement.annotator.id)
        if judgement.status != "draft" and (held is None or judgement.revision > held.revision):
            latest[judgement.annotator.id] = judgement
    return [judgement for judgement in latest.values() if judgement.status == "submitted"]


def declined(record: PreferenceRecord) -> bool:
    """Whether everyone who was shown the record skipped it or took their judgement back, and nobody is still at it.

    Of each annotator the latest revision decides, a draft too. A record that nobody was shown is not declined.
    """
    latest: dict[str, Judgement] = {}
    for judgement in record.judgements:
        held = latest.get(judgement.annotator.id)
        if not judgement.gold and (held is None or judgement.revision > held.revision):
            latest[judgement.annotator.id] = judgement
    return bool(latest) and all(judgement.status in ("skipped", "retracted") for judgement in latest.values())


@dataclass(frozen=True, slots=True)
class Tally:
    """Shares of judgements for K responses; every matrix is (K, K), row against column.

    `wins[i][j]`: of the judgements that compare i and j, the share with i strictly above j. `ties[i][j]`: the
    share with both in one tier. wins[i][j] + wins[j][i] + ties[i][j] is 1, or 0 where nobody compared the two.
    `margins[i][j]`: mean signed strength, + where i is above j; None where nobody stated one. `bad[i]`: of the
    judgements that place i, the share that call it bad. `n_annotators`: judgements that compare anything.

    `tiers`: every order that compares anything, by itself: the tier of each response, 0 = best, -1 = not in it.
    `tier_weights`: 1 / n_annotators for each, since a judgement of several orders says all of them.
    """

    wins: Matrix
    ties: Matrix
    margins: OptionalMatrix
    bad: tuple[float, ...]
    n_annotators: int
    tiers: tuple[tuple[int, ...], ...]
    tier_weights: tuple[float, ...]


class _Counts:
    """Running counts over orders; `finish` turns them into shares."""

    def __init__(self, n_responses: int) -> None:
        self.above = [[0] * n_responses for _ in range(n_responses)]
        self.tied = [[0] * n_responses for _ in range(n_responses)]
        self.strengths: list[list[list[float]]] = [[[] for _ in range(n_responses)] for _ in range(n_responses)]
        self.placed = [0] * n_responses
        self.bad = [0] * n_responses
        self.tiers: list[tuple[int, ...]] = []

    def add(self, order: Order, position: dict[str, int]) -> None:
        level = {position[response]: depth for response, depth in order.levels().items()}
        if len(level) > 1:
            self.tiers.append(tuple(level.get(i, -1) for i in range(len(position))))
        # With three tiers or more the strength belongs to the whole order, not to any one pair of it.
        strength = order.strength if len(order.tiers) <= 2 else None
        for i, j in combinations(level, 2):
            if level[i] == level[j]:
                self.tied[i][j] += 1
                self.tied[j][i] += 1
            else:
                upper, lower = (i, j) if level[i] < level[j] else (j, i)
                self.above[upper][lower] += 1
            if strength is not None:
                signed = strength * ((level[i] < level[j]) - (level[i] > level[j]))
                self.strengths[i][j].append(signed)
                self.strengths[j][i].append(-signed)

    def finish(self, n_annotators: int) -> Tally:
        n = range(len(self.placed))
        total = [[self.above[i][j] + self.above[j][i] + self.tied[i][j] for j in n] for i in n]
        return Tally(
            wins=tuple(tuple(_share(self.above[i][j], total[i][j]) for j in n) for i in n),
            ties=tuple(tuple(_share(self.tied[i][j], total[i][j]) for j in n) for i in n),
            margins=tuple(tuple(_mean(self.strengths[i][j]) for j in n) for i in n),
            bad=tuple(_share(self.bad[i], self.placed[i]) for i in n),
            n_annotators=n_annotators,
            tiers=tuple(self.tiers),
            tier_weights=tuple(1 / n_annotators for _ in self.tiers),
        )


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def tally(record: PreferenceRecord, judgements: Sequence[Judgement], criterion: str | None) -> Tally:
    """Add up the orders of `judgements` under `criterion` (None = all of them)."""
    position = {response.id: i for i, response in enumerate(record.responses)}
    counts = _Counts(len(position))
    n_annotators = 0
    for judgement in judgements:
        orders = [order for order in judgement.orders if criterion in (None, order.criterion)]
        placed = {position[response] for order in orders for response in order.levels()}
        bad = {position[r] for order in orders if order.verdict == "both_bad" for r in order.levels()}
        for order in orders:
            counts.add(order, position)
        for i in placed:
            counts.placed[i] += 1
            counts.bad[i] += i in bad
        n_annotators += any(len(order.levels()) > 1 for order in orders)
    return counts.finish(n_annotators)
