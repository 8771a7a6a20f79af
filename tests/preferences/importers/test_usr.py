"""USR's ratings: six rows become a record, its ratings an order for each criterion; nothing is lost on the way."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.importers import usr
from alignment.preferences.importers.run import import_file
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.store import read_records, write_records

SCORES = {
    "understandability": 1.0,
    "naturalness": 2.3333333333,
    "coherence": 3,
    "engagingness": 1.0,
    "groundedness": 0.0,
    "overall": 4.0,
}


def row(system: str, output: str, **changes: Any) -> dict[str, Any]:
    scores = {**SCORES, **changes.pop("scores", {})}
    source = "hi \n hello \n how are you ? \n\n"
    row = {"source": source, "system_id": system, "system_output": output, "context": "cats sleep\n", "scores": scores}
    return {**row, **changes}


def rebuilt(record: PreferenceRecord) -> list[dict[str, Any]]:
    """The rows again, from the record's own fields."""
    messages = record.prompt.messages
    fact = f"{messages[0].content}\n" if messages[0].role == "system" else "_nofact\n"
    turns = [message.content for message in messages if message.role != "system"]
    ratings = record.judgements[0].ratings
    return [
        {
            "source": " \n ".join(turns) + " \n\n",
            "system_id": response.generator.name if response.generator else None,
            "system_output": response.text(),
            "context": fact,
            "scores": {one.criterion: one.value for one in ratings if one.response_id == response.id},
        }
        for response in record.responses
    ]


def test_the_rows_of_a_dialogue_make_one_record() -> None:
    rows = [
        row("Argmax Decoding", "fine . ", scores={"overall": 2.0}),
        row("New Human Generated", "well , you ?"),
        row("Nucleus Decoding (p = 0.3)", "good"),
    ]
    record = usr.parse(rows, [4, 5, 6])
    assert rebuilt(record) == record.raw == rows
    assert [(m.role, m.content) for m in record.prompt.messages] == [
        ("system", "cats sleep"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "how are you ?"),
    ]
    assert record.source is not None
    assert record.source.row == "4-6"
    assert [r.generator.kind for r in record.responses if r.generator] == ["model", "human", "model"]
    (judgement,) = record.judgements
    assert judgement.annotator.kind == "aggregate"
    orders = {order.criterion: order for order in judgement.orders}
    low, human, high = (response.id for response in record.responses)
    assert orders["overall"].tiers == ((human, high), (low,))
    assert orders["coherence"].tiers == ((low, human, high),)
    scales = {rating.criterion: (rating.low, rating.high) for rating in judgement.ratings}
    assert scales["overall"] == (1.0, 5.0)


def test_a_dialogue_of_even_length_begins_with_the_assistant() -> None:
    rows = [row("a", "x", source="hi \n hello \n\n", context="_nofact\n"), row("b", "y")]
    record = usr.parse(rows, [1, 3])
    assert [m.role for m in record.prompt.messages] == ["assistant", "user"]  # and there is no fact
    assert record.source is not None
    assert record.source.row == "1,3"


def test_dialogues_with_another_fact_are_of_the_same_group() -> None:
    one, other = (usr.parse([row("a", "x", context=fact), row("b", "y")], [1, 2]) for fact in ("f\n", "g\n"))
    assert one.group_id == other.group_id
    assert one.id != other.id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": None}, "source is missing or not a text"),
        ({"context": 3}, "context is missing or not a text"),
        ({"system_output": True}, "system_output is missing or not a text"),
        ({"system_output": " "}, "a response is empty"),
        ({"system_id": ""}, "system_id is empty"),
        ({"scores": {"overall": None}}, "the score overall is missing or not a number from 1 to 5"),
        ({"scores": {"overall": 5.5}}, "the score overall is missing or not a number from 1 to 5"),
        ({"scores": {"groundedness": True}}, "the score groundedness is missing or not a number from 0 to 1"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        usr.dialogue(row("a", "x", **change))
    assert str(caught.value) == reason


def test_scores_must_be_there() -> None:
    with pytest.raises(DataError, match="the score overall is missing"):
        usr.dialogue({**row("a", "x"), "scores": None})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row("a", "x")], "the dialogue has one response; there is nothing to compare it with"),
        ([row("a", "x"), row("b", "x")], "two systems gave the same response"),
        ([row(name, name, source="hi \n  \n you \n\n") for name in "ab"], "a turn of the dialogue is empty"),
        ([row(name, name, source="hi\nyou \n\n") for name in "ab"], r"the turns .* not separated by ' \\n '"),
    ],
)
def test_bad_dialogues_are_refused_with_a_reason(rows: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        usr.parse(rows, list(range(1, len(rows) + 1)))


def test_real_rows_are_all_taken(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "usr_topical_chat" / "topical_chat.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    report = import_file("usr", path)
    assert (report.n_rows, report.n_taken, len(report.records), report.refused) == (276, 276, 46, [])
    assert [one for record in report.records for one in rebuilt(record)] == rows
    assert [one for record in report.records for one in record.raw] == rows
    assert [record.source.row for record in report.records if record.source][:2] == ["1-6", "7-12"]
    for record in report.records:
        roles = [message.role for message in record.prompt.messages if message.role != "system"]
        assert roles[-1] == "user"
        assert all(one != following for one, following in pairwise(roles))
        assert all(message.content.strip() for message in record.prompt.messages)
        assert Counter(r.generator.kind for r in record.responses if r.generator) == {"model": 4, "human": 2}
    assert len({record.group_id for record in report.records}) == 46
    write_records(tmp_path / "usr.jsonl.gz", report.records)
    assert read_records(tmp_path / "usr.jsonl.gz") == report.records


def test_real_orders_are_those_of_the_scores(real_data: Path) -> None:
    records = import_file("usr", real_data / "usr_topical_chat" / "topical_chat.json").records
    ties: Counter[str] = Counter()
    for record in records:
        scores = [one["scores"] for one in record.raw]
        for order in record.judgements[0].orders:
            level = [order.levels()[response.id] for response in record.responses]
            for i, j in combinations(range(6), 2):
                mine, other = scores[i][order.criterion], scores[j][order.criterion]
                assert (level[i] < level[j], level[i] == level[j]) == (mine > other, mine == other)
                ties[order.criterion] += mine == other
    assert ties == {
        "overall": 45,
        "understandability": 226,
        "naturalness": 125,
        "coherence": 128,
        "engagingness": 105,
        "groundedness": 285,
    }
    items, dropped = views.pairs(records, "overall")
    assert (len(items), dropped) == (46 * 15 - 45, Counter())
    with pytest.raises(DataError, match=r"several criteria .*choose one with criterion"):
        views.pairs(records)
