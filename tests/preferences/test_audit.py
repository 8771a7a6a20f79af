"""Statistics of records, on a set small enough to count by hand."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from alignment.preferences.audit import stats
from alignment.preferences.record import (
    Annotator,
    Flags,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    Source,
)


def said(text: str) -> Response:
    return Response(messages=(Message(role="assistant", content=text),))


def record(question: str, *answers: str, judged: list[dict[str, Any]] | None = None, **fields: Any) -> PreferenceRecord:
    """`judged`: fields of one judgement each; `tiers` (of answers) and `verdict` go into its one order."""
    judgements = []
    for number, given in enumerate(judged or [], 1):
        tiers = tuple(tuple(said(text).id for text in tier) for tier in given.pop("tiers"))
        order = Order(tiers=tiers, criterion=given.pop("criterion", "overall"), verdict=given.pop("verdict", "ranked"))
        annotator = Annotator(id=given.pop("who", "anna"), kind="human")
        judgements.append(Judgement(id=UUID(int=number), annotator=annotator, orders=(order,), **given))
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=question),)),
        responses=tuple(said(text) for text in answers),
        judgements=tuple(judgements),
        **fields,
    )


def test_counts() -> None:
    found = stats(
        [
            record("q1", "aaaa", "bb", "c", judged=[{"tiers": [["aaaa"], ["bb", "c"]]}], split="train"),
            record("q2", "aa", "b", judged=[{"tiers": [["b"], ["aa"]], "who": "bob"}], split="test"),
            record("q3", "a", "b", judged=[{"tiers": [["a", "b"]], "verdict": "both_bad"}]),
            record("q4", "a", "b", judged=[{"tiers": [], "verdict": "unjudgeable"}]),
            record("q5", "a", "b", judged=[{"tiers": [["a"], ["b"]], "status": "skipped"}]),
            record("q6", "a", flags=Flags(pii=True, harm=("hate",), language="de"), source=Source(license="MIT")),
        ]
    )
    assert found["records"] == found["groups"] == 6
    assert found["responses_per_record"] == {"2": 4, "3": 1, "1": 1}
    assert (found["judgements"], found["judgements_counted"]) == (5, 4)
    assert found["judgement_status"] == {"submitted": 4, "skipped": 1}
    assert found["annotators"] == {"anna (human)": 3, "bob (human)": 1}
    assert found["criteria"] == {"overall": 4}
    assert found["ties"] == {"compared": 5, "tied": 2, "rate": 0.4}
    assert (found["both_bad"], found["unjudgeable"]) == (1, 1)
    assert found["splits"] == {"unassigned": 4, "train": 1, "test": 1}
    lengths = found["lengths"]["overall"]
    assert lengths["pairs"] == 3  # aaaa over bb, aaaa over c, b over aa
    assert lengths["chosen"] == {"mean": 3, "median": 4, "min": 1, "max": 4}
    assert lengths["rejected"] == {"mean": 5 / 3, "median": 2, "min": 1, "max": 2}
    assert lengths["chosen_longer"] == 2 / 3
    assert sum(lengths["records_without_a_pair"].values()) == 3
    assert found["languages"] == {"de": 1}
    assert found["flags"] == {"pii": 1, "harm": {"hate": 1}}
    assert found["licenses"] == {"MIT": 1}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_lengths_are_per_criterion() -> None:
    judged = [
        {"tiers": [["long one"], ["b"]], "criterion": "helpful"},
        {"tiers": [["b"], ["long one"]], "criterion": "brief", "who": "bob"},
    ]
    # The record with one response has a criterion of its own, and nothing to compare.
    lone = record("q2", "a", judged=[{"tiers": [["a"]], "verdict": "both_bad", "criterion": "safe"}])
    found = stats([record("q", "long one", "b", judged=judged), lone])
    assert {name: lengths["chosen_longer"] for name, lengths in found["lengths"].items()} == {"brief": 0, "helpful": 1}
    assert found["criteria"] == {"helpful": 1, "brief": 1, "safe": 1}


def test_equal_lengths_are_half_longer() -> None:
    found = stats([record("q", "aa", "bb", "c", judged=[{"tiers": [["aa"], ["bb"], ["c"]]}])])
    assert found["lengths"]["overall"]["chosen_longer"] == (0.5 + 1 + 1) / 3


def test_leaks_between_splits_are_found_by_the_folded_prompt() -> None:
    records = [
        record("What is a bee?", "a", split="train"),
        record("what is a bee", "b", split="test"),
        record("What is a wasp?", "a", split="train"),
        record("What is a WASP", "b", split="train"),
        record("What is an ant?", "a", split="test"),
        record("What is an ant?", "b", split="test"),
        record("What is a fly?", "a", split="test"),
        record("what is a fly?", "b"),
    ]
    found = stats(records)["duplicates"]
    assert found["prompts_asked_more_than_once"] == 4
    assert found["near_duplicate_prompts"] == 3
    assert found["across_splits"] == 1
    assert found["across_splits_records"] == [[records[0].id, records[1].id]]


def test_undefined_is_none_not_zero() -> None:
    found = stats([record("q", "a", "b")])
    assert found["ties"] == {"compared": 0, "tied": 0, "rate": None}
    assert found["lengths"] == {}
    tied = stats([record("q", "a", "b", judged=[{"tiers": [["a", "b"]]}])])["lengths"]["overall"]
    assert tied["chosen"] is tied["chosen_longer"] is None
