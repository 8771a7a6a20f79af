"""Pairs of responses as annotators judged them and a scorer scored them, one by one: what breakdowns are made of."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.evaluation.metrics.rankings import credit

NOT_STATED = "not stated"
LENGTH_STEPS = ((0.1, "under 10%"), (0.5, "10% to 50%"), (math.inf, "50% or more"))  # of the longer response's length
# Dimensions of groups whose values have an order of their own; those of the others come by size.
ORDERED = {
    "preferred response": ("the longer", "the shorter", "as long"),
    "length difference": tuple(name for _, name in LENGTH_STEPS),
    "annotators": ("one", "several, of one mind", "several, divided"),
    "harm": ("found", "none found"),
}


def _davidson(difference: float, nu: float) -> float:
    """P(i ≻ j) + P(i ~ j) / 2 at r_i - r_j >= 0, by Davidson (1970): see `reward.losses.davidson`."""
    half = math.exp(-difference / 2)
    return (1 + nu / 2 * half) / (1 + half**2 + nu * half)


def _rao_kupper(difference: float, theta: float) -> float:
    """P(i ≻ j) + P(i ~ j) / 2 at r_i - r_j >= 0, by Rao and Kupper (1967): see `reward.losses.rao_kupper`."""
    whole = math.exp(-difference)
    return (1 + 1 / (1 + theta * whole) - whole / (whole + theta)) / 2


TIES = {"davidson": _davidson, "rao_kupper": _rao_kupper}


@dataclass(frozen=True)
class JudgedPair:
    """Two responses of one prompt that somebody compared.

    Args:
        group: what the prompt is clustered by.
        facts: dimension -> value of the record (dataset, language); None where the record does not say.
        difference: score of the first response minus that of the second; None when the record could not be scored.
        lengths: characters of the first and of the second.
        votes: annotator -> 1 the first is better, -1 the second, 0 tied.
        ties: a row of TIES and its parameter, for scores of a model that was trained with it; None for any other.
    """

    group: Hashable
    facts: Mapping[str, str | None]
    difference: float | None
    lengths: tuple[int, int]
    votes: Mapping[str, int]
    ties: tuple[str, float] | None = None

    @property
    def majority(self) -> int:
        """The sign of the net vote: 1 the first, -1 the second, 0 undecided."""
        net = sum(self.votes.values())
        return (net > 0) - (net < 0)

    @property
    def longer(self) -> int:
        """1 the first is the longer, -1 the second, 0 neither."""
        return (self.lengths[0] > self.lengths[1]) - (self.lengths[0] < self.lengths[1])

    def agrees(self, sign: int) -> float:
        """1 when the scores order the pair as `sign` (1 the first, -1 the second) says, 1/2 equal scores, 0 not."""
        return credit(self.scored * sign)

    @property
    def scored(self) -> float:
        """The difference of a pair that has one. Raises ValueError for another."""
        if self.difference is None:
            raise ValueError("this pair has no scores; leave it out and count it")
        return self.difference

    @property
    def confidence(self) -> float:
        """The share of votes that the scorer expects for the order it gives, ties counting 1/2: 0.5..1.

        σ(|s_i - s_j|) of a Bradley-Terry scorer, which knows no ties; P(above) + P(tie) / 2 of a model of `ties`.
        """
        if self.ties is None:
            return 1 / (1 + math.exp(-abs(self.scored)))
        name, parameter = self.ties
        return TIES[name](abs(self.scored), parameter)

    @property
    def supported(self) -> float:
        """Share of the votes for the order that the scorer gives, ties counting 1/2; 1/2 when its scores are equal.

        Taken for that order, not for the pair as stored, so the order of responses in a file is of no influence.
        """
        sign = (self.scored > 0) - (self.scored < 0)
        return sum(credit(vote * sign) for vote in self.votes.values()) / len(self.votes)


def judged_pairs(
    scores: Sequence[float | None],
    lengths: Sequence[int],
    ballots: Mapping[str, Iterable[Sequence[int]]],
    group: Hashable,
    facts: Mapping[str, str | None],
    ties: tuple[str, float] | None = None,
) -> list[JudgedPair]:
    """Every pair of a record that anybody compared; `ballots`: annotator -> votes [i, j, sign] with i < j."""
    votes: dict[tuple[int, int], dict[str, int]] = {}
    for annotator, cast in ballots.items():
        for i, j, sign in cast:
            votes.setdefault((i, j), {})[annotator] = sign
    whole = [score for score in scores if score is not None]
    scored = whole if len(whole) == len(scores) else None
    return [
        JudgedPair(group, facts, scored[i] - scored[j] if scored else None, (lengths[i], lengths[j]), said, ties)
        for (i, j), said in sorted(votes.items())
    ]


def grouped_pairs(pairs: Sequence[JudgedPair]) -> dict[tuple[str, str], list[JudgedPair]]:
    """Decided pairs by (dimension, value), for every dimension that tells some of them apart."""
    found: dict[str, dict[str, list[JudgedPair]]] = {}
    for pair in pairs:
        for dimension, value in {**_said_of(pair), **pair.facts}.items():
            found.setdefault(dimension, {}).setdefault(NOT_STATED if value is None else value, []).append(pair)
    return {
        (dimension, value): groups[value]
        for dimension, groups in found.items()
        if len(groups) > 1
        for value in _in_order(dimension, groups)
    }


def _in_order(dimension: str, groups: Mapping[str, Sequence[Any]]) -> list[str]:
    """Values in the dimension's own order or the largest group first; what is not stated comes last."""
    place = {value: index for index, value in enumerate(ORDERED.get(dimension, ()))}
    return sorted(groups, key=lambda v: (v == NOT_STATED, place.get(v, len(place)), -len(groups[v]), v))


def _said_of(pair: JudgedPair) -> dict[str, str]:
    """The groups that a decided pair itself belongs to, from its lengths and votes."""
    shorter, longer = sorted(pair.lengths)
    share = (longer - shorter) / longer if longer else 0.0
    of_one_mind = len(set(pair.votes.values())) == 1
    return {
        "preferred response": {1: "the longer", -1: "the shorter", 0: "as long"}[pair.longer * pair.majority],
        "length difference": next(name for limit, name in LENGTH_STEPS if share < limit),
        "annotators": "one" if len(pair.votes) == 1 else f"several, {'of one mind' if of_one_mind else 'divided'}",
    }
