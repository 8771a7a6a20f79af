import math
from typing import Any

import numpy as np
import pytest
import torch

from alignment.errors import DataError
from alignment.training.objectives.rankings import RankingRow, collate_rankings
from alignment.training.tokens import Encoded

PAD = 9


def row(prompt: list[int], completion: list[int], mask: list[int] | None = None) -> Encoded:
    return Encoded(prompt, completion, mask or [1] * len(completion))


def pair(**changes: Any) -> RankingRow:
    base = {"id": "a", "responses": [row([1], [2]), row([1], [3, 4], [0, 1])], "wins": [[0, 1], [0, 0]]}
    return {**base, **changes}  # type: ignore[typeddict-item,return-value]


def test_every_response_is_there_once_and_says_where_it_belongs() -> None:
    wins = np.zeros((3, 3))
    wins[2, 0] = 0.25
    second: RankingRow = {"id": "b", "responses": [row([4], [n]) for n in (5, 6, 7)], "wins": wins, "weight": 2.0}
    batch = collate_rankings([pair(), second], PAD)
    assert batch["input_ids"].tolist() == [[1, 2, 9], [1, 3, 4], [4, 5, 9], [4, 6, 9], [4, 7, 9]]
    assert batch["row_record"].tolist() == [0, 0, 1, 1, 1]
    assert batch["row_response"].tolist() == [0, 1, 0, 1, 2]
    assert batch["wins"].tolist() == [
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0.25, 0, 0]],
    ]
    assert not batch["ties"].any()
    assert batch["lengths"][0].tolist() == pytest.approx([1, 1, math.nan], nan_ok=True)  # scored tokens
    assert batch["weights"].tolist() == [1.0, 2.0]
    assert batch["ids"] == ["a", "b"]
    assert not {"tiers", "tier_weights", "margins"} & batch.keys()


def test_ties_orders_and_margins_are_padded_with_what_means_nothing() -> None:
    first = pair(tiers=[[0, 1], [0, 0]], tier_weights=[0.5, 0.5], margins=[[None, 2], [-2, None]])
    tied = np.ones((3, 3)) - np.eye(3)
    second: RankingRow = {
        "id": "b",
        "responses": [row([4], [n]) for n in (5, 6, 7)],
        "wins": np.zeros((3, 3)),
        "ties": tied,
        "tiers": [[0, 0, 0]],
        "tier_weights": [1.0],
        "margins": [[None] * 3] * 3,
    }
    batch = collate_rankings([first, second], PAD)
    assert batch["tiers"].tolist() == [[[0, 1, -1], [0, 0, -1]], [[0, 0, 0], [-1, -1, -1]]]
    assert batch["tier_weights"].tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert batch["ties"][1].tolist() == tied.tolist()
    assert batch["margins"][0, 0].tolist() == pytest.approx([math.nan, 2.0, math.nan], nan_ok=True)
    assert batch["margins"][1].isnan().all()
    assert (batch["tiers"].dtype, batch["margins"].dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wins": [[0, 0], [0, 0]]}, "wins must be non-negative, compare something"),
        ({"wins": [[0, 1, 0], [0, 0, 0], [0, 0, 0]]}, r"wins of shape \(3, 3\) do not fit 2 responses"),
        ({"wins": [[1, 1], [0, 0]]}, "not with itself"),
        ({"wins": [[0, -1], [0, 0]]}, "wins must be non-negative"),
        ({"wins": [[0, float("nan")], [0, 0]]}, "wins must be non-negative"),
        ({"ties": [[0, 1], [0, 0]]}, "ties must be the same both ways round"),
        ({"ties": [[0, -1], [-1, 0]]}, "wins must be non-negative"),
        ({"tiers": [[0, 1, 2]], "tier_weights": [1.0]}, r"tiers of shape \(1, 3\)"),
        ({"tiers": [[0, 1]], "tier_weights": [0.5, 0.5]}, r"weights of shape \(2,\)"),
        ({"tiers": [[0, -1]], "tier_weights": [1.0]}, "at least two responses"),
        ({"tiers": [[0, -2]], "tier_weights": [1.0]}, "-1 = left out"),
        ({"tiers": [[0, 1]], "tier_weights": [0.0]}, "tier_weights must be positive"),
        ({"margins": [[None, float("inf")], [None, None]]}, "a margin is infinite"),
        ({"weight": 0.0}, "a ranking needs a positive weight, not 0.0"),
        ({"weight": float("nan")}, "a ranking needs a positive weight"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"record a: .*{message}"):
        collate_rankings([pair(**changes)], PAD)
