r"""HH-RLHF: `{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "..."}`.

The prompt is everything up to the last `\n\nAssistant:`. In a few rows the two texts differ before that, because
one of the answers itself holds an `\n\nAssistant:`; there the prompt is the longest run of turns that both texts
share, and each response is the list of the turns that follow, provided that both go on with assistant turns. All
other rows with different contexts are refused: their answers belong to different questions.

The one space after `Human:` or `Assistant:` is the format's; everything else is the message, further spaces
included. So joining `\n\n<Speaker>: <content>` over prompt and response gives back the source text exactly
(where that space was there), and `raw` keeps the row in any case.
"""

import re
from typing import Any

from alignment.errors import DataError
from alignment.preferences.fields import Role
from alignment.preferences.importers.conversation import Messages, shared_turns
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    Source,
    judgement_id,
)

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
# The data does not say who judged; one annotator per row is all that is known.
_ANNOTATOR = Annotator(id="unknown", kind="human")


def parse(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with two responses, or DataError with the reason why the row is refused."""
    chosen, rejected = (_turns(row.get(key)) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise DataError("chosen and rejected are identical")
    prompt, better, worse = _divide(chosen, rejected)
    if not all(message.content.strip() for message in (*better, *worse)):
        raise DataError("a response is empty")
    responses = (Response(messages=better), Response(messages=worse))
    record = PreferenceRecord(prompt=Prompt(messages=prompt), responses=responses, source=Source(row=line), raw=row)
    judgement = Judgement(
        id=judgement_id(record.id, _ANNOTATOR.id),
        annotator=_ANNOTATOR,
        orders=(Order(tiers=tuple((response.id,) for response in responses)),),
    )
    return record.model_copy(update={"judgements": (judgement,)})


def _turns(text: Any) -> Messages:
    """The turns of one text, first to last; the last one is the assistant's."""
    if not isinstance(text, str):
        raise DataError("chosen or rejected is missing or not a text")
    if not text.startswith("\n\nHuman:"):
        raise DataError(r"a text does not start with \n\nHuman:")
    parts = _TURN.split(text)[1:]  # speaker, content, speaker, content, ...
    turns = tuple(
        Message(role=_ROLES[speaker], content=content.removeprefix(" "))
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    )
    if turns[-1].role != "assistant":
        raise DataError("a text does not end with an assistant turn")
    return turns


def _divide(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Prompt, better response, worse response."""
    shared = shared_turns(chosen, rejected)
    better, worse = chosen[shared:], rejected[shared:]
    if any(message.role != "assistant" for message in (*better, *worse)):
        raise DataError("the contexts of chosen and rejected differ")
    if chosen[shared - 1].role != "user":
        raise DataError("the prompt does not end with a human turn")
    return chosen[:shared], better, worse
