"""Labels of single responses out of labels, verdicts, orders and votes."""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from alignment.errors import DataError
from alignment.preferences import unpaired, views
from alignment.preferences.importers import trl
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Label,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
)
from alignment.preferences.unpaired import labelled_responses


def said(name: str, context: str | None = None) -> Response:
    before = (Message(role="system", content=context),) if context else None
    return Response(messages=(Message(role="assistant", content=name),), context=before)


def order(*tiers: str, **fields: Any) -> Order:
    """Each tier a string of one-letter responses."""
    return Order(tiers=tuple(tuple(said(name).id for name in tier) for tier in tiers), **fields)


def both_bad(names: str) -> Order:
    return order(names, verdict="both_bad")


def label(response: str, value: Any, **fields: Any) -> Label:
    return Label(response_id=said(response).id, **({"name": "desirable", "value": value} | fields))


def record(names: str, *judged: Order | Label | tuple[Order | Label, ...]) -> PreferenceRecord:
    """One response per letter; one annotator per further argument."""
    judgements = []
    for number, parts in enumerate(judged, 1):
        listed = parts if isinstance(parts, tuple) else (parts,)
        judgements.append(
            Judgement(
                id=UUID(int=number),
                annotator=Annotator(id=f"a{number}", kind="human"),
                orders=tuple(part for part in listed if isinstance(part, Order)),
                labels=tuple(part for part in listed if isinstance(part, Label)),
            )
        )
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content="Why?"),)),
        responses=tuple(said(name) for name in names),
        judgements=tuple(judgements),
    )


def found(*records: PreferenceRecord, **options: Any) -> str:
    """`a+b-`: a is desirable, b is not."""
    items, dropped = labelled_responses(records, **options)
    assert not dropped
    return "".join(f"{item.response[0]['content']}{'+' if item.label else '-'}" for item in items)


@pytest.mark.parametrize(
    ("made", "every", "ends"),
    [
        (record("ab", order("b", "a")), "a-b+", "a-b+"),
        (record("abc", order("a", "b", "c")), "a+c-", "a+c-"),  # b is in the middle
        (record("abcd", order("a", "b", "c", "d")), "a+b+c-d-", "a+d-"),
        (record("abc", order("a", "bc")), "a+b-c-", "a+b-c-"),
        (record("abcd", order("ab", "c", "d")), "a+b+c-d-", "a+b+d-"),
        (record("abc", order("a", "b")), "a+b-", "a+b-"),  # nobody looked at c
        (record("abc", order("ab", "c"), order("c", "ab"), order("a", "b", "c")), "a+c-", "a+c-"),
        (record("ab", both_bad("ab")), "a-b-", "a-b-"),
        (record("abc", both_bad("ab"), both_bad("ab"), order("a", "b", "c")), "a-b-c-", "a-b-c-"),
        (record("ab", both_bad("ab"), order("a", "b")), "a+b-", "a+b-"),  # half of them is not most of them
        (record("a", both_bad("a")), "a-", "a-"),
    ],
)
def test_labels_from_orders(made: PreferenceRecord, every: str, ends: str) -> None:
    assert found(made) == every
    assert found(made, mode="best_worst") == ends


@pytest.mark.parametrize("name", unpaired.LABELS)
def test_explicit_labels_win(name: str) -> None:
    against_the_order = (order("a", "b", "c"), label("a", False, name=name), label("b", True, name=name))
    assert found(record("abc", against_the_order)) == "a-b+c-"
    assert found(record("ab", (both_bad("ab"), label("b", True, name=name)))) == "a-b+"
    assert found(record("a", label("a", True, name=name))) == "a+"  # one response is enough


def test_most_of_the_annotators_decide() -> None:
    assert found(record("a", label("a", True), label("a", False), label("a", False))) == "a-"
    split = label("a", True), label("a", False)
    items, dropped = labelled_responses([record("a", *split)])
    assert (items, dropped) == ([], Counter({unpaired.EVEN_LABELS: 1}))
    # the label is what its annotators said, and they disagree: an order does not speak for them
    assert found(record("ab", *split, order("a", "b"))) == "b-"


