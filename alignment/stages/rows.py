"""From records to the rows an objective reads, with every record that did not make it counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError
from alignment.preferences import sources, views
from alignment.runs import DataUse, RunContext

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord
    from alignment.training.objectives.demonstrations import DemonstrationRow
    from alignment.training.objectives.rankings import RankingRow
    from alignment.training.tokens import Encoded

TOO_LONG = "longer than max_length tokens"


def load(context: RunContext, role: str) -> sources.Loaded:
    """The records of one of the stage's data sets. Raises DataError when there are none or the file changed."""
    spec = context.data[role]
    loaded = sources.load(spec)
    if loaded.digest != context.data_digests[role]:
        raise DataError(f"{spec.source}: the file changed after this run had started; run the same command again")
    if not loaded.records:
        raise DataError(f"{spec.source}: no records in split {spec.split}; give another split or data set")
    return loaded


def demonstration_rows(
    context: RunContext, role: str, tokenizer: Any, max_length: int
) -> tuple[list[DemonstrationRow], DataUse]:
    """Prompt and best response of every record."""
    loaded = load(context, role)
    items, dropped = views.demonstrations(loaded.records, context.data[role].criterion)
    rows, dropped = _encode(tokenizer, [(d.record_id, d.prompt, [d.response]) for d in items], max_length, dropped)
    used: list[DemonstrationRow] = [{"id": d.record_id, "row": rows[i][0]} for i, d in enumerate(items) if rows[i]]
    return used, _use(context, role, loaded, len(used), dropped)


def ranking_rows(context: RunContext, role: str, tokenizer: Any, max_length: int) -> tuple[list[RankingRow], DataUse]:
    """All judged responses of every record and how much each beat each; an all-tied record teaches nothing."""
    loaded = load(context, role)
    items, dropped = views.rankings(loaded.records, context.data[role].criterion)
    tied = [r for r in items if not any(any(row) for row in r.wins)]
    dropped[views.ALL_TIED] += len(tied)
    items = [r for r in items if any(any(row) for row in r.wins)]
    judged = [_judged(ranking) for ranking in items]
    wanted = [(r.record_id, r.prompt, [r.responses[k] for k in ks]) for r, ks in zip(items, judged, strict=True)]
    encoded, dropped = _encode(tokenizer, wanted, max_length, dropped)
    rows: list[RankingRow] = [
        {"id": r.record_id, "responses": encoded[i], "wins": [[r.wins[a][b] for b in judged[i]] for a in judged[i]]}
        for i, r in enumerate(items)
        if encoded[i]
    ]
    return rows, _use(context, role, loaded, len(rows), dropped)


def pair_rows(
    context: RunContext, role: str, tokenizer: Any, max_length: int, mode: str
) -> tuple[list[dict[str, Any]], DataUse]:
    """Chosen and rejected of every pair, with its weight; reference log-probabilities are added by the stage."""
    loaded = load(context, role)
    items, dropped = views.pairs(loaded.records, context.data[role].criterion, mode=mode)  # type: ignore[arg-type]
    wanted = [(p.record_id, p.prompt, [p.chosen, p.rejected]) for p in items]
    encoded, dropped = _encode(tokenizer, wanted, max_length, dropped)
    rows = [
        {"id": p.record_id, "chosen": encoded[i][0], "rejected": encoded[i][1], "weight": p.weight}
        for i, p in enumerate(items)
        if encoded[i]
    ]
    return rows, _use(context, role, loaded, len({row["id"] for row in rows}), dropped)


def _judged(ranking: views.Ranking) -> list[int]:
    """Responses that were compared with another; the rest would only cost time."""
    everyone = range(len(ranking.responses))
    return [i for i in everyone if any(j != i and ranking.compared(i, j) for j in everyone)]


def _encode(
    tokenizer: Any,
    wanted: Sequence[tuple[str, views.Messages, Sequence[views.Messages]]],
    max_length: int,
    dropped: Counter[str],
) -> tuple[list[list[Encoded]], Counter[str]]:
    """Encodes each item's responses; [] where one is too long (counted)."""
    from alignment.training.tokens import LengthReport, encode_record

    report = LengthReport(max_length)
    rows = [encode_record(tokenizer, record, prompt, responses, report) or [] for record, prompt, responses in wanted]
    if report.dropped:
        dropped = dropped + Counter({f"{TOO_LONG} ({max_length})": len(set(report.dropped))})
    return rows, dropped


def _use(context: RunContext, role: str, loaded: sources.Loaded, n_used: int, dropped: Mapping[str, int]) -> DataUse:
    counts = {reason: count for reason, count in dropped.items() if count}
    spec = context.data[role]
    if not n_used:
        reasons = "; ".join(f"{count} {reason}" for reason, count in counts.items())
        raise DataError(f"{spec.source}: none of {len(loaded.records)} records can be used: {reasons}")
    if loaded.refused:
        counts["refused by the importer"] = len(loaded.refused)
    use = DataUse(
        role, f"{spec.source} ({spec.split})", context.data_digests[role], len(loaded.records), n_used, counts
    )
    context.say(
        f"{context.stage}: {n_used} of {use.n_records} records used"
        + "".join(f", {count} dropped: {reason}" for reason, count in counts.items())
    )
    return use


REFERENCE = "reference"  # the generator's name of a response that is there to be compared with, not judged


def references(records: Sequence[PreferenceRecord]) -> dict[str, str]:
    """Record id -> the answer to compare with: the one marked as a reference, else the best-ranked one."""
    best = {d.record_id: d.response[-1]["content"] for d in views.demonstrations(records)[0]}
    marked = {
        record.id: response.messages[-1].content
        for record in records
        for response in record.responses
        if response.generator is not None and response.generator.name == REFERENCE
    }
    return best | marked
