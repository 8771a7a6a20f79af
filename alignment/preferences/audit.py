"""What is in a set of records: counts, ties, lengths, and what would leak from one split into another."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from alignment.preferences.identity import dedup_key
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.tally import counted_judgements
from alignment.preferences.views import pairs

EXAMPLES = 5  # how many leaking prompts are named


def stats(records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Everything as plain JSON values; a number that is undefined (no data) is None, never 0."""
    counted = [judgement for record in records for judgement in counted_judgements(record)]
    orders = [order for judgement in counted for order in judgement.orders]
    return {
        "records": len(records),
        "groups": len({record.group_id for record in records}),
        "responses_per_record": _counts(len(record.responses) for record in records),
        "responses_with_several_messages": sum(len(r.messages) > 1 for rec in records for r in rec.responses),
        "judgements": sum(len(record.judgements) for record in records),
        "judgements_counted": len(counted),
        "judgement_status": _counts(j.status for record in records for j in record.judgements),
        "annotators": _counts(f"{j.annotator.id} ({j.annotator.kind})" for j in counted),
        "criteria": _counts(order.criterion for order in orders),
        "ties": _ties(records),
        "both_bad": sum(order.verdict == "both_bad" for order in orders),
        "unjudgeable": sum(order.verdict == "unjudgeable" for order in orders),
        "splits": _counts(record.split or "unassigned" for record in records),
        "lengths": _lengths(records),
        "duplicates": _duplicates(records),
        "languages": _counts(r.flags.language for r in records if r.flags and r.flags.language),
        "flags": {
            "pii": sum(record.flags is not None and record.flags.pii is True for record in records),
            "harm": _counts(harm for r in records if r.flags and r.flags.harm for harm in r.flags.harm),
        },
        "licenses": _counts(r.source.license for r in records if r.source and r.source.license),
    }


def _counts(values: Any) -> dict[str, int]:
    """Value -> count, most frequent first."""
    return {str(value): count for value, count in Counter(values).most_common()}


def _ties(records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Of all comparisons of two responses by one annotator, how many were ties."""
    compared = tied = 0
    for record in records:
        for judgement in counted_judgements(record):
            for order in judgement.orders:
                for first, second in combinations(order.levels().values(), 2):
                    compared += 1
                    tied += first == second
    return {"compared": compared, "tied": tied, "rate": tied / compared if compared else None}


def _lengths(records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Criterion -> lengths in characters over all of its pairs."""
    several = [record for record in records if len(record.responses) > 1]
    criteria = {order.criterion for r in several for j in counted_judgements(r) for order in j.orders}
    return {criterion: _pair_lengths(several, criterion) for criterion in sorted(criteria)}


def _pair_lengths(records: Sequence[PreferenceRecord], criterion: str) -> dict[str, Any]:
    """`chosen_longer`: share of the pairs, equal lengths as half."""
    items, dropped = pairs(records, criterion)
    chosen = [sum(len(message["content"]) for message in pair.chosen) for pair in items]
    rejected = [sum(len(message["content"]) for message in pair.rejected) for pair in items]
    longer = [(c > r) + (c == r) / 2 for c, r in zip(chosen, rejected, strict=True)]
    return {
        "pairs": len(items),
        "chosen": _summary(chosen),
        "rejected": _summary(rejected),
        "chosen_longer": statistics.fmean(longer) if longer else None,
        "records_without_a_pair": dict(dropped),
    }


def _summary(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def _duplicates(records: Sequence[PreferenceRecord]) -> dict[str, Any]:
    """Prompts that are the same but for case, punctuation and space, and those of them that are in two splits.

    `across_splits` is leakage: the model is tested on what it was trained on.
    """
    by_key: dict[str, list[PreferenceRecord]] = {}
    for record in records:
        by_key.setdefault(dedup_key(record.prompt.text()), []).append(record)
    alike = [same for same in by_key.values() if len({record.group_id for record in same}) > 1]
    leaks = [same for same in by_key.values() if len({record.split for record in same} - {None}) > 1]
    return {
        "prompts_asked_more_than_once": sum(len(same) > 1 for same in by_key.values()),
        "near_duplicate_prompts": len(alike),
        "across_splits": len(leaks),
        "across_splits_records": [[record.id for record in same] for same in leaks[:EXAMPLES]],
    }
