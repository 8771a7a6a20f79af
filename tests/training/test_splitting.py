"""Parts of a batch are the batch: nothing lost, nothing moved, no part too large."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import DataError
from alignment.training.objectives.pairs import collate_pairs
from alignment.training.objectives.rankings import collate_rankings
from alignment.training.prefix_sharing import unique_tokens
from alignment.training.splitting import PADDED_PER_TOKEN, check_context, check_records, padded_tokens, split_batch
from alignment.training.tokens import Encoded

PAD = 9

SIZES = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4), min_size=1, max_size=6)


def rankings(sizes: list[list[int]]) -> list[Any]:
    """A ranking per entry, with a prompt of two tokens of its own and answers of these lengths."""
    return [
        {
            "id": f"r{p}",
            "responses": [Encoded([1, 2 + p], [20 + k] * n, [1] * n) for k, n in enumerate(lengths)],
            "wins": torch.ones(len(lengths), len(lengths)).triu(1).numpy(),
            "weight": 1.0 + p,
        }
        for p, lengths in enumerate(sizes)
    ]


@given(SIZES, st.integers(0, 40), st.sampled_from([padded_tokens, unique_tokens]))
def test_parts_are_whole_records_in_order_and_no_larger_than_they_may_be(
    sizes: list[list[int]], slack: int, count: Any
) -> None:
    rows = rankings(sizes)
    batch = collate_rankings(rows, PAD)
    alone = [collate_rankings([row], PAD) for row in rows]
    bound = max(count(one["input_ids"], one["attention_mask"]) for one in alone) + slack
    parts = split_batch(batch, bound, count)

    assert [name for part in parts for name in part["ids"]] == batch["ids"]
    for part in parts:
        assert part.keys() == batch.keys()
        assert count(part["input_ids"], part["attention_mask"]) <= bound
    for first, second in pairwise(parts):  # nor smaller than they need to be: the next record would not have fitted
        both = [row for row in rows if row["id"] in [*first["ids"], second["ids"][0]]]
        merged = collate_rankings(both, PAD)
        assert count(merged["input_ids"], merged["attention_mask"]) > bound
    start = 0
    for part in parts:  # a part is what its records would have been collated to, but for the table's width
        expected = collate_rankings(rows[start : start + len(part["ids"])], PAD)
        start += len(part["ids"])
        for name in ("input_ids", "attention_mask", "completion_mask", "row_record", "row_response", "weights"):
            assert part[name].equal(expected[name]), name


def test_every_key_of_a_pair_goes_with_its_record() -> None:
    def pair(name: str, n: int, weight: float) -> Any:
        chosen, rejected = Encoded([1], [3] * n, [1] * n), Encoded([1], [4], [1])
        return {
            "id": name, "chosen": chosen, "rejected": rejected, "weight": weight,
            "ref_chosen_logps": -weight, "ref_rejected_logps": -2 * weight,
        }  # fmt: skip

    batch = collate_pairs([pair("a", 5, 1.0), pair("b", 1, 2.0), pair("c", 2, 3.0)], PAD)
    batch["row_extra"] = torch.arange(6)
    first, second = split_batch(batch, 12)
    assert (first["ids"], second["ids"]) == (["a"], ["b", "c"])
    assert second["input_ids"].tolist() == [[1, 3, PAD], [1, 4, PAD], [1, 3, 3], [1, 4, PAD]]  # cut to its longest row
    assert second["row_record"].tolist() == [0, 0, 1, 1]
    assert second["row_extra"].tolist() == [2, 3, 4, 5]
    assert second["weights"].tolist() == [2.0, 3.0]
    assert second["ref_rejected_logps"].tolist() == [-4.0, -6.0]


def test_without_a_bound_or_below_it_a_batch_stays_as_it_is() -> None:
    batch = collate_rankings(rankings([[2, 3], [1, 1]]), PAD)
    assert split_batch(batch, None)[0] is batch
    assert split_batch(batch, 20)[0] is batch
    assert len(split_batch(batch, 19)) == 2


def test_shared_tokens_count_once() -> None:
    """2 prompts of 2 tokens with answers of 3 and 4: 9 + 8 unique tokens, the common first one counted once in both."""
    batch = collate_rankings(rankings([[3, 4], [4, 3]]), PAD)
    assert unique_tokens(batch["input_ids"], batch["attention_mask"]) == 17
    assert len(split_batch(batch, 17, unique_tokens)) == 1
    assert len(split_batch(batch, 17)) == 2


def test_shared_prefixes_do_not_pad_without_bound() -> None:
    """40 pairs on one prompt of 60 tokens: 61 + 80 unique tokens, and 80 rows of 62 positions come out."""
    prompt = list(range(100, 160))
    rows: list[Any] = [
        {
            "id": f"p{i}",
            "chosen": Encoded(prompt, [3, 1000 + i], [1, 1]),
            "rejected": Encoded(prompt, [4], [1]),
            "weight": 1.0,
        }
        for i in range(40)
    ]
    batch = collate_pairs(rows, PAD)
    bound = 110
    assert unique_tokens(batch["input_ids"], batch["attention_mask"]) == 102 <= bound
    parts = split_batch(batch, bound, unique_tokens)
    assert [name for part in parts for name in part["ids"]] == batch["ids"]
    assert [part["input_ids"].numel() // 62 for part in parts] == [14, 14, 14, 14, 14, 10]
    assert all(part["input_ids"].numel() <= PADDED_PER_TOKEN * bound for part in parts)


def test_a_record_that_pads_beyond_the_bound_alone_is_a_part_of_its_own() -> None:
    """Its tokens fit, and it cannot be split."""
    prompt = list(range(100, 160))

    def ranking(name: str, count: int) -> Any:
        wins = torch.ones(count, count).triu(1).numpy()
        return {"id": name, "responses": [Encoded(prompt, [k], [1]) for k in range(count)], "wins": wins}

    batch = collate_rankings([ranking("a", 2), ranking("b", 20), ranking("c", 2)], PAD)
    parts = split_batch(batch, 90, unique_tokens)
    assert [part["ids"] for part in parts] == [["a"], ["b"], ["c"]]
    assert parts[1]["input_ids"].numel() == 20 * 61 > PADDED_PER_TOKEN * 90


def test_a_record_that_is_too_large_is_named_with_its_size_and_the_key() -> None:
    rows = rankings([[1, 1], [2, 9, 4], [1, 1]])
    message = r"record r1: 33 tokens in one forward pass, more than max_tokens_per_forward 32; raise it, or shorten"
    with pytest.raises(DataError, match=message):
        split_batch(collate_rankings(rows, PAD), 32)
    with pytest.raises(DataError, match=message):
        check_records(rows, lambda some: collate_rankings(some, PAD), 32, padded_tokens)
    check_records(rows, lambda some: collate_rankings(some, PAD), 33, padded_tokens)
    check_records(rows, lambda some: collate_rankings(some, PAD), 17, unique_tokens)
    with pytest.raises(DataError, match="record r1: 17 tokens"):
        check_records(rows, lambda some: collate_rankings(some, PAD), 16, unique_tokens)


def test_a_record_beyond_what_a_model_reads_is_named_with_both_lengths_and_the_key() -> None:
    rows = rankings([[1, 1], [2, 9, 4], [1, 1]])
    check_context(rows, 11)
    check_context(rows, None)
    with pytest.raises(DataError, match=r"record r1: 11 tokens, but the model reads 10 at once; set max_length to 10"):
        check_context(rows, 10)
