"""What annotators say about responses: orders, ratings, labels, critiques, edits; when and how they said it."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal, Self
from uuid import UUID, uuid5

from pydantic import AwareDatetime, Field, model_validator

from alignment.preferences.fields import Count, Many, Message, Name, StrictModel, Text
from alignment.preferences.identity import canonical_json

_DERIVED = UUID("6f1d4b0e-2a57-5c1f-9d7e-0c7f3f1b8a42")  # the uuid5 namespace of derived judgement ids


class Annotator(StrictModel):
    id: Name
    kind: Literal["human", "model", "rule", "aggregate"]
    role: Name | None = None


class Order(StrictModel):
    """What one annotator said about the relative quality of responses under one criterion.

    `tiers`: response ids, best first. `strength`: how clear the preference is, >= 0, in the source's units.
    """

    criterion: Name = "overall"
    tiers: Many[Many[str]] = ()
    strength: Annotated[float, Field(ge=0)] | None = None
    verdict: Literal["ranked", "both_bad", "unjudgeable"] = "ranked"

    @model_validator(mode="after")
    def _check(self) -> Self:
        placed = [response for tier in self.tiers for response in tier]
        twice = next((response for response in placed if placed.count(response) > 1), None)
        if twice is not None:
            raise ValueError(f"response {twice!r} is in two places of one order; keep one")
        if not all(self.tiers):
            raise ValueError("an order has an empty tier; leave it out")
        if self.verdict == "ranked" and len(placed) < 2:
            raise ValueError("a ranked order compares at least two responses")
        if self.verdict == "both_bad" and len(self.tiers) != 1:
            raise ValueError("both_bad is a tie: give its responses in exactly one tier")
        if self.verdict == "unjudgeable" and placed:
            raise ValueError("an unjudgeable order has no tiers")
        return self

    def levels(self) -> dict[str, int]:
        """Response id -> index of its tier, 0 = best. Responses that were not compared are absent."""
        return {response: level for level, tier in enumerate(self.tiers) for response in tier}


class Rating(StrictModel):
    """An absolute score; `low` and `high` are the ends of the scale where they are known."""

    response_id: str
    criterion: Name = "overall"
    value: float
    low: float | None = None
    high: float | None = None


class Label(StrictModel):
    """An absolute statement. `index`: the step (from 0) of the response it is about; None = all of it."""

    response_id: str
    name: Name
    value: bool | Text = True
    index: Count | None = None


class Critique(StrictModel):
    text: Text
    response_id: str | None = None  # None: about all responses together
    criterion: Name | None = None


class Edit(StrictModel):
    """The response as the annotator would have it."""

    response_id: str
    messages: Annotated[Many[Message], Field(min_length=1)]


class Presentation(StrictModel):
    """How the responses were shown: ids in order of appearance, seed of the shuffle, names hidden or not."""

    order: Many[str] = ()
    seed: int | None = None
    blind: bool | None = None


class Judgement(StrictModel):
    """One submission of one annotator. Append-only: a change of mind or an undo is a new revision."""

    id: UUID
    annotator: Annotator
    revision: Annotated[int, Field(ge=1)] = 1
    supersedes: UUID | None = None
    orders: Many[Order] = ()
    ratings: Many[Rating] = ()
    labels: Many[Label] = ()
    critiques: Many[Critique] = ()
    edits: Many[Edit] = ()
    presentation: Presentation | None = None
    started_at: AwareDatetime | None = None
    submitted_at: AwareDatetime | None = None
    active_ms: Count | None = None
    status: Literal["draft", "submitted", "skipped", "retracted"] = "submitted"
    gold: bool = False  # the known answer of a control item: a key, which is never counted as a vote

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.supersedes == self.id:
            raise ValueError(f"judgement {self.id} supersedes itself")
        if self.started_at and self.submitted_at and self.submitted_at < self.started_at:
            raise ValueError(f"judgement {self.id} was submitted before it was started")
        compared: set[tuple[str, str, str]] = set()
        for order in self.orders:
            for first, second in combinations(sorted(order.levels()), 2):
                if (order.criterion, first, second) in compared:
                    what = f"{first!r} and {second!r} twice for criterion {order.criterion!r}"
                    raise ValueError(f"judgement {self.id} compares responses {what}; keep one order")
                compared.add((order.criterion, first, second))
        return self

    def named_responses(self) -> list[str]:
        """Every response id this judgement speaks of."""
        placed = [response for order in self.orders for response in order.levels()]
        shown = self.presentation.order if self.presentation else ()
        return [
            *placed,
            *shown,
            *(rating.response_id for rating in self.ratings),
            *(label.response_id for label in self.labels),
            *(edit.response_id for edit in self.edits),
            *(critique.response_id for critique in self.critiques if critique.response_id is not None),
        ]


def judgement_id(record: str, annotator: str, what: str = "") -> UUID:
    """A reproducible judgement id for imported and simulated judgements (people's are random UUIDs)."""
    return uuid5(_DERIVED, canonical_json([record, annotator, what]))
