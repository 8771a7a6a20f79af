"""An epoch's order is a function of seed and epoch."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from alignment.errors import AlignmentError
from alignment.training.sampling import EpochSampler, check_shares, epoch_seed, row_length
from alignment.training.tokens import Encoded

LENGTHS = [int(n) for n in torch.randint(1, 100, (203,), generator=torch.Generator().manual_seed(0))]


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_first_epoch_has_the_order_of_accelerate() -> None:
    """So that a trainer of TRL with the same seed sees the same batches."""
    assert order(EpochSampler(50, 7), 0) == list(SeedableRandomSampler(range(50), data_seed=7))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["plain", "by length"])
def test_no_two_runs_and_epochs_share_an_order(lengths: list[int] | None) -> None:
    """With seed + epoch, the second epoch of seed 42 was the first of seed 43."""
    orders = [tuple(order(EpochSampler(203, seed, lengths, 8), epoch)) for seed in range(42, 46) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_an_epochs_order_is_a_number_that_stays() -> None:
    """The same on every machine and in every version: a run that was killed reads on in it."""
    assert [epoch_seed(42, epoch) for epoch in (0, 1, 2)] == [42, 7829184764001561178, 5910823727984653262]
    assert 0 <= epoch_seed(2**63, 1) < 2**63


@pytest.mark.parametrize(
    ("rows", "size", "processes", "drop_last", "left"),
    [
        (7, 2, 2, False, "3 are left over, and 1 would be read twice"),
        (6, 2, 2, False, "2 are left over, and 2 would be read twice"),
        (7, 2, 2, True, None),
        (8, 2, 2, False, None),
        (7, 2, 1, False, None),
    ],
)
def test_rows_that_processes_cannot_share_are_refused(
    rows: int, size: int, processes: int, drop_last: bool, left: str | None
) -> None:
    """What accelerate would do to them is what its own batches show."""
    args = SimpleNamespace(train_batch_size=size, world_size=processes, dataloader_drop_last=drop_last)
    batches = BatchSampler(range(rows), size, drop_last)
    shards = [BatchSamplerShard(batches, processes, i) for i in range(processes)] if processes > 1 else [batches]
    read = Counter(row for shard in shards for batch in shard for row in batch)
    assert (max(read.values()) > 1) == (left is not None)
    if left is None:
        check_shares(rows, args)  # type: ignore[arg-type]
        return
    with pytest.raises(AlignmentError, match=f"{rows} rows for 2 processes that read 2 at a time: {left}"):
        check_shares(rows, args)  # type: ignore[arg-type]


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
