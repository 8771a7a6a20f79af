"""From records to the rows an objective reads, with every record that did not make it counted by reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError
from alignment.preferences import sources, steps, unpaired, views
from alignment.runs import DataUse, RunContext

if TYPE_CHECKING:
    from alignment.training.objectives.demonstrations import DemonstrationRow
    from alignment.training.objectives.rankings import RankingRow
    from alignment.training.objectives.steps import StepRow
    from alignment.training.tokens import Encoded, LengthReport, Truncation

NO_SOFT_LABEL = "no judgement compares chosen with rejected: there is no soft label"


def load(context: RunContext, role: str) -> sources.Loaded:
    """The records of one of the stage's data sets. Raises DataError when there are none or the file changed."""
    spec = context.data[role]
    loaded = sources.load(context.data_file(role))
    if loaded.digest != context.data_digests[role]:
        raise DataError(f"{spec.source}: the file changed after this run had started; run the same command again")
    if not loaded.records:
        raise DataError(f"{spec.source}: no records in split {spec.split}; give another split or data set")
    return loaded


def demonstration_rows(
    context: RunContext, role: str, tokenizer: Any, max_length: int, truncation: Truncation = "drop"
) -> tuple[list[DemonstrationRow], DataUse]:
    """Prompt and best response of every record."""
    loaded = load(context, role)
    items, dropped = views.demonstrations(loaded.records, context.data[role].criterion)
    wanted = [(d.record_id, d.prompt, [d.response]) for d in items]
    encoded, report = _encode(tokenizer, wanted, max_length, truncation)
    rows: list[DemonstrationRow] = [
        {"id": d.record_id, "row": encoded[i][0]} for i, d in enumerate(items) if encoded[i]
    ]
    return rows, _use(context, role, loaded, (row["id"] for row in rows), dropped, report)


def ranking_rows(
    context: RunContext,
    role: str,
    tokenizer: Any,
    max_length: int,
    truncation: Truncation = "drop",
    ties: bool = False,
    by_annotators: bool = False,
) -> tuple[list[RankingRow], DataUse]:
    """All judged responses of every record and what was said about them.

    Unless the loss knows `ties`, a record whose responses are all tied teaches nothing: it is dropped and counted.
    A record's weight is 1, or the number of its annotators.
    """
    loaded = load(context, role)
    items, dropped = views.rankings(loaded.records, context.data[role].criterion)
    if not ties:
        decided = [r for r in items if any(any(row) for row in r.wins)]
        dropped[views.ALL_TIED] += len(items) - len(decided)
        items = decided
    judged = [_judged(ranking) for ranking in items]
    wanted = [(r.record_id, r.prompt, [r.responses[k] for k in ks]) for r, ks in zip(items, judged, strict=True)]
    encoded, report = _encode(tokenizer, wanted, max_length, truncation)
    rows = [_ranking_row(r, ks, row) for r, ks, row in zip(items, judged, encoded, strict=True) if row]
    if by_annotators:
        counts = {ranking.record_id: ranking.n_annotators for ranking in items}
        rows = [{**row, "weight": float(counts[row["id"]])} for row in rows]
    return rows, _use(context, role, loaded, (row["id"] for row in rows), dropped, report)


def _ranking_row(ranking: views.Ranking, judged: Sequence[int], encoded: Sequence[Encoded]) -> RankingRow:
    def among(matrix: Sequence[Sequence[Any]]) -> list[list[Any]]:
        return [[matrix[a][b] for b in judged] for a in judged]

    return {
        "id": ranking.record_id,
        "responses": encoded,
        "wins": among(ranking.wins),
        "ties": among(ranking.ties),
        "margins": among(ranking.margins),
        "tiers": [[order[k] for k in judged] for order in ranking.tiers],
        "tier_weights": ranking.tier_weights,
    }


def step_rows(
    context: RunContext,
    role: str,
    tokenizer: Any,
    max_length: int,
    label: str,
    separator: str,
    truncation: Truncation = "drop",
) -> tuple[list[StepRow], DataUse]:
    """Every response with labelled steps, and where its steps end; one that is too long is dropped, or an error.

    Raises DataError, naming the record, as `check_separable` does.
    """
    from alignment.training.steps import encode_steps
    from alignment.training.tokens import LengthReport

    loaded = load(context, role)
    items, dropped = steps.labelled_steps(loaded.records, label, separator)
    steps.check_separable(items, separator)
    rows: list[StepRow] = []
    report = LengthReport(max_length)
    for item in items:
        text = separator.join(item.steps)
        try:
            encoded = encode_steps(tokenizer, item.prompt, text, item.steps)
        except DataError as error:
            raise DataError(f"record {item.record_id}: {error}") from error
        if len(encoded.row) > max_length:
            if truncation == "error":
                raise DataError(
                    f"record {item.record_id}: {len(encoded.row)} tokens, more than max_length {max_length}"
                )
            report.dropped.append(item.record_id)
        else:
            rows.append({"id": item.record_id, "row": encoded.row, "ends": encoded.ends, "labels": item.labels})
    return rows, _use(context, role, loaded, (row["id"] for row in rows), dropped, report)


