"""Judged pairs: the same facts as the votes and scores of the record, pair by pair, and groups that add up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from alignment.evaluation.metrics.judged import NOT_STATED, JudgedPair, grouped_pairs, judged_pairs
from alignment.evaluation.metrics.rankings import decided_pairs, pair_credits
from reward.losses import RANKING_LOSSES

# 0 > 1 says a twice b; 1 and 2 are tied for a; 0 < 2 says b; nobody compared 0 and 3.
BALLOTS = {"a": [[0, 1, 1], [1, 2, 0], [1, 3, 1]], "b": [[0, 1, -1], [0, 2, -1]], "c": [[0, 1, 1]]}
WINS = [[0, 2 / 3, 0, 0], [1 / 3, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


def pair(difference: float | None = 1.0, lengths: tuple[int, int] = (10, 20), **votes: int) -> JudgedPair:
    return JudgedPair("g", {}, difference, lengths, votes or {"a": 1})


def test_every_compared_pair_once_with_all_votes() -> None:
    pairs = judged_pairs([3.0, 1.0, 2.0, 1.0], [4, 3, 2, 1], BALLOTS, "g", {"dataset": "x"})
    assert [p.votes for p in pairs] == [{"a": 1, "b": -1, "c": 1}, {"b": -1}, {"a": 0}, {"a": 1}]
    assert [p.difference for p in pairs] == [2.0, 1.0, -1.0, 0.0]
    assert [p.lengths for p in pairs] == [(4, 3), (4, 2), (3, 2), (3, 1)]
    decided = [p for p in pairs if p.majority]
    # the same pairs and credits as from the matrix of shares
    assert len(decided) == len(decided_pairs(WINS))
    assert sorted(p.agrees(p.majority) for p in decided) == sorted(pair_credits([3.0, 1.0, 2.0, 1.0], WINS))


def test_a_record_without_all_its_scores_has_pairs_without() -> None:
    pairs = judged_pairs([3.0, None, 2.0, 1.0], [4, 3, 2, 1], BALLOTS, "g", {})
    assert [p.difference for p in pairs] == [None] * 4
    with pytest.raises(ValueError, match="leave it out and count it"):
        _ = pairs[0].confidence


def test_confidence_and_support_do_not_depend_on_the_order_of_responses() -> None:
    sure, turned = pair(2.0, a=1, b=0, c=-1, d=1), pair(-2.0, a=-1, b=0, c=1, d=-1)
    assert sure.confidence == turned.confidence == pytest.approx(1 / (1 + math.exp(-2)))
    assert sure.supported == turned.supported == (1 + 0.5 + 0 + 1) / 4
    assert pair(-2.0, a=1).supported == 0.0
    assert (pair(0.0, a=1).supported, pair(0.0, a=1).confidence) == (0.5, 0.5)
    assert pair(2e4, a=1).confidence == 1.0


@pytest.mark.parametrize(("loss", "options"), [("davidson", {"nu": 0.7}), ("rao_kupper", {"theta": 3.0})])
@pytest.mark.parametrize("difference", [0.0, 0.4, -2.5])
def test_a_model_of_ties_is_as_sure_as_its_loss_says(loss: str, options: dict[str, float], difference: float) -> None:
    rewards, nothing = torch.tensor([[difference, 0.0]], dtype=torch.float64), torch.zeros(1, 2, 2)

    def probability(i: int, tied: bool) -> float:
        said = nothing.clone()
        said[0, i, 1 - i] = 1.0
        wins, ties = (nothing, said + said.transpose(1, 2)) if tied else (said, nothing)
        return math.exp(-float(RANKING_LOSSES[loss](rewards, wins=wins, ties=ties, **options)))

    above, below, tie = probability(0, False), probability(1, False), probability(0, True)
    assert above + below + tie == pytest.approx(1)
    sure = replace(pair(difference), ties=(loss, *options.values())).confidence
    assert sure == pytest.approx(max(above, below) + tie / 2)
    assert replace(pair(2e4), ties=(loss, *options.values())).confidence == 1.0


def test_groups_tell_the_pairs_apart_and_add_up() -> None:
    pairs = [
        pair(lengths=(20, 10), a=1),
        pair(lengths=(10, 20), a=1, b=1),
        pair(lengths=(95, 100), a=1, b=1, c=-1),
        pair(lengths=(7, 7), a=-1),
        pair(lengths=(0, 0), a=-1),
    ]
    groups = {name: len(members) for name, members in grouped_pairs(pairs).items()}
    assert groups == {
        ("preferred response", "the longer"): 1,
        ("preferred response", "the shorter"): 2,
        ("preferred response", "as long"): 2,
        ("length difference", "under 10%"): 3,
        ("length difference", "50% or more"): 2,
        ("annotators", "one"): 3,
        ("annotators", "several, of one mind"): 1,
        ("annotators", "several, divided"): 1,
    }


def test_a_dimension_with_one_value_is_no_group_and_what_is_not_stated_comes_last() -> None:
    def of(dataset: str | None, language: str) -> JudgedPair:
        return JudgedPair("g", {"dataset": dataset, "language": language}, 1.0, (1, 2), {"a": 1})

    pairs = [of(None, "en"), of(None, "en"), of(None, "en"), of("small", "en"), of("large", "en"), of("large", "en")]
    assert [(name, len(members)) for name, members in grouped_pairs(pairs).items()] == [
        (("dataset", "large"), 2),
        (("dataset", "small"), 1),
        (("dataset", NOT_STATED), 3),
    ]
