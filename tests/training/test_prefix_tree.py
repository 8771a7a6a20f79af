"""The forest of a batch: every row is in it, every common prefix once, and the blocks see what rows see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.training.prefix_tree import PrefixTree, build_trees

# few symbols, so that rows often begin alike
batches = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=10)


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int64) for row in rows]


def distinct_prefixes(rows: list[list[int]]) -> int:
    """The size of a trie, counted the plain way."""
    return len({tuple(row[: n + 1]) for row in rows for n in range(len(row))})


@given(batches)
@settings(max_examples=200, deadline=None)
def test_a_tree_holds_every_row_and_every_prefix_once(rows: list[list[int]]) -> None:
    (tree,) = build_trees(arrays(rows))
    assert len(tree) == distinct_prefixes(rows)
    assert sorted(tree.rows) == list(range(len(rows)))
    for row, place in zip(tree.rows, tree.places, strict=True):
        assert tree.tokens[place].tolist() == rows[row]
        assert tree.positions[place].tolist() == list(range(len(rows[row])))


@given(batches)
@settings(max_examples=200, deadline=None)
def test_a_token_sees_its_own_row_up_to_itself(rows: list[list[int]]) -> None:
    (tree,) = build_trees(arrays(rows))
    seen = tree.sees(slice(0, len(tree)), np.arange(len(tree)))
    expected = np.zeros_like(seen)
    for place in tree.places:
        for depth, token in enumerate(place):
            expected[token, place[: depth + 1]] = True
    assert (seen == expected).all()


def covered(tree: PrefixTree) -> np.ndarray:
    """What the blocks' attention calls see: causal within a chain, the mask within a merged block, all of ancestors."""
    seen = np.zeros((len(tree), len(tree)), bool)
    for block in tree.blocks:
        queries = slice(block.start, block.stop)
        for ancestor in block.ancestors:
            seen[queries, tree.blocks[ancestor].start : tree.blocks[ancestor].stop] = True
        inner = np.arange(block.start, block.stop)
        seen[queries, queries] = np.tri(len(inner), dtype=bool) if block.chain else tree.sees(queries, inner)
    return seen


@given(batches, st.sampled_from([0, 3, 4096]))
@settings(max_examples=200, deadline=None)
def test_blocks_are_a_partition_that_sees_exactly_the_rows(rows: list[list[int]], call_cost: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignment.training.prefix_tree.CALL_COST", call_cost)
        (tree,) = build_trees(arrays(rows))
    assert [block.start for block in tree.blocks[1:]] == [block.stop for block in tree.blocks[:-1]]
    assert (tree.blocks[0].start, tree.blocks[-1].stop) == (0, len(tree))
    assert (covered(tree) == tree.sees(slice(0, len(tree)), np.arange(len(tree)))).all()


@given(batches, st.integers(12, 40))
@settings(max_examples=100, deadline=None)
def test_a_bound_cuts_the_forest_and_keeps_the_rows(rows: list[list[int]], bound: int) -> None:
    trees = build_trees(arrays(rows), bound)
    assert all(len(tree) <= bound for tree in trees)
    assert sorted(row for tree in trees for row in tree.rows) == list(range(len(rows)))
    for tree in trees:
        for row, place in zip(tree.rows, tree.places, strict=True):
            assert tree.tokens[place].tolist() == rows[row]


def test_large_branches_attend_on_their_own_and_small_ones_together() -> None:
    prompt = list(range(300))
    large = [[*prompt, *range(1000 * k, 1000 * k + 200)] for k in range(1, 5)]
    small = [[*prompt, 1000 * k] for k in range(1, 5)]
    (tree,) = build_trees(arrays(large))
    assert [len(block.ancestors) for block in tree.blocks] == [0, 1, 1, 1, 1]
    (tree,) = build_trees(arrays(small))
    assert len(tree.blocks) == 1
    assert not tree.blocks[0].chain


def test_a_row_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="row 1 has no tokens"):
        build_trees(arrays([[1], []]))
    with pytest.raises(ValueError, match="row 1 has 3 tokens, more than max_tokens_per_forward 2"):
        build_trees(arrays([[1], [1, 2, 3]]), 2)
