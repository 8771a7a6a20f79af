from typing import Any

import numpy as np
import pytest
import torch

from alignment.errors import DataError
from alignment.training.objectives.pairs import PairRow, collate_pairs
from alignment.training.objectives.rankings import RankingRow, collate_rankings
from alignment.training.tokens import Encoded

PAD = 9


def row(prompt: list[int], completion: list[int], mask: list[int] | None = None) -> Encoded:
    return Encoded(prompt, completion, mask or [1] * len(completion))


def pair(**changes: Any) -> PairRow:
    base: dict[str, Any] = {
        "id": "a",
        "chosen": row([1, 2], [3, 4, 5], [1, 0, 1]),
        "rejected": row([1, 2], [6]),
        "weight": 0.5,
        "ref_chosen_logps": -3.0,
        "ref_rejected_logps": -1.0,
    }
    return {**base, **changes}  # type: ignore[typeddict-item]


def test_pairs_are_interleaved_and_right_padded() -> None:
    batch = collate_pairs([pair(), pair(id="b", chosen=row([7], [8]))], PAD)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 6, 9, 9], [7, 8, 9, 9, 9], [1, 2, 6, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch["completion_mask"].int().tolist() == [
        [0, 0, 1, 0, 1],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
    ]
    assert batch["completion_mask"].dtype == torch.bool
    assert batch["weights"].tolist() == [0.5, 0.5]
    assert batch["ref_chosen_logps"].tolist() == [-3.0, -3.0]
    assert batch["ids"] == ["a", "b"]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pair_without_a_positive_weight_is_named(weight: float) -> None:
    with pytest.raises(DataError, match="record a: a pair needs a positive weight"):
        collate_pairs([pair(weight=weight)], PAD)


def test_rankings_put_every_response_once_and_say_where() -> None:
    first: RankingRow = {"id": "a", "responses": [row([1], [2]), row([1], [3])], "wins": [[0, 1], [0, 0]]}
    wins = np.zeros((3, 3))
    wins[2, 0] = 0.25
    second: RankingRow = {"id": "b", "responses": [row([4], [n]) for n in (5, 6, 7)], "wins": wins}
    batch = collate_rankings([first, second], PAD)
    assert batch["input_ids"].tolist() == [[1, 2], [1, 3], [4, 5], [4, 6], [4, 7]]
    assert batch["row_prompt"].tolist() == [0, 0, 1, 1, 1]
    assert batch["row_response"].tolist() == [0, 1, 0, 1, 2]
    assert batch["wins"].tolist() == [
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0.25, 0, 0]],
    ]
    assert batch["ids"] == ["a", "b"]


@pytest.mark.parametrize(
    "wins",
    [
        [[0, 0], [0, 0]],
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],
        [[1, 1], [0, 0]],
        [[0, -1], [0, 0]],
        [[0, float("nan")], [0, 0]],
    ],
)
def test_comparisons_that_cannot_be_are_named(wins: list[list[float]]) -> None:
    with pytest.raises(DataError, match="record a: wins"):
        collate_rankings([{"id": "a", "responses": [row([1], [2]), row([1], [3])], "wins": wins}], PAD)
