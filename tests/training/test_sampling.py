"""An epoch's order is a function of seed and epoch."""

import torch
from accelerate.data_loader import SeedableRandomSampler

from alignment.training.sampling import EpochSampler, row_length
from alignment.training.tokens import Encoded

LENGTHS = [int(n) for n in torch.randint(1, 100, (203,), generator=torch.Generator().manual_seed(0))]


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_shuffled_rows_come_in_the_order_of_accelerate() -> None:
    """So that a trainer of TRL with the same seed sees the same batches."""
    theirs = SeedableRandomSampler(range(50), data_seed=7)
    ours = EpochSampler(50, 7)
    for epoch in (0, 3):
        theirs.set_epoch(epoch)
        assert order(ours, epoch) == list(theirs)


def test_an_epoch_does_not_depend_on_what_was_read_before() -> None:
    for lengths in (None, LENGTHS):
        first, again = EpochSampler(203, 1, lengths, 8), EpochSampler(203, 1, lengths, 8)
        order(first, 0)
        torch.manual_seed(99)
        assert order(first, 2) == order(again, 2)
        assert order(again, 0) != order(again, 1)
        assert order(EpochSampler(203, 2, lengths, 8), 0) != order(again, 0)


def test_grouping_reads_every_row_once_and_pads_little() -> None:
    def padded(indices: list[int]) -> int:
        steps = [[LENGTHS[i] for i in indices[start : start + 8]] for start in range(0, len(indices), 8)]
        return sum(len(step) * max(step) for step in steps)

    plain, grouped = order(EpochSampler(203, 1), 0), order(EpochSampler(203, 1, LENGTHS, 8), 0)
    assert sorted(grouped) == sorted(plain) == list(range(203))
    assert padded(grouped) < 0.7 * padded(plain)
    assert padded(grouped) < 1.2 * sum(LENGTHS)


def test_a_row_is_as_long_as_its_longest_sequence() -> None:
    short, long = Encoded([1], [2], [1]), Encoded([1, 2], [3, 4, 5], [1, 1, 1])
    assert row_length({"id": "a", "chosen": short, "rejected": long, "weight": 1.0}) == 5
    assert row_length({"id": "a", "responses": [short, long, short], "wins": [[0]]}) == 5
