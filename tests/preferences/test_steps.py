"""Labels of single steps: TRL's stepwise rows, and the view that process rewards are trained on."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from alignment.errors import DataError
from alignment.preferences.importers import trl
from alignment.preferences.record import Annotator, Judgement, Label, Message, PreferenceRecord, Prompt, Response
from alignment.preferences.steps import NO_LABEL, labelled_steps, split_steps
from alignment.preferences.views import FOREIGN_TURNS, NOT_JUDGED, TOOLS

ROW = {"prompt": "2 + 3 · 4?", "completions": ["3 · 4 = 12", "2 + 12 = 15"], "labels": [True, False]}


def labelled(*contents: str, labels: tuple[tuple[int | None, bool | str], ...] = (), **fields: Any) -> PreferenceRecord:
    """One response of these messages; each label by an annotator of its own."""
    response = Response(messages=tuple(Message(role="assistant", content=content) for content in contents))
    judgements = tuple(
        Judgement(
            id=UUID(int=number),
            annotator=Annotator(id=f"a{number}", kind="human"),
            labels=(Label(response_id=response.id, name="correct", value=value, index=index),),
        )
        for number, (index, value) in enumerate(labels, 1)
    )
    prompt = Prompt(messages=(Message(role="user", content="Why?"),), tools=fields.pop("tools", None))
    return PreferenceRecord(prompt=prompt, responses=(response,), judgements=judgements)


def test_trl_steps_are_messages_and_their_labels_judgements() -> None:
    record = trl.parse(ROW, 4)
    (response,) = record.responses
    assert [m.content for m in response.messages] == ROW["completions"]
    (judgement,) = record.judgements
    assert [(label.index, label.name, label.value) for label in judgement.labels] == [
        (0, "correct", True),
        (1, "correct", False),
    ]
    assert not judgement.orders
    assert record.raw == ROW
    (item,), dropped = labelled_steps([record])
    assert item.steps == ("3 · 4 = 12", "2 + 12 = 15")
    assert item.labels == (1.0, 0.0)
    assert item.prompt == [{"role": "user", "content": "2 + 3 · 4?"}]
    assert not dropped


def test_a_conversation_may_be_the_prompt_and_null_columns_do_not_count() -> None:
    asked = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "q"}]
    record = trl.parse({**ROW, "prompt": asked, "chosen": None, "rejected": None}, 1)
    assert [m.role for m in record.prompt.messages] == ["system", "user"]
    pair = trl.parse({"prompt": "q", "chosen": "a", "rejected": "b", "completions": None, "labels": None}, 1)
    assert len(pair.responses) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"completions": "one text"}, "completions is not a list of texts"),
        ({"completions": []}, "completions is not a list of texts"),
        ({"completions": ["a", 1]}, "completions is not a list of texts"),
        ({"completions": ["a", " \n"]}, "a step is empty"),
        ({"labels": [1, 0]}, "labels is not a list of true or false"),
        ({"labels": None}, "labels is not a list of true or false"),
        ({"labels": [True]}, "completions and labels differ in length"),
        ({"prompt": None}, "steps without a prompt"),
    ],
)
def test_stepwise_rows_are_refused_with_a_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        trl.parse({**ROW, **changes}, 1)


def test_votes_are_averaged_and_a_step_without_a_vote_has_no_label() -> None:
    record = labelled("a", "b", "c", labels=((0, True), (0, False), (2, True), (None, False)))
    (item,), _ = labelled_steps([record])
    assert item.labels == (0.5, None, 1.0)  # the label of the whole response is about no step


def test_one_message_is_split_at_the_separator() -> None:
    record = labelled("a\nb\n\n \n\nc\n\n", labels=((1, False),))
    (item,), _ = labelled_steps([record], separator="\n\n")
    assert item.steps == ("a\nb", "c\n\n".strip("\n"))
    assert item.labels == (None, 0.0)
    assert split_steps("a\nb\n\nc", "\n") == ["a", "b", "c"]


def test_records_without_steps_are_counted_by_reason() -> None:
    records = [
        labelled("a"),
        labelled("a", "b", labels=((None, True),)),
        labelled("a", "b", labels=((0, True),), tools=[{"name": "search"}]),
        trl.parse({"prompt": "q", "chosen": "a", "rejected": "b"}, 1),
    ]
    foreign = Response(messages=(Message(role="assistant", content="a"), Message(role="user", content="b")))
    records.append(PreferenceRecord(prompt=records[0].prompt, responses=(foreign,)))
    items, dropped = labelled_steps(records)
    assert not items
    assert dropped == {NOT_JUDGED: 1, NO_LABEL: 2, TOOLS: 1, FOREIGN_TURNS: 1}
    assert labelled_steps([trl.parse(ROW, 1)], label="helpful")[1] == {NO_LABEL: 1}


def test_a_label_that_fits_no_step_is_an_error() -> None:
    with pytest.raises(DataError, match="step 1 has the label 'correct', but its response has 1 steps"):
        labelled_steps([labelled("a\nb", labels=((1, True),))])
    with pytest.raises(DataError, match="the label 'correct' of step 0 is the text 'rather'"):
        labelled_steps([labelled("a", "b", labels=((0, "rather"),))])
