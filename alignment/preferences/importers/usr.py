r"""USR's Topical-Chat ratings (Mehri and Eskenazi 2020) as UniEval publishes them: one row for each response.

    {"source": "turn \n turn \n turn \n\n", "system_id": "Argmax Decoding", "system_output": "...",
     "context": "a fact\n", "scores": {"naturalness": 2.3333333333, ..., "overall": 4.6666666667}}

The rows of one dialogue (same source and context) make one record. The turns of `source` alternate and the last one is
the user's, so a dialogue with an even number of turns begins with the assistant. `context` is the fact the reply was
to use, which the raters saw: it is the system message, without its line end; `_nofact` is none.

A score is the mean of three raters. Each becomes a rating, and for every criterion the responses are ordered by it:
higher is better and equal means are a tie. So one judgement of kind aggregate has six criteria; `overall` is the one
to train on unless you want another. The two people among the systems have generators of kind human.
"""

from collections.abc import Sequence
from typing import Any

from alignment.errors import DataError
from alignment.preferences.record import (
    Annotator,
    Generator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Rating,
    Response,
    Source,
    group_id,
    judgement_id,
)

SCALES = {
    "overall": (1, 5),
    "understandability": (0, 1),
    "naturalness": (1, 3),
    "coherence": (1, 3),
    "engagingness": (1, 3),
    "groundedness": (0, 1),
}
PEOPLE = ("Original Ground Truth", "New Human Generated")
NO_FACT = "_nofact"
_ANNOTATOR = Annotator(id="mean of three raters", kind="aggregate")


def dialogue(row: dict[str, Any]) -> tuple[str, str]:
    """What the rows of one dialogue share, or DataError with the reason why the row is refused."""
    for key in ("source", "context", "system_id", "system_output"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{key} is missing or not a text")
    if not row["system_output"].strip():
        raise DataError("a response is empty")
    if not row["system_id"].strip():
        raise DataError("system_id is empty")
    scores = row.get("scores")
    for name, (low, high) in SCALES.items():
        score = scores.get(name) if isinstance(scores, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float) or not low <= score <= high:
            raise DataError(f"the score {name} is missing or not a number from {low} to {high}")
    return row["source"], row["context"]


def parse(rows: Sequence[dict[str, Any]], lines: Sequence[int]) -> PreferenceRecord:
    """A record of all responses to one dialogue, or DataError with the reason why its rows are refused."""
    if len(rows) < 2:
        raise DataError("the dialogue has one response; there is nothing to compare it with")
    if len({row["system_output"] for row in rows}) < len(rows):
        raise DataError("two systems gave the same response")
    turns = _turns(rows[0]["source"])
    responses = tuple(
        Response(
            messages=(Message(role="assistant", content=row["system_output"]),),
            generator=Generator(kind="human" if row["system_id"] in PEOPLE else "model", name=row["system_id"]),
        )
        for row in rows
    )
    record = PreferenceRecord(
        prompt=Prompt(messages=(*_fact(rows[0]["context"]), *turns)),
        responses=responses,
        group_id=group_id(Prompt(messages=turns)),
        source=Source(row=_numbers(lines)),
        raw=list(rows),
    )
    scores = [(response.id, row["scores"]) for response, row in zip(responses, rows, strict=True)]
    judgement = Judgement(
        id=judgement_id(record.id, _ANNOTATOR.id),
        annotator=_ANNOTATOR,
        orders=tuple(order(name, {one: values[name] for one, values in scores}) for name in SCALES),
        ratings=tuple(
            Rating(response_id=one, criterion=name, value=float(values[name]), low=float(low), high=float(high))
            for one, values in scores
            for name, (low, high) in SCALES.items()
        ),
    )
    return record.model_copy(update={"judgements": (judgement,)})


def order(criterion: str, means: dict[str, float]) -> Order:
    """Response ids by their mean rating, best first, equal means in one tier."""
    levels = sorted(set(means.values()), reverse=True)
    return Order(
        criterion=criterion, tiers=tuple(tuple(one for one, mean in means.items() if mean == level) for level in levels)
    )


def _turns(source: str) -> tuple[Message, ...]:
    texts = source.removesuffix(" \n\n").split(" \n ")
    if not all(text.strip() for text in texts):
        raise DataError("a turn of the dialogue is empty")
    if any("\n" in text for text in texts):
        raise DataError(r"the turns of the dialogue are not separated by ' \n '")
    from_user = len(texts) % 2  # the last turn is the user's
    return tuple(
        Message(role="user" if i % 2 != from_user else "assistant", content=text) for i, text in enumerate(texts)
    )


def _fact(context: str) -> tuple[Message, ...]:
    fact = context.removesuffix("\n")
    return () if fact.strip() in ("", NO_FACT) else (Message(role="system", content=fact),)


def _numbers(lines: Sequence[int]) -> str:
    """`1-6`, or `1,3,9` where the rows do not follow each other."""
    together = list(lines) == list(range(lines[0], lines[0] + len(lines)))
    return f"{lines[0]}-{lines[-1]}" if together else ",".join(str(line) for line in lines)
