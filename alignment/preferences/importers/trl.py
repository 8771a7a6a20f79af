"""TRL preference data: explicit (`prompt`, `chosen`, `rejected`), implicit (no `prompt`), unpaired or stepwise.

Texts (strings) become one user message and one assistant message each, unchanged. Conversations (lists of
`{"role", "content"}`) are taken as they are; where there is no conversational `prompt`, it is the messages that
both conversations share, as TRL's own `extract_prompt` has it. Optional: `tools` and `margin` (>= 0), which becomes the
strength of the preference.

Unpaired rows (`prompt`, `completion`, `label`) hold one response, and whether it is desirable as its label `label`.

Stepwise rows (`prompt`, `completions`, `labels`) hold one response in steps: it gets one message per step, and every
label, true or false, becomes the label `correct` of its step.
"""

from typing import Any

from alignment.errors import DataError
from alignment.preferences.importers.conversation import Messages, messages_of, shared_turns, tools_of
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Label,
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


WHOLE_LABEL = "label"
STEP_LABEL = "correct"


def parse(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with two responses, or with a labelled one, or DataError with the reason why the row is refused."""
    if row.get("completions") is not None:
        return _stepwise(row, line)
    if row.get("completion") is not None:
        return _unpaired(row, line)
    if "chosen" not in row or "rejected" not in row:
        raise DataError("chosen or rejected is missing, and there is no completion with a label")
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


def _unpaired(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with one response and its label."""
    prompt, completion, label = row.get("prompt"), row["completion"], row.get("label")
    if not isinstance(label, bool):
        raise DataError("label is not true or false")
    asked: Messages
    said: Messages
    if isinstance(prompt, str) and isinstance(completion, str):
        asked, said = (Message(role="user", content=prompt),), (Message(role="assistant", content=completion),)
    elif isinstance(prompt, list) and isinstance(completion, list):
        asked, said = messages_of(prompt, "prompt"), messages_of(completion, "completion")
    else:
        raise DataError("prompt and completion must both be texts, or both lists of messages")
    if not any(message.content.strip() for message in said):
        raise DataError("a response is empty")
    response = Response(messages=said)
    record = PreferenceRecord(
        prompt=Prompt(messages=asked, tools=tools_of(row)), responses=(response,), source=Source(row=line), raw=row
    )
    judgement = Judgement(
        id=judgement_id(record.id, _ANNOTATOR.id),
        annotator=_ANNOTATOR,
        labels=(Label(response_id=response.id, name=WHOLE_LABEL, value=label),),
    )
    return record.model_copy(update={"judgements": (judgement,)})


def _stepwise(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with one response, whose steps are its messages."""
    prompt, steps, labels = row.get("prompt"), row["completions"], row.get("labels")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise DataError("completions is not a list of texts")
    if not all(step.strip() for step in steps):
        raise DataError("a step is empty")
    if not isinstance(labels, list) or not all(isinstance(label, bool) for label in labels):
        raise DataError("labels is not a list of true or false")
    if len(labels) != len(steps):
        raise DataError("completions and labels differ in length")
    if prompt is None:
        raise DataError("steps without a prompt")
    asked = (Message(role="user", content=prompt),) if isinstance(prompt, str) else messages_of(prompt, "prompt")
    response = Response(messages=tuple(Message(role="assistant", content=step) for step in steps))
    record = PreferenceRecord(
        prompt=Prompt(messages=asked, tools=tools_of(row)), responses=(response,), source=Source(row=line), raw=row
    )
    judgement = Judgement(
        id=judgement_id(record.id, _ANNOTATOR.id),
        annotator=_ANNOTATOR,
        labels=tuple(
            Label(response_id=response.id, name=STEP_LABEL, value=label, index=index)
            for index, label in enumerate(labels)
        ),
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
