from typing import Any

import pytest
import torch

from alignment.errors import DataError
from alignment.training.objectives.pairs import PairRow, collate_pairs
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
