"""The common prefixes of a batch, as a forest of tokens that each run through the model once.

Rows that begin alike share tokens for as long as they agree: a prompt and its K responses, a conversation that goes on
in several ways, questions behind one system message. The forest is kept flat in depth-first order. There a token's
descendants are the tokens that follow it up to some end, so "may i look at j" is `j <= i < end[j]`, and the ancestors
of a token are the tokens of its row before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# What one more call of the attention kernel costs, in query-key pairs; blocks smaller than that are merged.
CALL_COST = 4096


@dataclass(frozen=True)
class Block:
    """Queries that attend together: flat tokens `start..stop`, which see the blocks `ancestors` whole.

    `chain`: no branch inside, so that they see each other causally.
    """

    start: int
    stop: int
    ancestors: tuple[int, ...]  # indices of blocks, the root first
    chain: bool


@dataclass(frozen=True)
class PrefixTree:
    """A forest of U unique tokens and the rows it was made of."""

    tokens: Ints  # (U,)
    positions: Ints  # (U,): the position in the row, which is the depth in the tree
    ends: Ints  # (U,): one past the last descendant of each token
    rows: tuple[int, ...]  # the batch rows in here
    places: tuple[Ints, ...]  # per row, (length,): where its tokens are in the forest
    blocks: tuple[Block, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def sees(self, queries: slice, keys: Ints) -> npt.NDArray[np.bool_]:
        """(queries, keys) bool: which flat tokens see which."""
        i = np.arange(queries.start, queries.stop)[:, None]
        seen: npt.NDArray[np.bool_] = (keys[None, :] <= i) & (i < self.ends[keys][None, :])
        return seen


def build_trees(rows: Sequence[Ints], max_tokens: int | None = None) -> list[PrefixTree]:
    """The forest of `rows`, cut into several of at most `max_tokens` tokens each where that is asked for.

    Args:
        rows: N non-empty sequences of token ids, in any order.
        max_tokens: most unique tokens of one tree; a prefix that spans a cut is in both. None means no limit.

    Returns:
        Trees that hold every row exactly once.

    Raises:
        ValueError: a row is empty, or longer than `max_tokens`.
    """
    for index, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"row {index} has no tokens")
        if max_tokens is not None and len(row) > max_tokens:
            raise ValueError(f"row {index} has {len(row)} tokens, more than max_tokens_per_forward {max_tokens}")
    trees = []
    group: list[int] = []
    shared: list[int] = []  # tokens each row of the group has in common with the one before it
    total = 0
    for index in sorted(range(len(rows)), key=lambda i: rows[i].astype(">i8").tobytes()):
        common = _common(rows[group[-1]], rows[index]) if group else 0
        if max_tokens is not None and total + len(rows[index]) - common > max_tokens:
            trees.append(_tree(rows, group, shared))
            group, shared, total, common = [], [], 0, 0
        group.append(index)
        shared.append(common)
        total += len(rows[index]) - common
    return [*trees, _tree(rows, group, shared)] if group else trees


def _common(a: Ints, b: Ints) -> int:
    shortest = min(len(a), len(b))
    differ = np.nonzero(a[:shortest] != b[:shortest])[0]
    return int(differ[0]) if len(differ) else shortest


def _tree(rows: Sequence[Ints], order: Sequence[int], shared: Sequence[int]) -> PrefixTree:
    """Rows in lexicographic order are the leaves of a depth-first walk: each adds what the row before it lacks."""
    places: list[Ints] = []
    total = 0
    for index, common in zip(order, shared, strict=True):
        new = np.arange(total, total + len(rows[index]) - common)
        places.append(np.concatenate([places[-1][:common], new]) if common else new)
        total += len(new)
    tokens, positions = np.empty(total, np.int64), np.empty(total, np.int64)
    ends = np.zeros(total, np.int64)
    for index, place in zip(order, places, strict=True):
        tokens[place], positions[place] = rows[index], np.arange(len(place))
        ends[place] = np.maximum(ends[place], place[-1] + 1)
    return PrefixTree(tokens, positions, ends, tuple(order), tuple(places), _blocks(positions, ends))


def _blocks(positions: Ints, ends: Ints) -> tuple[Block, ...]:
    """Cuts the forest into blocks, so that little attention is computed only to be masked away."""
    total = len(positions)
    # In a chain every token is the only child of the one before it, so all of them end together.
    starts = [0, *(np.nonzero(ends[1:] != ends[:-1])[0] + 1).tolist(), total]
    segments = list(itertools.pairwise(starts))
    depth = [int(positions[start]) for start, _ in segments]  # ancestors of the segment
    subtree = [int(ends[start]) for start, _ in segments]
    first = {start: number for number, (start, _) in enumerate(segments)}

    # Leaves first: is the subtree cheaper as one masked call, or as a chain and its children's calls?
    cost, whole = [0] * len(segments), [True] * len(segments)
    for number in reversed(range(len(segments))):
        start, stop = segments[number]
        split = CALL_COST + (stop - start) * (depth[number] + stop - start)
        child = stop
        while child < subtree[number]:
            split += cost[first[child]]
            child = subtree[first[child]]
        size = subtree[number] - start
        merged = CALL_COST + size * (depth[number] + size)
        whole[number] = stop == subtree[number] or merged <= split
        cost[number] = min(merged, split)

    blocks: list[Block] = []
    above: list[int] = []  # the blocks that the next one sees
    at = 0
    while at < total:
        number = first[at]
        while above and ends[blocks[above[-1]].start] <= at:
            above.pop()
        start, stop = segments[number]
        chain = not whole[number] or stop == subtree[number]
        at = stop if not whole[number] else subtree[number]
        blocks.append(Block(start, at, tuple(above), chain))
        if not whole[number]:
            above.append(len(blocks) - 1)
    return tuple(blocks)