def test_labels_of_steps_and_other_labels_say_nothing_about_the_whole() -> None:
    step, other = label("a", True, index=0), label("a", "en", name="language")
    items, dropped = labelled_responses([record("a", (step, other))])
    assert (items, dropped) == ([], Counter({unpaired.NO_LABEL: 1}))


def test_a_label_in_words_is_refused() -> None:
    made = record("a", label("a", "good", name="label"))
    with pytest.raises(DataError, match=f"record {made.id}: the label 'label' is the text 'good'; give true"):
        labelled_responses([made])


def test_records_without_a_label_are_counted() -> None:
    records = [
        record("ab", order("ab")),
        record("abc", order("a", "b"), order("b", "a")),
        record("abcd"),
        record("abcde", Order(verdict="unjudgeable")),
        record("ac", order("a", "c")),
    ]
    items, dropped = labelled_responses(records)
    assert {item.record_id for item in items} == {records[-1].id}
    assert dropped == {views.ALL_TIED: 1, views.SPLIT_VOTE: 1, views.NOT_JUDGED: 1, unpaired.NO_LABEL: 1}


def test_an_item_holds_the_prompt_the_response_and_the_ids() -> None:
    made = record("ab", order("a", "b"))
    item = labelled_responses([made])[0][0]
    assert (item.record_id, item.group_id) == (made.id, made.group_id)
    assert item.prompt == [{"role": "user", "content": "Why?"}]
    assert item.response == [{"role": "assistant", "content": "a"}]


def test_a_context_goes_before_the_prompt() -> None:
    responses = said("a", "Be kind."), said("b")
    plain = PreferenceRecord(prompt=Prompt(messages=(Message(role="user", content="Why?"),)), responses=responses)
    judged = Judgement(
        id=UUID(int=1),
        annotator=Annotator(id="a", kind="human"),
        orders=(Order(tiers=((responses[0].id,), (responses[1].id,))),),
    )
    items, _ = labelled_responses([plain.model_copy(update={"judgements": (judged,)})], use_context=True)
    assert [message["content"] for message in items[0].prompt] == ["Be kind.", "Why?"]
    assert [message["content"] for message in items[1].prompt] == ["Why?"]


def test_criteria_are_chosen_and_labels_belong_to_none() -> None:
    two = record("ab", (order("a", "b", criterion="helpful"), order("b", "a", criterion="harmless")))
    with pytest.raises(DataError, match="several criteria"):
        labelled_responses([two])
    assert found(two, criterion="harmless") == "a-b+"
    assert found(record("ab", (order("a", "b", criterion="helpful"), label("b", True))), criterion="helpful") == "a+b+"


def test_unpaired_rows_of_trl_bring_their_labels() -> None:
    ask, yes = {"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}
    texts = trl.parse({"prompt": "q", "completion": " no", "label": False}, 1)
    turns = trl.parse({"prompt": [ask], "completion": [yes], "label": True, "tools": None}, 2)
    items, dropped = labelled_responses([texts, turns])
    assert not dropped
    assert [(item.prompt, item.response[0]["content"], item.label) for item in items] == [
        ([ask], " no", False),
        ([ask], "yes", True),
    ]


def test_pairs_are_unpaired_as_in_trl() -> None:
    from datasets import Dataset
    from trl import unpair_preference_dataset

    records = [record("ab", order("a", "b")), record("cd", order("d", "c"))]
    pairs, _ = views.pairs(records)
    theirs = unpair_preference_dataset(
        Dataset.from_list([{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs])
    )
    ours = {(item.response[0]["content"], item.label) for item in labelled_responses(records)[0]}
    assert ours == {(row["completion"][0]["content"], row["label"]) for row in theirs}