def pair_rows(
    context: RunContext,
    role: str,
    tokenizer: Any,
    max_length: int,
    mode: str,
    truncation: Truncation = "drop",
    soft_labels: bool = False,
) -> tuple[list[dict[str, Any]], DataUse]:
    """Chosen and rejected of every pair, with its weight and what was said about it.

    A record counts once: a pair weighs 1 / the number of its record's pairs that are used. A loss of `soft_labels`
    learns nothing from a pair that no judgement compares: it is dropped and counted. Reference log-probabilities are
    added by the stage.
    """
    loaded = load(context, role)
    items, dropped = views.pairs(loaded.records, context.data[role].criterion, mode=mode)  # type: ignore[arg-type]
    if soft_labels:
        labelled = [p for p in items if p.soft_label is not None]
        dropped[NO_SOFT_LABEL] += len({p.record_id for p in items} - {p.record_id for p in labelled})
        items = labelled
    wanted = [(p.record_id, p.prompt, [p.chosen, p.rejected]) for p in items]
    encoded, report = _encode(tokenizer, wanted, max_length, truncation)
    used = Counter(p.record_id for p, found in zip(items, encoded, strict=True) if found)
    rows: list[dict[str, Any]] = [
        {
            "id": p.record_id,
            "chosen": found[0],
            "rejected": found[1],
            "weight": 1 / used[p.record_id],
            "soft_label": p.soft_label,
            "margin": p.margin,
        }
        for p, found in zip(items, encoded, strict=True)
        if found
    ]
    return rows, _use(context, role, loaded, (row["id"] for row in rows), dropped, report)


def unpaired_rows(
    context: RunContext,
    role: str,
    tokenizer: Any,
    max_length: int,
    mode: str,
    block: int | None = None,
    truncation: Truncation = "drop",
) -> tuple[list[dict[str, Any]], DataUse]:
    """Every labelled response, in an order drawn from the run's seed that keeps those to the same prompt together.

    With `block`, the rows of a batch, each has its mismatched row too (see `objectives.kto.mismatched`). Reference
    log-probabilities are added by the stage.
    """
    loaded = load(context, role)
    items, dropped = unpaired.labelled_responses(
        loaded.records,
        context.data[role].criterion,
        mode=mode,  # type: ignore[arg-type]
    )
    prompts = sorted({str(item.prompt) for item in items})
    random.Random(context.seed).shuffle(prompts)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    items.sort(key=lambda item: place[str(item.prompt)])
    groups = [list(group) for _, group in groupby(items, key=lambda item: item.record_id)]
    wanted = [(group[0].record_id, group[0].prompt, [item.response for item in group]) for group in groups]
    encoded, report = _encode(tokenizer, wanted, max_length, truncation)
    rows: list[dict[str, Any]] = [
        {"id": item.record_id, "row": row, "label": item.label}
        for group, found in zip(groups, encoded, strict=True)
        for item, row in zip(group, found, strict=bool(found))
    ]
    use = _use(context, role, loaded, (row["id"] for row in rows), dropped, report)
    if block is not None:
        from alignment.training.objectives.kto import mismatched

        kl_rows = mismatched([row["row"] for row in rows], block, max_length)
        cut = sum(kl_row.truncated for kl_row in kl_rows)
        if cut:
            context.say(f"{context.stage}: {cut} mismatched rows of the KL estimate cut at {max_length} tokens")
        rows = [{**row, "kl_row": kl_row} for row, kl_row in zip(rows, kl_rows, strict=True)]
    return rows, use


def _judged(ranking: views.Ranking) -> list[int]:
    """Responses that were compared with another; the rest would only cost time."""
    everyone = range(len(ranking.responses))
    return [i for i in everyone if any(j != i and ranking.compared(i, j) for j in everyone)]


def _encode(
    tokenizer: Any,
    wanted: Sequence[tuple[str, views.Messages, Sequence[views.Messages]]],
    max_length: int,
    truncation: Truncation,
) -> tuple[list[list[Encoded]], LengthReport]:
    """Encodes each item's responses; [] where one is too long (reported)."""
    from alignment.training.tokens import LengthReport, encode_record

    report = LengthReport(max_length)
    rows = [encode_record(tokenizer, *item, report=report, truncation=truncation) or [] for item in wanted]
    return rows, report


def _use(
    context: RunContext,
    role: str,
    loaded: sources.Loaded,
    used_ids: Iterable[str],
    dropped: Mapping[str, int],
    report: LengthReport,
) -> DataUse:
    """What became of the records: those used, used in part, and not used, by reason. Said, and kept in the result."""
    spec, used, too_long = context.data[role], set(used_ids), set(report.dropped)
    counts = {reason: count for reason, count in dropped.items() if count}
    limit = f"max_length tokens ({report.max_length})"
    if too_long - used:
        counts[f"longer than {limit}"] = len(too_long - used)
    if not used:
        reasons = "; ".join(f"{count} {reason}" for reason, count in counts.items())
        raise DataError(f"{spec.source}: none of {len(loaded.records)} records can be used: {reasons}")
    if loaded.refused:
        counts["refused by the importer"] = len(loaded.refused)
    partly = {
        f"without what is longer than {limit}": len(too_long & used),
        f"cut at {limit}": len(set(report.truncated) & used),
    }
    partly = {how: count for how, count in partly.items() if count}
    source = f"{spec.source} ({spec.split})"
    use = DataUse(role, source, context.data_digests[role], len(loaded.records), len(used), counts, partly)
    context.say(
        f"{context.stage}: {len(used)} of {use.n_records} records used ({role})"
        + "".join(f", {count} in part: {how}" for how, count in partly.items())
        + "".join(f", {count} dropped: {reason}" for reason, count in counts.items())
    )
    return use
