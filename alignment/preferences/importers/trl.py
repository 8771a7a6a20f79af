"""TRL preference data: explicit (`prompt`, `chosen`, `rejected`) or implicit (`chosen` and `rejected` only).

Texts (strings) become one user message and one assistant message each, unchanged. Conversations (lists of
`{"role", "content"}`) are taken as they are; where there is no conversational `prompt`, it is the messages that
both conversations share, as TRL's own `extract_prompt` has it. Optional: `tools` and `margin` (>= 0), which becomes the
strength of the preference.
"""

from typing import Any

from alignment.errors import DataError
from alignment.preferences.importers.conversation import Messages, messages_of, shared_turns, tools_of
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

# The format does not say who preferred: a person, a model or a vote of several.
_ANNOTATOR = Annotator(id="unknown", kind="aggregate")


def parse(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with two responses, or DataError with the reason why the row is refused."""
    if "chosen" not in row or "rejected" not in row:
        raise DataError("chosen or rejected is missing; only paired rows hold a preference")
    prompt, better, worse = _divide(row.get("prompt"), row["chosen"], row["rejected"])
    if better == worse:
        raise DataError("chosen and rejected are identical")
    if not all(any(message.content.strip() for message in response) for response in (better, worse)):
        raise DataError("a response is empty")
    responses = (Response(messages=better), Response(messages=worse))
    record = PreferenceRecord(
        prompt=Prompt(messages=prompt, tools=tools_of(row)),
        responses=responses,
        source=Source(row=line),
        raw=row,
    )
    judgement = Judgement(
        id=judgement_id(record.id, _ANNOTATOR.id),
        annotator=_ANNOTATOR,
        orders=(Order(tiers=tuple((response.id,) for response in responses), strength=_margin(row)),),
    )
    return record.model_copy(update={"judgements": (judgement,)})


def _divide(prompt: Any, chosen: Any, rejected: Any) -> tuple[Messages, Messages, Messages]:
    """Prompt, better response, worse response."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            raise DataError("texts without a prompt: nothing says where the prompt ends")
        if not isinstance(prompt, str):
            raise DataError("chosen and rejected are texts but the prompt is not; give it as text too")
        user = Message(role="user", content=prompt)
        better, worse = (Message(role="assistant", content=text) for text in (chosen, rejected))
        return (user,), (better,), (worse,)
    better_messages, worse_messages = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
    if isinstance(prompt, list):
        return messages_of(prompt, "prompt"), better_messages, worse_messages
    if prompt is not None and not isinstance(prompt, str):
        raise DataError("prompt is neither a text nor a list of messages")
    # A text prompt beside whole conversations repeats what they begin with (UltraFeedback binarized).
    shared = shared_turns(better_messages, worse_messages)
    if not shared:
        raise DataError("chosen and rejected share no first message, so there is no prompt")
    if better_messages[shared].role != "assistant" or worse_messages[shared].role != "assistant":
        raise DataError("the contexts of chosen and rejected differ")
    return better_messages[:shared], better_messages[shared:], worse_messages[shared:]


def _margin(row: dict[str, Any]) -> float | None:
    margin = row.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float) or margin < 0:
        raise DataError("margin is not a number >= 0")
    return float(margin)
