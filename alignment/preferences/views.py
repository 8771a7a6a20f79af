"""What stages train on: rankings, pairs and demonstrations, derived from records without changing them.

Every view returns `(items, dropped)`; `dropped` counts the records (by reason) that gave no item, so that a stage
can report them. Views look at one criterion at a time: `criterion=None` means the only one there is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignment.errors import DataError
from alignment.preferences.record import Message, PreferenceRecord
from alignment.preferences.tally import Matrix, OptionalMatrix, counted_judgements, tally

Messages = list[dict[str, str]]  # [{"role": "user", "content": "..."}, ...]
Dropped = Counter[str]  # reason -> number of records

TOOLS = "the prompt has tools, which training does not render"
FOREIGN_TURNS = "a response holds turns that the assistant did not write"
TWO_SYSTEMS = "the context and the prompt both have a system message"
NOT_JUDGED = "no submitted judgement"
OTHER_CRITERION = "no order for the criterion"
UNJUDGEABLE = "judged, but no two responses were compared"
ALL_TIED = "all responses tied"
SPLIT_VOTE = "no net preference: the annotators disagree evenly"
CONTRADICTION = "the worst response on average beats the best one"
OTHER_CONTEXT = "chosen and rejected were made in different contexts"
ALL_BAD = "the best response was judged bad"
NO_RESPONSE = "no response"


@dataclass(frozen=True, slots=True)
class Ranking:
    """All responses of one record under one criterion, with the votes for every pair.

    K responses; `wins`, `ties`, `margins` are (K, K), `tiers` (J, K), see `tally.Tally`. `context[i]` is to be put in
    front of `prompt` for response i; it is empty unless the view was asked to use contexts.
    """

    record_id: str
    group_id: str
    criterion: str | None
    prompt: Messages
    responses: tuple[Messages, ...]
    response_ids: tuple[str, ...]
    wins: Matrix
    ties: Matrix
    margins: OptionalMatrix
    bad: tuple[float, ...]
    n_annotators: int
    tiers: tuple[tuple[int, ...], ...]
    tier_weights: tuple[float, ...]
    context: tuple[Messages, ...]

    def net(self, i: int, j: int) -> float:
        """Vote margin of response i over j, in [-1, 1]."""
        return self.wins[i][j] - self.wins[j][i]

    def compared(self, i: int, j: int) -> bool:
        """Whether any judgement compares i and j."""
        return self.wins[i][j] + self.wins[j][i] + self.ties[i][j] > 0

    def scores(self) -> list[float | None]:
        """Mean vote margin of each response over those it was compared with (a Copeland score of shares)."""
        scores: list[float | None] = []
        for i in range(len(self.responses)):
            margins = [self.net(i, j) for j in range(len(self.responses)) if j != i and self.compared(i, j)]
            # Rounded, so that 1/3 + 2/3 and 1/2 + 1/2 tie as they should.
            scores.append(round(math.fsum(margins) / len(margins), 12) if margins else None)
        return scores


@dataclass(frozen=True, slots=True)
class Pair:
    """`chosen` over `rejected` by net preference.

    `weight`: 1 / number of pairs of the record, so that a record counts once however many responses it has.
    `margin`: mean stated strength, signed (None = nobody stated one). `soft_label`: share of the judgements
    comparing the two that prefer `chosen`, ties counting half, in [0.5, 1]; None where no judgement compares
    them (`best_worst` may rank them through others). `n_annotators` is the record's.
    """

    record_id: str
    group_id: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    weight: float
    margin: float | None
    n_annotators: int
    soft_label: float | None


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the response to imitate."""

    record_id: str
    group_id: str
    prompt: Messages
    response: Messages


def rankings(
    records: Sequence[PreferenceRecord], criterion: str | None = None, use_context: bool = False
) -> tuple[list[Ranking], Dropped]:
    """One ranking per record. DataError for a record with fewer than two responses and for an unclear criterion."""
    for record in records:
        if len(record.responses) < 2:
            raise DataError(
                f"record {record.id}{_row(record)} has {len(record.responses)} response(s), a ranking needs two; "
                "use this data for sft or remove the record"
            )
    criterion = choose_criterion(records, criterion)
    items: list[Ranking] = []
    dropped: Dropped = Counter()
    for record in records:
        found = ranking_of(record, criterion, use_context)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            items.append(found)
    return items, dropped


def choose_criterion(records: Sequence[PreferenceRecord], criterion: str | None) -> str | None:
    """The criterion to look at; None when no judgement orders anything. DataError, naming them, when unclear."""
    present = sorted({o.criterion for r in records for j in counted_judgements(r) for o in j.orders})
    names = ", ".join(present)
    if criterion is None and len(present) > 1:
        raise DataError(f"the judgements use several criteria ({names}); choose one with criterion: NAME")
    if criterion is not None and present and criterion not in present:
        raise DataError(f"no judgement uses the criterion {criterion!r}; there are: {names}")
    return criterion if criterion is not None else next(iter(present), None)


def _row(record: PreferenceRecord) -> str:
    source = record.source
    if source is None or source.row is None:
        return ""
    return f" ({source.dataset or 'source'} row {source.row})"


def unusable(record: PreferenceRecord, use_context: bool) -> str | None:
    """Why no model can be trained on this record as it is, or None."""
    if record.prompt.tools:
        return TOOLS
    if any(message.role != "assistant" for response in record.responses for message in response.messages):
        return FOREIGN_TURNS
    if use_context and record.prompt.messages[0].role == "system":
        contexts = (message for response in record.responses for message in response.context or ())
        if any(message.role == "system" for message in contexts):
            return TWO_SYSTEMS
    return None


