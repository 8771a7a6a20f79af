"""Splits: by group, stable, close to the fractions asked for, never one prompt in two."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import DataError
from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response, Split
from alignment.preferences.splits import SPLITS, assign_split, split_records


def record(question: str, answer: str, split: Split | None = None) -> PreferenceRecord:
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=question),)),
        responses=(Response(messages=(Message(role="assistant", content=answer),)),),
        split=split,
    )


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), unique=True),
    st.integers(0, 5).flatmap(lambda i: st.dictionaries(st.just(i), st.sampled_from(SPLITS))),
    st.text(max_size=3),
)
def test_a_prompt_never_lands_in_two_splits(
    rows: list[tuple[int, int]], given_splits: dict[int, Split], salt: str
) -> None:
    # One answer of some prompt may come with a split of its own; the others must follow it.
    records = [record(f"q{q}", f"a{a}", given_splits.get(q) if a == 0 else None) for q, a in rows]
    where: dict[str, set[str | None]] = {}
    for made in split_records(records, salt=salt):
        where.setdefault(made.prompt.text(), set()).add(made.split)
    assert all(len(splits) == 1 and None not in splits for splits in where.values())


def test_fractions_are_met() -> None:
    found = Counter(assign_split(f"group {i}") for i in range(10_000))
    # Binomial: 4 standard deviations are 160, 120 and 120 of 10,000.
    assert abs(found["train"] - 8000) < 160
    assert abs(found["validation"] - 1000) < 120
    assert abs(found["test"] - 1000) < 120


def test_a_split_depends_on_the_group_the_fractions_and_the_salt_only() -> None:
    # Written down once: a change would move every prompt of every data set.
    found = {split: [i for i in range(16) if assign_split(f"group {i}") == split] for split in ("validation", "test")}
    assert found == {"validation": [7, 9], "test": [4, 10, 11]}
    assert {assign_split("g", {"test": 0.5, "train": 0.5}), assign_split("g", {"train": 0.5, "test": 0.5})} in (
        {"train"},
        {"test"},
    )
    salted = [assign_split(f"group {i}", salt="other") for i in range(1000)]
    assert salted != [assign_split(f"group {i}") for i in range(1000)]


def test_growing_the_training_share_moves_nothing_out_of_it() -> None:
    small = {"train": 0.6, "test": 0.4}
    large = {"train": 0.7, "test": 0.3}
    groups = [f"group {i}" for i in range(1000)]
    assert {g for g in groups if assign_split(g, small) == "train"} < {
        g for g in groups if assign_split(g, large) == "train"
    }


@pytest.mark.parametrize("only", SPLITS)
def test_everything_in_one_split(only: Split) -> None:
    assert {assign_split(str(i), {only: 1.0}) for i in range(100)} == {only}


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.8, "dev": 0.2}, "unknown split 'dev' in the fractions; the splits are train, validation, test"),
        ({"train": 0.8, "test": 0.1}, "add up to 1"),
        ({"train": 1.2, "test": -0.2}, ">= 0"),
        ({"train": float("nan"), "test": 0.5}, "add up to 1"),
        ({}, "add up to 1"),
    ],
)
def test_wrong_fractions(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_records([record("q", "a", "train")], fractions)


def test_given_splits_are_kept() -> None:
    records = [record(f"q{i}", "a", "test") for i in range(20)]
    assert split_records(records) == records


def test_a_group_in_two_splits_takes_no_more_records() -> None:
    records = [record("q", "a", "train"), record("q", "b", "test"), record("q", "c")]
    with pytest.raises(DataError, match=r"is in train \(record .*\) and test \(record .*\); give it one split"):
        split_records(records)
