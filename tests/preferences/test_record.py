"""The schema: what it refuses and in which words, content ids, and lossless lines."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alignment.preferences.identity import dedup_key
from alignment.preferences.record import (
    Annotator,
    Critique,
    Edit,
    Generator,
    Judgement,
    Label,
    Message,
    Order,
    PreferenceRecord,
    Presentation,
    Prompt,
    Rating,
    Response,
    dump,
    first_problem,
    group_id,
    json_schema,
    judgement_id,
    record_id,
    response_id,
)

ROOT = Path(__file__).resolve().parents[2]
ANNA = Annotator(id="anna", kind="human")
FIRST, SECOND = UUID(int=1), UUID(int=2)


def user(text: str = "Why?") -> Message:
    return Message(role="user", content=text)


def said(text: str, **fields: object) -> Response:
    return Response(messages=(Message(role="assistant", content=text),), **fields)  # type: ignore[arg-type]


def record(*texts: str, **fields: object) -> PreferenceRecord:
    responses = tuple(said(text) for text in texts or ("a", "b"))
    return PreferenceRecord(prompt=Prompt(messages=(user(),)), responses=responses, **fields)  # type: ignore[arg-type]


A, B = (response.id for response in record().responses)


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_are_the_hash_of_canonical_json_of_the_exact_text() -> None:
    import hashlib

    text = '["response",[[["assistant","ja: Größe"]],null]]'
    assert (
        response_id([Message(role="assistant", content="ja: Größe")]) == hashlib.sha256(text.encode()).hexdigest()[:32]
    )


def test_ids_are_stable_across_versions() -> None:
    # Stored files name these; changing them orphans every judgement.
    assert (A, B) == ("4505e2e85c5a45c69d734af404aba0d7", "c9776d56e3ff88b6f02b1f179109cd5f")
    assert record().id == "605cbce7a75cce2435114cc70ce5f6e9"
    assert record().group_id == group_id(Prompt(messages=(user(),)))


def test_record_id_covers_prompt_tools_and_the_set_of_responses_only() -> None:
    prompt = Prompt(messages=(user(),))
    base = record_id(prompt, [said("a"), said("b")])
    assert base == record_id(prompt, [said("b"), said("a")])
    assert base == record_id(prompt, [said("a", generator=Generator(kind="human")), said("b")])
    others = [
        record_id(prompt, [said("a")]),
        record_id(prompt, [said("a"), said("b ")]),
        record_id(prompt, [said("a", context=(user("passage"),)), said("b")]),
        record_id(Prompt(messages=(user("why?"),)), [said("a"), said("b")]),
        record_id(Prompt(messages=(user(),), tools=[{"name": "search"}]), [said("a"), said("b")]),
    ]
    assert len({base, *others}) == 6


def test_tools_do_not_move_a_prompt_to_another_group() -> None:
    assert group_id(Prompt(messages=(user(),), tools=[{"name": "search"}])) == group_id(Prompt(messages=(user(),)))


def test_ids_do_not_confuse_neighbouring_fields() -> None:
    two = [Message(role="assistant", content="a"), Message(role="assistant", content="b")]
    one = [Message(role="assistant", content='a"],["assistant","b')]
    assert response_id(two) != response_id(one)
    assert response_id(two[:1], two[1:]) != response_id(two)


def test_a_given_id_must_fit_its_text() -> None:
    assert said("a", id=A) == said("a")
    with pytest.raises(ValidationError, match=f"response id '{A}' does not fit its text"):
        said("edited afterwards", id=A)
    with pytest.raises(ValidationError, match="record id 'x' does not fit its text"):
        record(id="x")


def test_the_group_may_be_wider_than_the_prompt() -> None:
    assert record(group_id="post 17").group_id == "post 17"


def test_judgement_ids_are_reproducible_and_distinct() -> None:
    assert judgement_id("r", "anna") == judgement_id("r", "anna")
    assert len({judgement_id("r", "anna"), judgement_id("r", "bob"), judgement_id("s", "anna")}) == 3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What's  up?", "whats UP", True),
        ("STRASSE", "straße", True),
        ("a b", "ab", False),
        ("cost: $5", "cost 5", False),
        ("?", "!", False),
    ],
)
def test_dedup_key_folds_case_space_and_punctuation(one: str, other: str, same: bool) -> None:
    assert (dedup_key(one) == dedup_key(other)) is same


# --- what is refused, and in which words -----------------------------------------------------------------------------


def judged(*orders: Order, **fields: object) -> Judgement:
    return Judgement(id=FIRST, annotator=ANNA, orders=orders, **fields)  # type: ignore[arg-type]


def over(*tiers: tuple[str, ...], **fields: object) -> Order:
    return Order(tiers=tiers, **fields)  # type: ignore[arg-type]


NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)

REFUSED = {
    "identical responses": (
        lambda: record("a", "b", "a"),
        r"responses 0 and 2 are identical \(same text and context\)",
    ),
    "empty prompt": (lambda: Prompt(messages=()), "the prompt is empty"),
    "blank prompt": (lambda: Prompt(messages=(user(" \n"),)), "the prompt is empty"),
    "late system message": (
        lambda: Prompt(messages=(user(), Message(role="system", content="s"))),
        "only be the first of a prompt",
    ),
    "unknown role": (lambda: Message(role="bot", content="x"), "'system', 'user', 'assistant' or 'tool', not 'bot'"),  # type: ignore[arg-type]
    "response by the user": (lambda: Response(messages=(user(),)), "a response starts with an assistant message"),
    "empty response": (lambda: Response(messages=()), "a response starts with an assistant message"),
    "system in response": (
        lambda: Response(messages=(Message(role="assistant", content="x"), Message(role="system", content="y"))),
        "holds no system message",
    ),
    "tier names a stranger": (
        lambda: record(judgements=(judged(over((A,), ("nobody",))),)),
        "names response 'nobody', which is not here",
    ),
    "rating of a stranger": (
        lambda: record(judgements=(judged(ratings=(Rating(response_id="x", value=1),)),)),
        "names response 'x'",
    ),
    "label of a stranger": (
        lambda: record(judgements=(judged(labels=(Label(response_id="x", name="ok"),)),)),
        "names response 'x'",
    ),
    "critique of a stranger": (
        lambda: record(judgements=(judged(critiques=(Critique(response_id="x", text="t"),)),)),
        "names response 'x'",
    ),
    "edit of a stranger": (
        lambda: record(judgements=(judged(edits=(Edit(response_id="x", messages=(user(),)),)),)),
        "names response 'x'",
    ),
    "presentation of a stranger": (
        lambda: record(judgements=(judged(presentation=Presentation(order=("x",))),)),
        "names response 'x'",
    ),
    "response in two tiers": (lambda: over((A, B), (A,)), f"response '{A}' is in two places"),
    "response twice in a tier": (lambda: over((A, A)), f"response '{A}' is in two places"),
    "empty tier": (lambda: over((A,), (), (B,)), "an order has an empty tier"),
    "one response ranked": (lambda: over((A,)), "compares at least two responses"),
    "both bad but ordered": (lambda: over((A,), (B,), verdict="both_bad"), "exactly one tier"),
    "unjudgeable but ordered": (lambda: over((A,), (B,), verdict="unjudgeable"), "has no tiers"),
    "negative strength": (lambda: over((A,), (B,), strength=-1.0), "greater than or equal to 0"),
    "the same two twice": (
        lambda: judged(over((A,), (B,)), over((B,), (A,))),
        "twice for criterion 'overall'; keep one order",
    ),
    "judgement id twice": (
        lambda: record(judgements=(judged(), Judgement(id=FIRST, annotator=Annotator(id="bob", kind="human")))),
        "two judgements have the id",
    ),
    "revision twice": (
        lambda: record(judgements=(judged(), Judgement(id=SECOND, annotator=ANNA))),
        "annotator 'anna' has two judgements with revision 1; number the later one 2",
    ),
    "supersedes itself": (lambda: judged(supersedes=FIRST), "supersedes itself"),
    "before its start": (
        lambda: judged(started_at=NOON, submitted_at=NOON - datetime.timedelta(seconds=1)),
        "submitted before it was started",
    ),
    "no time zone": (lambda: judged(started_at=NOON.replace(tzinfo=None)), "timezone"),
    "NaN": (lambda: Rating(response_id=A, value=float("nan")), "finite number"),
    "NaN in raw": (lambda: record(raw={"deep": [float("nan")]}), "raw: must be plain JSON"),
    "no JSON in raw": (lambda: record(raw={1, 2}), "raw: must be plain JSON"),
    "half a surrogate": (lambda: user("\ud83d"), "half of a surrogate pair at character 0"),
    "half a surrogate in raw": (lambda: record(raw=["x\ud83d"]), "half of a surrogate pair"),
    "unknown key": (lambda: record(langauge="en"), "langauge: unknown key"),
    "number for a text": (lambda: user(3), "content: Input should be a valid string, not '3'"),  # type: ignore[arg-type]
    "yes for a truth": (lambda: judged(gold="yes"), "valid boolean, not 'yes'"),
    "unknown split": (lambda: record(split="dev"), "'train', 'validation' or 'test', not 'dev'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_clear_line(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ValidationError) as caught:
        build()
    problem = first_problem(caught.value)
    assert "\n" not in problem
    import re

    assert re.search(message, problem), problem


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        record().split = "test"  # type: ignore[misc]


def test_lists_are_taken_and_kept_as_tuples() -> None:
    order = Order(tiers=[[A], [B]])  # type: ignore[arg-type, list-item]
    assert order.tiers == ((A,), (B,))


def test_one_judgement_may_rank_pairs_of_one_item_separately() -> None:
    c = said("c").id
    assert len(judged(over((A,), (B,)), over((B,), (c,)), over((c,), (A,))).orders) == 3  # a cycle is an opinion


def test_two_criteria_may_disagree() -> None:
    assert len(judged(over((A,), (B,), criterion="helpful"), over((B,), (A,), criterion="harmless")).orders) == 2


# --- lines -----------------------------------------------------------------------------------------------------------


def test_a_line_holds_no_defaults() -> None:
    line = dump(record(judgements=(judged(over((A,), (B,))),)))
    assert json.loads(line) == {
        "id": record().id,
        "prompt": {"messages": [{"role": "user", "content": "Why?"}]},
        "responses": [
            {"messages": [{"role": "assistant", "content": "a"}], "id": A},
            {"messages": [{"role": "assistant", "content": "b"}], "id": B},
        ],
        "judgements": [
            {
                "id": str(FIRST),
                "annotator": {"id": "anna", "kind": "human"},
                "orders": [{"tiers": [[A], [B]]}],
            }
        ],
        "group_id": record().group_id,
    }


def test_raw_is_kept_as_it_is_nulls_included() -> None:
    raw = {"a": None, "b": [None, {"c": None}], "d": 1.0, "e": 10**30, "f": "\u2028", "g": {}}
    again = PreferenceRecord.model_validate_json(dump(record(raw=raw)))
    assert again.raw == raw
    assert isinstance(again.raw["d"], float)


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
WHEN = st.none() | st.datetimes(timezones=st.just(datetime.UTC))


@st.composite
def orders(draw: st.DrawFn, ids: list[str], criterion: str) -> Order:
    placed = draw(st.lists(st.sampled_from(ids), min_size=2, unique=True))
    verdict = draw(st.sampled_from(["ranked", "both_bad", "unjudgeable"]))
    if verdict == "unjudgeable":
        return Order(criterion=criterion, verdict="unjudgeable")
    cuts = draw(st.lists(st.booleans(), min_size=len(placed), max_size=len(placed))) if verdict == "ranked" else []
    tiers: list[list[str]] = [[placed[0]]]
    for response, cut in zip(placed[1:], cuts or [False] * len(placed), strict=False):
        if cut:
            tiers.append([response])
        else:
            tiers[-1].append(response)
    strength = draw(st.none() | st.floats(0, 1e9))
    return Order(criterion=criterion, tiers=tuple(map(tuple, tiers)), strength=strength, verdict=verdict)  # type: ignore[arg-type]


@st.composite
def records(draw: st.DrawFn) -> PreferenceRecord:
    texts = draw(st.lists(TEXT, min_size=2, max_size=5, unique=True))
    responses = tuple(said(text, context=draw(st.none() | st.just((user("passage"),)))) for text in texts)
    ids = [response.id for response in responses]
    judgements = []
    for annotator in draw(st.lists(NAME, max_size=3, unique=True)):
        criteria = draw(st.lists(NAME, max_size=2, unique=True))
        judgements.append(
            Judgement(
                id=draw(st.uuids()),
                annotator=Annotator(id=annotator, kind=draw(st.sampled_from(["human", "model", "rule", "aggregate"]))),
                orders=tuple(draw(orders(ids, criterion)) for criterion in criteria),
                ratings=tuple(Rating(response_id=i, value=draw(st.floats(-1e6, 1e6))) for i in ids[:1]),
                labels=(
                    Label(
                        response_id=ids[0],
                        name="ok",
                        value=draw(st.booleans() | TEXT),
                        index=draw(st.none() | st.just(0)),
                    ),
                ),
                critiques=(Critique(text=draw(TEXT)),),
                edits=(Edit(response_id=ids[-1], messages=(user(draw(TEXT)),)),),
                presentation=Presentation(order=tuple(reversed(ids)), seed=draw(st.integers(0, 9)), blind=True),
                submitted_at=draw(WHEN),
                active_ms=draw(st.none() | st.integers(0, 10**6)),
                status=draw(st.sampled_from(["draft", "submitted", "skipped", "retracted"])),
            )
        )
    prompt = Prompt(messages=(user("Q: " + draw(TEXT)),), tools=draw(st.none() | st.just([{"name": "search"}])))
    split = draw(st.sampled_from([None, "train", "validation", "test"]))
    return PreferenceRecord(
        prompt=prompt, responses=responses, judgements=tuple(judgements), split=split, raw=draw(JSON)
    )


@given(records())
def test_a_record_survives_its_line(made: PreferenceRecord) -> None:
    line = dump(made)
    assert "\n" not in line
    assert PreferenceRecord.model_validate_json(line) == made
    assert dump(PreferenceRecord.model_validate_json(line)) == line


def test_the_schema_file_is_generated_from_the_models() -> None:
    stored = (ROOT / "data" / "preference.schema.json").read_text(encoding="utf-8")
    assert stored == json.dumps(json_schema(), indent=2) + "\n", (
        "regenerate: alignment data schema > data/preference.schema.json"
    )


def test_the_schema_is_closed_and_knows_the_required_keys() -> None:
    schema = json_schema()
    assert schema["required"] == ["prompt", "responses"]
    assert all(part["additionalProperties"] is False for part in [schema, *schema["$defs"].values()])