def ranking_of(record: PreferenceRecord, criterion: str | None, use_context: bool) -> Ranking | str:
    """The ranking of a record, or the reason why there is none."""
    judgements = counted_judgements(record)
    reason = unusable(record, use_context)
    if reason or not judgements:
        return reason or NOT_JUDGED
    if not any(criterion in (None, order.criterion) for j in judgements for order in j.orders):
        return OTHER_CRITERION
    votes = tally(record, judgements, criterion)
    if not votes.n_annotators:
        return UNJUDGEABLE
    return Ranking(
        record_id=record.id,
        group_id=record.group_id,
        criterion=criterion,
        prompt=plain(record.prompt.messages),
        responses=tuple(plain(response.messages) for response in record.responses),
        response_ids=tuple(response.id for response in record.responses),
        wins=votes.wins,
        ties=votes.ties,
        margins=votes.margins,
        bad=votes.bad,
        n_annotators=votes.n_annotators,
        tiers=votes.tiers,
        tier_weights=votes.tier_weights,
        context=tuple(plain(r.context or ()) if use_context else [] for r in record.responses),
    )


def plain(messages: Sequence[Message]) -> Messages:
    """Messages as the dicts that chat templates take."""
    return [{"role": message.role, "content": message.content} for message in messages]


def pairs(
    records: Sequence[PreferenceRecord],
    criterion: str | None = None,
    mode: Literal["all", "best_worst"] = "all",
    use_context: bool = False,
) -> tuple[list[Pair], Dropped]:
    """Pairs of every record by net preference (wins[i][j] > wins[j][i]).

    `all`: every such pair. `best_worst`: one per record, the highest mean vote margin against the lowest; a tie
    at either end goes to the pair with the larger direct margin, then to the order of the responses. With
    `use_context`, only responses made in the same context are paired: a pair has one prompt.
    """
    ranked, dropped = rankings(records, criterion, use_context)
    choose = {"all": _all_pairs, "best_worst": _best_worst}[mode]
    items: list[Pair] = []
    for ranking in ranked:
        found = choose(ranking)
        if isinstance(found, str):
            dropped[found] += 1
            continue
        same = [(i, j) for i, j in found if ranking.context[i] == ranking.context[j]]
        if not same:
            dropped[OTHER_CONTEXT] += 1
        items += [_pair(ranking, i, j, 1 / len(same)) for i, j in same]
    return items, dropped


def _all_pairs(ranking: Ranking) -> list[tuple[int, int]] | str:
    everyone = range(len(ranking.responses))
    found = [(i, j) for i in everyone for j in everyone if ranking.net(i, j) > 0]
    return found or _no_pair(ranking)


def _no_pair(ranking: Ranking) -> str:
    return SPLIT_VOTE if any(any(row) for row in ranking.wins) else ALL_TIED


def _best_worst(ranking: Ranking) -> list[tuple[int, int]] | str:
    scored = {i: score for i, score in enumerate(ranking.scores()) if score is not None}
    best, worst = max(scored.values()), min(scored.values())
    if best == worst:
        return _no_pair(ranking)
    ends = [(i, j) for i in scored if scored[i] == best for j in scored if scored[j] == worst]
    chosen, rejected = max(ends, key=lambda end: ranking.net(*end))  # max keeps the first of equals
    return [(chosen, rejected)] if ranking.net(chosen, rejected) >= 0 else CONTRADICTION


def _pair(ranking: Ranking, chosen: int, rejected: int, weight: float) -> Pair:
    votes = ranking.wins[chosen][rejected] + ranking.ties[chosen][rejected] / 2
    return Pair(
        record_id=ranking.record_id,
        group_id=ranking.group_id,
        prompt=ranking.context[chosen] + ranking.prompt,
        chosen=ranking.responses[chosen],
        rejected=ranking.responses[rejected],
        weight=weight,
        margin=ranking.margins[chosen][rejected],
        n_annotators=ranking.n_annotators,
        soft_label=votes if ranking.compared(chosen, rejected) else None,
    )


def demonstrations(
    records: Sequence[PreferenceRecord], criterion: str | None = None, use_context: bool = False
) -> tuple[list[Demonstration], Dropped]:
    """The best response of every record: its only one, or the one with the highest mean vote margin.

    A tie at the top goes to the first response. A best response that most judgements call bad is not imitated.
    """
    criterion = choose_criterion([record for record in records if len(record.responses) > 1], criterion)
    items: list[Demonstration] = []
    dropped: Dropped = Counter()
    for record in records:
        best = _best(record, criterion, use_context)
        if isinstance(best, str):
            dropped[best] += 1
            continue
        response = record.responses[best]
        prompt = plain((*((response.context or ()) if use_context else ()), *record.prompt.messages))
        items.append(Demonstration(record.id, record.group_id, prompt, plain(response.messages)))
    return items, dropped


def _best(record: PreferenceRecord, criterion: str | None, use_context: bool) -> int | str:
    if len(record.responses) < 2:
        return unusable(record, use_context) or (0 if record.responses else NO_RESPONSE)
    ranking = ranking_of(record, criterion, use_context)
    if isinstance(ranking, str):
        return ranking
    scored = {i: score for i, score in enumerate(ranking.scores()) if score is not None}
    best = max(scored, key=lambda i: scored[i])  # max keeps the first of equals
    return ALL_BAD if ranking.bad[best] > 0.5 else best
