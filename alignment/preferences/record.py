"""The one schema of preference data: a prompt, its responses, and what annotators said about them.

Tiers are a partial order: the same tier = tied, an omitted response = not compared (never "last"), and the
verdict `both_bad` is a tie plus the absolute statement that all of its responses are bad. Pairs, rankings and
demonstrations are views of records (`views.py`), never a second schema.

Ids are content ids (`identity.py`). They may be left out and are then computed; one that is given must match
its text, so that a judgement can never end up beside a text that the annotator did not see.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationError, model_validator

from alignment.preferences.fields import Json, Many, Message, Name, Split, StrictModel, plain_json
from alignment.preferences.identity import content_id
from alignment.preferences.judgement import (
    Annotator,
    Critique,
    Edit,
    Judgement,
    Label,
    Order,
    Presentation,
    Rating,
    judgement_id,
)

__all__ = [
    "Annotator",
    "Critique",
    "Edit",
    "Flags",
    "Generator",
    "Judgement",
    "Label",
    "Message",
    "Order",
    "PreferenceRecord",
    "Presentation",
    "Prompt",
    "Rating",
    "Response",
    "Source",
    "Split",
    "dump",
    "first_problem",
    "group_id",
    "json_schema",
    "judgement_id",
    "record_id",
    "response_id",
]


class Prompt(StrictModel):
    """What was asked: the conversation up to the response, and the tools that could be called."""

    messages: Many[Message]
    tools: Annotated[list[dict[str, Any]] | None, AfterValidator(plain_json)] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(message.content.strip() for message in self.messages):
            raise ValueError("the prompt is empty; give at least one message with text")
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("a system message may only be the first of a prompt")
        return self

    def text(self) -> str:
        """All of its messages as one text, for statistics."""
        return "\n".join(message.content for message in self.messages)


class Generator(StrictModel):
    """Who or what wrote a response."""

    kind: Literal["human", "model", "retrieved"]
    name: Name | None = None
    revision: Name | None = None
    sampling: Annotated[dict[str, Any] | None, AfterValidator(plain_json)] = None
    seed: int | None = None


class Response(StrictModel):
    """One answer to the prompt: usually one assistant message, a whole trajectory where histories diverge.

    `context` is how this response was made (its own system prompt, its retrieved passages), not part of the
    question that the annotators compared.
    """

    messages: Many[Message]
    context: Many[Message] | None = None
    generator: Generator | None = None
    id: str = Field(default_factory=lambda data: response_id(data["messages"], data["context"]))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.messages or self.messages[0].role != "assistant":
            raise ValueError("a response starts with an assistant message")
        if any(message.role == "system" for message in self.messages):
            raise ValueError("a response holds no system message; put it in the response's context")
        _same_id("response", self.id, response_id(self.messages, self.context))
        return self

    def text(self) -> str:
        """What the assistant said, as one text, for statistics."""
        return "\n".join(message.content for message in self.messages if message.role == "assistant")


class Source(StrictModel):
    """Where the record comes from. `row`: line or key in the source file; `conditions`: of the licence."""

    dataset: Name | None = None
    revision: Name | None = None
    row: int | Name | None = None
    license: Name | None = None
    conditions: Name | None = None


class Flags(StrictModel):
    """What is known about the content. None = nobody looked; `harm` names the categories that were found."""

    pii: bool | None = None
    harm: Many[Name] | None = None
    language: Name | None = None


class PreferenceRecord(StrictModel):
    """A prompt, its responses and all judgements of them. `raw` keeps the source row unchanged."""

    prompt: Prompt
    responses: Many[Response]
    judgements: Many[Judgement] = ()
    source: Source | None = None
    flags: Flags | None = None
    id: str = Field(default_factory=lambda data: record_id(data["prompt"], data["responses"]))
    group_id: Name = Field(default_factory=lambda data: group_id(data["prompt"]))
    split: Split | None = None
    raw: Json = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        positions: dict[str, int] = {}
        for position, response in enumerate(self.responses):
            if response.id in positions:
                where = f"{positions[response.id]} and {position}"
                raise ValueError(f"responses {where} are identical (same text and context); keep one")
            positions[response.id] = position
        _same_id("record", self.id, record_id(self.prompt, self.responses))
        ids: set[UUID] = set()
        revisions: set[tuple[str, int]] = set()
        for judgement in self.judgements:
            if judgement.id in ids:
                raise ValueError(f"two judgements have the id {judgement.id}; every submission has its own")
            ids.add(judgement.id)
            # With two first revisions nobody could say which one counts.
            revision = (judgement.annotator.id, judgement.revision)
            if revision in revisions:
                who = f"annotator {revision[0]!r} has two judgements with revision {revision[1]}"
                raise ValueError(f"{who}; number the later one {revision[1] + 1}")
            revisions.add(revision)
            unknown = next((r for r in judgement.named_responses() if r not in positions), None)
            if unknown is not None:
                raise ValueError(f"judgement {judgement.id} names response {unknown!r}, which is not here")
        return self


def _same_id(kind: str, given: str, computed: str) -> None:
    if given != computed:
        raise ValueError(f"{kind} id {given!r} does not fit its text (which gives {computed}); leave the id out")


def _plain(messages: Sequence[Message] | None) -> list[list[str]] | None:
    return None if messages is None else [[message.role, message.content] for message in messages]


def response_id(messages: Sequence[Message], context: Sequence[Message] | None = None) -> str:
    """Id of a response: its messages and the context it was made in, not who wrote it."""
    return content_id("response", [_plain(messages), _plain(context)])


def record_id(prompt: Prompt, responses: Sequence[Response]) -> str:
    """Id of an item to judge: the prompt, its tools, and the *set* of responses.

    Judgements are not covered (they are appended later), nor is the order of the responses: a row with chosen
    and rejected swapped is the same item, judged differently. Generators are not covered either, so one text
    sampled twice is an error in a record, not two responses.
    """
    responses_in_any_order = sorted(response.id for response in responses)
    return content_id("record", [_plain(prompt.messages), prompt.tools, responses_in_any_order])


def group_id(prompt: Prompt) -> str:
    """Id of the prompt's exact messages: what splits are drawn over."""
    return content_id("group", _plain(prompt.messages))


def dump(record: PreferenceRecord) -> str:
    """The record as one line of JSON (no line end); defaults are left out, `raw` is kept as it is."""
    # exclude_none would also reach into raw; every optional field defaults to None, so this is enough.
    values = record.model_dump(mode="json", exclude_defaults=True, exclude={"id"})
    return json.dumps({"id": record.id, **values}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def first_problem(error: ValidationError) -> str:
    """`where: what is wrong` for the first problem of a failed validation, in one line."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    kind, what = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        what = "unknown key; remove it or mend its spelling"
    elif kind == "missing":
        what = "this key is missing; add it"
    elif isinstance(problem["input"], str | int | float | bool | None) and kind not in ("value_error", "json_invalid"):
        what = f"{what}, not {str(problem['input'])[:60]!r}"
    return " ".join(f"{where}: {what}".removeprefix(": ").split())


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a record; `data/preference.schema.json` is this, and a test keeps it so."""
    schema = PreferenceRecord.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
