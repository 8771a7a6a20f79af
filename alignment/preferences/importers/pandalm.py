"""PandaLM's human test set: two answers to an instruction, judged by three people; 0 is a tie, 1 and 2 the better one.

    {"idx": 0, "cmp_key": "bloom-7b_llama-7b", "instruction": "...", "input": "...", "response1": "...",
     "response2": "...", "annotator1": 2, "annotator2": 2, "annotator3": 0}

The prompt is one user message: the instruction and, unless the input is blank, an empty line and the input. Each
annotator is one judgement. `cmp_key` names the model of each response, the first one first.

Rows whose answers are no text (some are JSON `true`) or empty are refused. Where two models gave the same text, the
file repeats the item with the votes it already had: the repetition is refused as the same item.
"""

from typing import Any

from alignment.errors import DataError
from alignment.preferences.importers.conversation import answers_of
from alignment.preferences.record import (
    Annotator,
    Generator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    Source,
    judgement_id,
)

RESPONSES = ("response1", "response2")
ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def parse(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with two responses and three judgements, or DataError with the reason why the row is refused."""
    texts = answers_of(row, RESPONSES)
    responses = tuple(
        Response(messages=(Message(role="assistant", content=text),), generator=Generator(kind="model", name=model))
        for text, model in zip(texts, _models(row.get("cmp_key")), strict=True)
    )
    record = PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=_prompt(row)),)),
        responses=responses,
        source=Source(row=line),
        raw=row,
    )
    judgements = tuple(_judgement(record, name, row.get(name)) for name in ANNOTATORS)
    return record.model_copy(update={"judgements": judgements})


def _prompt(row: dict[str, Any]) -> str:
    instruction, extra = row.get("instruction"), row.get("input")
    if not isinstance(instruction, str) or not isinstance(extra, str):
        raise DataError("instruction or input is missing or not a text")
    if not instruction.strip():
        raise DataError("the instruction is empty")
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction


def _models(key: Any) -> list[str]:
    models = key.split("_") if isinstance(key, str) else []
    if len(models) != 2 or not all(models):
        raise DataError("cmp_key does not name two models, as in bloom-7b_llama-7b")
    return models


def _judgement(record: PreferenceRecord, name: str, vote: Any) -> Judgement:
    first, second = (response.id for response in record.responses)
    tiers = {0: ((first, second),), 1: ((first,), (second,)), 2: ((second,), (first,))}
    if type(vote) is not int or vote not in tiers:
        raise DataError("an annotator's vote is missing or not 0, 1 or 2")
    return Judgement(
        id=judgement_id(record.id, name),
        annotator=Annotator(id=name, kind="human"),
        orders=(Order(tiers=tiers[vote]),),
    )
