"""Labels of the single steps of a response, as a view of records, for process rewards.

The steps of a response are its messages where it has several (one per step), otherwise the parts of its one message
between separators; blank parts are no steps. `Label.index` counts them from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from alignment.errors import DataError
from alignment.preferences.record import PreferenceRecord, Response
from alignment.preferences.tally import counted_judgements
from alignment.preferences.views import FOREIGN_TURNS, NOT_JUDGED, TOOLS, Dropped, Messages

NO_LABEL = "no step has the label"
EMPTY_STEP = "a step is empty"


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """The steps of one response. `labels[s]`: share of the annotators of step s who say yes; None = nobody said."""

    record_id: str
    group_id: str
    prompt: Messages
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]


def split_steps(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are not blank."""
    return [part for part in text.split(separator) if part.strip()]


def labelled_steps(
    records: Sequence[PreferenceRecord], label: str = "correct", separator: str = "\n\n"
) -> tuple[list[LabelledSteps], Dropped]:
    """One item per response with a labelled step, and the records (by reason) that gave none.

    Raises DataError for a label of a step that is not there, and for one that is a text instead of true or false.
    """
    items: list[LabelledSteps] = []
    dropped: Dropped = Counter()
    for record in records:
        unusable = _unusable(record)
        found = [] if unusable else _of_record(record, label, separator)
        if not found:
            dropped[unusable or NO_LABEL] += 1
        items += found
    return items, dropped


def check_separable(items: Sequence[LabelledSteps], separator: str) -> None:
    """Raises DataError for steps that would be others when the response is scored, which is split at the separator."""
    for item in items:
        if (again := split_steps(separator.join(item.steps), separator)) != list(item.steps):
            raise DataError(
                f"record {item.record_id}: a step holds the separator {separator!r} or part of it at its edge, so that "
                f"its {len(item.steps)} steps would be scored as {len(again)} others; give another separator"
            )


def _unusable(record: PreferenceRecord) -> str | None:
    messages = [message for response in record.responses for message in response.messages]
    if record.prompt.tools:
        return TOOLS
    if any(message.role != "assistant" for message in messages):
        return FOREIGN_TURNS
    if any(not message.content.strip() for message in messages):
        return EMPTY_STEP
    return None if counted_judgements(record) else NOT_JUDGED


def _of_record(record: PreferenceRecord, label: str, separator: str) -> list[LabelledSteps]:
    prompt = [{"role": message.role, "content": message.content} for message in record.prompt.messages]
    items = []
    for response in record.responses:
        steps = _steps(response, separator)
        votes = _votes(record, response, len(steps), label)
        if any(votes):
            labels = tuple(sum(said) / len(said) if said else None for said in votes)
            items.append(LabelledSteps(record.id, record.group_id, prompt, tuple(steps), labels))
    return items


def _steps(response: Response, separator: str) -> list[str]:
    if len(response.messages) > 1:
        return [message.content for message in response.messages]
    return split_steps(response.messages[0].content, separator)


def _votes(record: PreferenceRecord, response: Response, n_steps: int, label: str) -> list[list[bool]]:
    votes: list[list[bool]] = [[] for _ in range(n_steps)]
    for judgement in counted_judgements(record):
        for given in judgement.labels:
            if given.response_id != response.id or given.name != label or given.index is None:
                continue
            if given.index >= n_steps:
                raise DataError(
                    f"record {record.id}: step {given.index} has the label {label!r}, but its response has {n_steps} "
                    "steps; give the separator that its steps were counted with"
                )
            if not isinstance(given.value, bool):
                raise DataError(
                    f"record {record.id}: the label {label!r} of step {given.index} is the text {given.value[:40]!r}; "
                    "a process reward needs true or false"
                )
            votes[given.index].append(given.value)
    return votes
