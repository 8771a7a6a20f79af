"""How well scores order responses that people (or rules) compared."""

from __future__ import annotations

from collections.abc import Sequence

Ballot = dict[tuple[int, int], int]  # of one annotator: (i, j) with i < j -> +1 i is better, -1 j is better, 0 tied
Matrix = Sequence[Sequence[float]]


def decided_pairs(wins: Matrix) -> list[tuple[int, int]]:
    """(better, worse) for every pair that a majority decided: wins[i][j] > wins[j][i]."""
    everyone = range(len(wins))
    return [(i, j) for i in everyone for j in everyone if wins[i][j] > wins[j][i]]


def pair_credits(scores: Sequence[float], wins: Matrix) -> list[float]:
    """For every decided pair: 1 ordered right, 1/2 the scores tie, 0 ordered wrong."""
    return [credit(scores[better] - scores[worse]) for better, worse in decided_pairs(wins)]


def credit(difference: float) -> float:
    """1 for a positive difference, 1/2 for none, 0 for a negative one."""
    return 0.5 if difference == 0 else float(difference > 0)


def agreement_credits(ballots: Sequence[Ballot]) -> list[float]:
    """Agreement of every annotator with the majority of the others, pair by pair: the ceiling of a scorer.

    1 the same order, 1/2 the annotator calls a tie, 0 the opposite. Pairs that the others left undecided (nobody
    compared them, or as many one way as the other) give nothing, so one annotator alone gives an empty list.
    """
    found = []
    for index, ballot in enumerate(ballots):
        others = [*ballots[:index], *ballots[index + 1 :]]
        for pair, vote in ballot.items():
            majority = sum(other.get(pair, 0) for other in others)
            if majority:
                found.append(credit(vote * majority))
    return found
