"""Responses that are good or bad on their own, as a view of records, for KTO.

A record says so in three ways, the first that applies to a response decides:

1. Explicit labels of the whole response, named `desirable`, `kto_tag` (LLaMA-Factory) or `label` (TRL), true or false:
   what most of its annotators say.
2. The verdict `both_bad`: undesirable, when most of the judgements that place the response say so.
3. Orders: a response is desirable when it wins more votes than it loses against those it was compared with (its score,
   `Ranking.scores`, is above 0), undesirable when it loses more. Of a pair these are the chosen and the rejected one,
   as in TRL's `unpair_preference_dataset`; of a longer ranking those above and below its middle, as the authors of KTO
   divide scored responses at the mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignment.errors import DataError
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.tally import counted_judgements, tally
from alignment.preferences.views import (
    ALL_TIED,
    NOT_JUDGED,
    SPLIT_VOTE,
    Dropped,
    Messages,
    Ranking,
    choose_criterion,
    plain,
    ranking_of,
    unusable,
)

LABELS = ("desirable", "kto_tag", "label")
NO_LABEL = "judged, but nothing says whether a response is desirable"
EVEN_LABELS = "the annotators' labels disagree evenly"

Mode = Literal["all", "best_worst"]


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """A prompt, a response, and whether it is desirable."""

    record_id: str
    group_id: str
    prompt: Messages
    response: Messages
    label: bool


def labelled_responses(
    records: Sequence[PreferenceRecord],
    criterion: str | None = None,
    mode: Mode = "all",
    use_context: bool = False,
) -> tuple[list[LabelledResponse], Dropped]:
    """One item per labelled response, those of a record together, and the records (by reason) that gave none.

    `best_worst` reads from orders only that the highest score is desirable and the lowest undesirable. Explicit labels
    belong to no criterion. Raises DataError for an unclear criterion, and for an explicit label that is a text.
    """
    criterion = choose_criterion(records, criterion)
    items: list[LabelledResponse] = []
    dropped: Dropped = Counter()
    for record in records:
        labels = _labels(record, criterion, mode, use_context)
        if isinstance(labels, str):
            dropped[labels] += 1
            continue
        for response, label in zip(record.responses, labels, strict=True):
            if label is not None:
                context = (response.context or ()) if use_context else ()
                prompt = plain((*context, *record.prompt.messages))
                items.append(LabelledResponse(record.id, record.group_id, prompt, plain(response.messages), label))
    return items, dropped


def _labels(record: PreferenceRecord, criterion: str | None, mode: Mode, use_context: bool) -> list[bool | None] | str:
    """The label of every response, None where nothing is said; or the reason why no response has one."""
    judgements = counted_judgements(record)
    reason = unusable(record, use_context)
    if reason or not judgements:
        return reason or NOT_JUDGED
    ranking = ranking_of(record, criterion, use_context)
    bad = tally(record, judgements, criterion).bad
    ordered = [None] * len(bad) if isinstance(ranking, str) else _from_scores(ranking, mode)
    said = _explicit(record)
    labels: list[bool | None] = []
    for i, response in enumerate(record.responses):
        if response.id in said:
            labels.append(_majority(said[response.id]))
        else:
            labels.append(False if bad[i] > 0.5 else ordered[i])
    if any(label is not None for label in labels):
        return labels
    if said:
        return EVEN_LABELS
    if isinstance(ranking, str):
        return NO_LABEL
    return SPLIT_VOTE if any(any(row) for row in ranking.wins) else ALL_TIED


def _explicit(record: PreferenceRecord) -> dict[str, list[bool]]:
    """Response id -> what its annotators say about the whole of it."""
    votes: dict[str, list[bool]] = {}
    for judgement in counted_judgements(record):
        for label in judgement.labels:
            if label.name not in LABELS or label.index is not None:
                continue
            if not isinstance(label.value, bool):
                raise DataError(
                    f"record {record.id}: the label {label.name!r} is the text {label.value[:40]!r}; give true for a "
                    "desirable response, false for an undesirable one"
                )
            votes.setdefault(label.response_id, []).append(label.value)
    return votes


def _majority(votes: Sequence[bool]) -> bool | None:
    share = sum(votes) / len(votes)
    return None if share == 0.5 else share > 0.5


def _from_scores(ranking: Ranking, mode: Mode) -> list[bool | None]:
    scores = ranking.scores()
    if mode == "best_worst":
        known = [score for score in scores if score is not None]
        scores = [score if score in (max(known), min(known)) else None for score in scores]
    # A mean of the scores is 0, so unless all of them are, the highest is above it and the lowest below.
    return [score > 0 if score else None for score in scores]
