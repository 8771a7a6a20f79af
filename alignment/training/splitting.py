"""A batch in parts, record by record, so that no forward pass holds more tokens than it may.

A loss that is a weighted mean over records is the weighted mean of its parts, and so is its gradient. So each part can
run forward and backward by itself, and only one part's activations exist at a time. A loss that couples records needs
all of them at once; then it is the trunk that runs in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from alignment.errors import DataError, RecipeError
from alignment.training.collate import Batch
from alignment.training.prefix_sharing import share_prefixes, shares_prefixes
from alignment.training.tokens import encoded_in

_PER_ROW = ("input_ids", "attention_mask", "completion_mask")  # and what begins with row_; the rest is per record

# Hidden states come out padded also where prefixes are shared: a forward pass may return this many times the bound.
PADDED_PER_TOKEN = 8

Count = Callable[[Tensor, Tensor], int]  # input_ids and attention_mask (N, T) -> tokens that a forward pass runs


def padded_tokens(input_ids: Tensor, attention_mask: Tensor) -> int:
    """What a model runs that shares no prefixes: every row as long as the longest."""
    return len(attention_mask) * int(attention_mask.sum(dim=1).max())


def split_batch(batch: Batch, max_tokens: int | None, count: Count = padded_tokens) -> list[Batch]:
    """Parts of at most `max_tokens` tokens each, whole records in the order given, padded no more than they need.

    A part of several records has no more than PADDED_PER_TOKEN times `max_tokens` padded positions.

    Args:
        batch: right-padded, as objectives collate them: `row_record` (N,) says which of the P `ids` a row belongs to.
        max_tokens: of one part; None leaves the batch whole.
        count: how many tokens a forward pass over some rows runs.

    Raises:
        DataError: a record that is too large by itself, named.
    """
    ids, mask, owner = (batch[name].cpu() for name in ("input_ids", "attention_mask", "row_record"))
    records = len(batch["ids"])

    if max_tokens is None:
        return [batch]

    def rows(start: int, stop: int) -> tuple[Tensor, Tensor]:
        chosen = (owner >= start) & (owner < stop)
        return ids[chosen], mask[chosen]

    def fits(start: int, stop: int) -> bool:
        found = rows(start, stop)
        return padded_tokens(*found) <= PADDED_PER_TOKEN * max_tokens and count(*found) <= max_tokens

    if fits(0, records):
        return [batch]
    cuts = [0]
    for record in range(records):
        if fits(cuts[-1], record + 1):
            continue
        alone = count(*rows(record, record + 1))
        if alone > max_tokens:
            raise _too_large(batch["ids"][record], alone, max_tokens)
        if record > cuts[-1]:
            cuts.append(record)
    return [_part(batch, start, stop) for start, stop in zip(cuts, [*cuts[1:], records], strict=True)]


def check_records(
    rows: Sequence[Mapping[str, Any]], collate: Callable[[Sequence[Any]], Batch], max_tokens: int, count: Count
) -> None:
    """Raises DataError for the first record that no part could hold: before training, not in the middle of it."""
    for row in rows:
        lengths = [len(encoded) for encoded in encoded_in(row)]
        if len(lengths) * max(lengths) <= max_tokens:  # no count is above the padded one
            continue
        batch = collate([row])
        found = count(batch["input_ids"], batch["attention_mask"])
        if found > max_tokens:
            raise _too_large(row["id"], found, max_tokens)


def check_context(rows: Sequence[Mapping[str, Any]], limit: int | None) -> None:
    """Raises DataError for the first record with a row of more tokens than a model reads at once (None: no end)."""
    if limit is None:
        return
    for row in rows:
        longest = max((len(encoded) for encoded in encoded_in(row)), default=0)
        if longest > limit:
            raise DataError(
                f"record {row['id']}: {longest} tokens, but the model reads {limit} at once; set max_length to {limit} "
                "or less, or take a model that reads more"
            )


def bound_trunk(model: Any, accumulation_steps: int, processes: int, max_tokens: int | None) -> None:
    """For a loss that couples the records of its batch: lets the trunk run at most `max_tokens` at a time.

    Raises RecipeError for gradient accumulation or several processes, which would split the batch, and for a trunk that
    cannot run in parts. `processes` is 1 for an objective that gathers what it needs from all of them.
    """
    if accumulation_steps > 1:
        raise RecipeError(
            "gradient_accumulation_steps: this loss compares the records of a batch with each other, so a batch cannot "
            "be split; raise per_device_train_batch_size instead, and set max_tokens_per_forward to bound memory"
        )
    if processes > 1:
        raise RecipeError(
            f"{processes} processes: this loss compares the records of a batch with each other, so a batch cannot be "
            "split; train in one process, and set max_tokens_per_forward to bound memory"
        )
    if max_tokens is not None:
        if not shares_prefixes(model):
            raise RecipeError("max_tokens_per_forward: with this loss it needs share_prefixes: true")
        share_prefixes(model, max_tokens)


def _too_large(record: str, tokens: int, max_tokens: int) -> DataError:
    return DataError(
        f"record {record}: {tokens} tokens in one forward pass, more than max_tokens_per_forward {max_tokens}; raise "
        "it, or shorten the rows with max_length"
    )


def _part(batch: Batch, start: int, stop: int) -> Batch:
    """Records `start..stop` with their rows, cut to the longest of these."""
    owner: Tensor = batch["row_record"]
    chosen = (owner >= start) & (owner < stop)
    width = batch["input_ids"].shape[1]
    longest = int(batch["attention_mask"][chosen].sum(dim=1).max())
    part: Batch = {}
    for name, value in batch.items():
        if name in _PER_ROW or name.startswith("row_"):
            rows = value[chosen]
            part[name] = rows[:, :longest] if rows.ndim > 1 and rows.shape[1] == width else rows
        else:
            part[name] = value[start:stop]
    part["row_record"] = part["row_record"] - start
    return part
