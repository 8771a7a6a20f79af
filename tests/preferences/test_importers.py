"""Importers: what they take, what they refuse and why; nothing is mended and nothing disappears."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.importers import IMPORTERS, hh_rlhf, messages, trl
from alignment.preferences.importers.run import BROKEN, DUPLICATE, NO_RECORD, import_file, importer
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.sources import DataSpec
from alignment.preferences.store import read_records, write_records


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def turns(record: PreferenceRecord, response: int) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in (*record.prompt.messages, *record.responses[response].messages)]


def hh_text(record: PreferenceRecord, response: int) -> str:
    speakers = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{speakers[role]}: {content}" for role, content in turns(record, response))


def hh(chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": chosen, "rejected": rejected}


# --- HH-RLHF ---------------------------------------------------------------------------------------------------------


def test_hh_splits_at_the_last_assistant_turn() -> None:
    before = "\n\nHuman: q\n\nAssistant: a\n\nHuman:  Human: said?\n"
    record = hh_rlhf.parse(hh(f"{before}\n\nAssistant: yes ", f"{before}\n\nAssistant: no"), 5)
    assert [(m.role, m.content) for m in record.prompt.messages] == [
        ("user", "q"),
        ("assistant", "a"),
        ("user", " Human: said?\n"),
    ]
    assert [r.messages[0].content for r in record.responses] == ["yes ", "no"]
    assert record.source is not None
    assert record.source.row == 5
    (judgement,) = record.judgements
    assert (judgement.annotator.id, judgement.annotator.kind) == ("unknown", "human")
    assert judgement.orders[0].tiers == tuple((r.id,) for r in record.responses)


def test_hh_falls_back_to_the_turns_both_texts_share() -> None:
    row = hh("\n\nHuman: q\n\nAssistant: a\n\nAssistant: more", "\n\nHuman: q\n\nAssistant: b")
    record = hh_rlhf.parse(row, 1)
    assert len(record.prompt.messages) == 1
    assert [[m.content for m in r.messages] for r in record.responses] == [["a", "more"], ["b"]]
    assert [hh_text(record, i) for i in (0, 1)] == [row["chosen"], row["rejected"]]


def test_hh_falls_back_when_one_answer_begins_with_the_other() -> None:
    record = hh_rlhf.parse(hh("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: a\n\nAssistant: more"), 1)
    assert [[m.content for m in r.messages] for r in record.responses] == [["a"], ["a", "more"]]


Q = "\n\nHuman: q\n\nAssistant: "
HH_REFUSED = [
    (hh(Q + "a", Q + "a"), "chosen and rejected are identical"),
    (hh(Q + "a", Q), "a response is empty"),
    (hh(Q + " \n", Q + "a"), "a response is empty"),
    (hh(Q + "a\n\nAssistant: ", Q + "b"), "a response is empty"),
    (hh("Human: q\n\nAssistant: a", Q + "b"), r"a text does not start with \n\nHuman:"),
    (hh("\n\nAssistant: a", "\n\nAssistant: b"), r"a text does not start with \n\nHuman:"),
    (hh("\n\nHuman: q", Q + "b"), "a text does not end with an assistant turn"),
    (hh(Q + "a\n\nHuman: thanks", Q + "b"), "a text does not end with an assistant turn"),
    (hh(Q + "a", "\n\nHuman: Q\n\nAssistant: b"), "the contexts of chosen and rejected differ"),
    (
        hh(Q + "a\n\nHuman: r\n\nAssistant: b", Q + "a\n\nHuman: s\n\nAssistant: b"),
        "the contexts of chosen and rejected differ",
    ),
    (hh(Q + "a\n\nAssistant: b", Q + "a\n\nAssistant: c"), "the prompt does not end with a human turn"),
    ({"chosen": Q + "a"}, "chosen or rejected is missing or not a text"),
    ({"chosen": Q + "a", "rejected": True}, "chosen or rejected is missing or not a text"),
]


@pytest.mark.parametrize(("row", "reason"), HH_REFUSED)
def test_hh_refuses_with_a_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        hh_rlhf.parse(row, 1)
    assert str(caught.value) == reason


PIECES = st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", " ", "\n", "a", "b", "Human:", "\r"]), max_size=8)


@given(PIECES, PIECES, PIECES)
def test_hh_takes_a_row_losslessly_or_refuses_it(start: list[str], one: list[str], other: list[str]) -> None:
    row = hh(*("\n\nHuman: q" + "".join(start) + "\n\nAssistant: " + "".join(end) for end in (one, other)))
    try:
        record = hh_rlhf.parse(row, 1)
    except DataError:
        return
    assert record.raw == row
    for response, key in enumerate(("chosen", "rejected")):
        # Without the format's space after a speaker the messages cannot tell; the raw row can.
        assert hh_text(record, response).replace(": ", ":") == row[key].replace(": ", ":")


def test_hh_real_rows_are_all_accounted_for(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "hh_rlhf_harmless" / "harmless-base.jsonl.gz"
    report = import_file("hh-rlhf", path)
    assert report.n_rows == 1885
    assert len(report.records) == 1881
    assert report.reasons() == {"a response is empty": 4}
    assert [refusal.line for refusal in report.refused] == [76, 433, 765, 894]

    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = dict(enumerate(map(json.loads, file), 1))
    several = []
    for record in report.records:
        assert record.source is not None
        assert record.source.dataset == "harmless-base"
        row = rows.pop(int(record.source.row or 0))
        assert record.raw == row
        assert [hh_text(record, i) for i in (0, 1)] == [row["chosen"], row["rejected"]]
        assert record.prompt.messages[-1].role == "user"
        if any(len(response.messages) > 1 for response in record.responses):
            several.append(record.source.row)
    assert several == [1373, 1589, 1591, 1662]  # one answer holds an "\n\nAssistant:" of its own
    assert [refusal.row for refusal in report.refused] == list(rows.values())

    items, dropped = views.pairs(report.records)
    assert (len(items), dropped) == (1881, Counter())
    write_records(tmp_path / "hh.jsonl.gz", report.records)
    assert read_records(tmp_path / "hh.jsonl.gz") == report.records


# --- TRL -------------------------------------------------------------------------------------------------------------


def say(role: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}


ASK, YES, NO = say("user", "q"), say("assistant", "yes"), say("assistant", "no")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "q", "chosen": "yes", "rejected": "no"}, id="texts"),
        pytest.param({"prompt": [ASK], "chosen": [YES], "rejected": [NO]}, id="conversations"),
        pytest.param({"chosen": [ASK, YES], "rejected": [ASK, NO]}, id="implicit"),
        pytest.param({"prompt": None, "chosen": [ASK, YES], "rejected": [ASK, NO]}, id="implicit, null prompt"),
        pytest.param({"prompt": "q", "chosen": [ASK, YES], "rejected": [ASK, NO]}, id="text beside conversations"),
        pytest.param(
            {"prompt": [say("user", "q", name=None)], "chosen": [YES], "rejected": [NO]}, id="columns that are not set"
        ),
    ],
)
def test_trl_forms_of_one_preference(row: dict[str, Any]) -> None:
    record = trl.parse(row, 3)
    assert turns(record, 0) == [("user", "q"), ("assistant", "yes")]
    assert turns(record, 1) == [("user", "q"), ("assistant", "no")]
    assert record.judgements[0].orders[0].tiers == tuple((r.id,) for r in record.responses)
    assert record.judgements[0].orders[0].strength is None
    assert record.raw == row


def test_trl_finds_the_prompt_where_trl_does() -> None:
    from trl.data_utils import extract_prompt

    shared = [say("system", "s"), ASK, say("assistant", "hm"), say("user", "more")]
    rows = [
        {"chosen": [*shared, YES], "rejected": [*shared, NO]},
        {"chosen": [*shared[:2], YES, ASK, NO], "rejected": [*shared[:2], NO]},
    ]
    for row in rows:
        expected = extract_prompt(row)
        record = trl.parse(row, 1)
        assert [m.model_dump() for m in record.prompt.messages] == expected["prompt"]
        for response, key in zip(record.responses, ("chosen", "rejected"), strict=True):
            assert [m.model_dump() for m in response.messages] == expected[key]


def test_trl_texts_are_not_stripped() -> None:
    record = trl.parse({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, 1)
    assert [r.text() for r in record.responses] == [" blue.", " green."]


def test_trl_margin_and_tools() -> None:
    row = {"prompt": "q", "chosen": "yes", "rejected": "no", "margin": 2, "tools": [{"name": "search"}]}
    record = trl.parse(row, 1)
    assert record.judgements[0].orders[0].strength == 2.0
    assert record.prompt.tools == [{"name": "search"}]


TRL_REFUSED = [
    ({"prompt": "q", "chosen": "a"}, "chosen or rejected is missing, and there is no completion"),
    ({"prompt": "q", "completion": "a", "label": "yes"}, "label is not true or false"),
    ({"prompt": "q", "completion": [], "label": True}, "both be texts, or both lists of messages"),
    ({"prompt": "q", "completion": " ", "label": True}, "a response is empty"),
    ({"chosen": "q yes", "rejected": "q no"}, "texts without a prompt"),
    ({"prompt": [ASK], "chosen": "yes", "rejected": "no"}, "are texts but the prompt is not"),
    ({"prompt": "q", "chosen": "yes", "rejected": [NO]}, "chosen is not a list of messages"),
    ({"prompt": 3, "chosen": [ASK, YES], "rejected": [ASK, NO]}, "prompt is neither a text nor a list"),
    ({"prompt": "q", "chosen": "yes", "rejected": "yes"}, "identical"),
    ({"prompt": "q", "chosen": "yes", "rejected": " "}, "a response is empty"),
    ({"prompt": [ASK], "chosen": [], "rejected": [NO]}, "chosen is not a list of messages"),
    ({"chosen": [YES], "rejected": [NO]}, "share no first message"),
    ({"chosen": [ASK, YES], "rejected": [say("user", "Q"), YES]}, "share no first message"),
    ({"chosen": [ASK, YES, ASK, YES], "rejected": [ASK, YES, say("user", "r"), NO]}, "contexts .* differ"),
    ({"prompt": [ASK], "chosen": [say("assistant", "yes", tool_calls=[{}])], "rejected": [NO]}, "'tool_calls'"),
    ({"prompt": [say("user", [{"type": "image"}])], "chosen": [YES], "rejected": [NO]}, "content is not a text"),
    ({"prompt": [say("human", "q")], "chosen": [YES], "rejected": [NO]}, "unknown role"),
    ({"prompt": [{"from": "human"}], "chosen": [YES], "rejected": [NO]}, "without role or content"),
    ({"prompt": "q", "chosen": "yes", "rejected": "no", "margin": -1}, "margin is not a number >= 0"),
    ({"prompt": "q", "chosen": "yes", "rejected": "no", "margin": True}, "margin is not a number >= 0"),
    ({"prompt": "q", "chosen": "yes", "rejected": "no", "tools": "search"}, "tools is not a list"),
]


@pytest.mark.parametrize(("row", "reason"), TRL_REFUSED)
def test_trl_refuses_with_a_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        trl.parse(row, 1)


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_become_one_response_without_a_judgement() -> None:
    record = messages.parse({"messages": [say("system", "s"), ASK, NO, ASK, YES], "topic": "x"}, 1)
    assert [m.role for m in record.prompt.messages] == ["system", "user", "assistant", "user"]
    assert [r.text() for r in record.responses] == ["yes"]
    assert record.judgements == ()
    assert record.raw["topic"] == "x"
    (demonstration,), _ = views.demonstrations([record])
    assert demonstration.response == [YES]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "messages is not a list"),
        ({"messages": [YES, ASK]}, "the last message is not the assistant's"),
        ({"messages": [YES]}, "no message before the answer"),
        ({"messages": [ASK, say("assistant", "\n")]}, "a response is empty"),
    ],
)
def test_messages_refuses_with_a_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        messages.parse(row, 1)


# --- files -----------------------------------------------------------------------------------------------------------


def test_every_line_is_taken_or_refused(tmp_path: Path) -> None:
    first = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    lines = [
        json.dumps(first),
        '{"prompt": ',
        json.dumps({**first, "chosen": "yes", "rejected": "no", "note": "again"}),
        json.dumps({**first, "chosen": "no", "rejected": "yes"}),
        json.dumps({**first, "chosen": "yes"} | {"prompt": " "}),
        "[1]",
        "",
        json.dumps({**first, "prompt": "Q"}),
    ]
    path = tmp_path / "toy.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = import_file("trl", path)
    assert [r.source.row for r in report.records if r.source] == [1, 8]
    assert {r.source.dataset for r in report.records if r.source} == {"toy"}
    assert [(r.line, r.reason) for r in report.refused] == [
        (2, BROKEN),
        (3, DUPLICATE),
        (4, DUPLICATE),
        (5, NO_RECORD),
        (6, BROKEN),
        (7, BROKEN),
    ]
    details = {r.line: r.detail for r in report.refused}
    assert details[3] == details[4] == "line 1"  # a swapped pair is the same item
    assert details[5] == "the prompt is empty; give at least one message with text"
    assert {r.line: r.row for r in report.refused}[2] == '{"prompt": '
    assert report.n_rows == len(lines)


def test_a_file_of_another_format_is_an_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", [{"messages": [ASK, YES]}] * 2)
    with pytest.raises(DataError, match=r"none of 2 rows could be imported as trl \(2: chosen or rejected is missing"):
        import_file("trl", path)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown format 'hh_rlfh'; did you mean hh-rlhf\\?"):
        importer("hh_rlfh")
    with pytest.raises(DataError, match="known formats: hh-rlhf, trl, messages"):
        importer("zzz")


def test_a_data_spec_knows_every_importer() -> None:
    assert set(get_args(DataSpec.model_fields["format"].annotation)) == {"records", *IMPORTERS}
