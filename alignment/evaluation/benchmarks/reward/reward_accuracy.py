"""Does the reward model order held-out responses as the annotators did?

Beside its accuracy stand what it must beat (preferring the shorter response), what it cannot be expected to beat (how
often one annotator agrees with the majority of the others), how its scores go with length, its calibration, and the
same for groups of pairs and single annotators. All of it is computed from the stored scores, votes and facts.
Scorers that no stage was trained on are measured too: it says what their win rates are worth. Not those that compare
with a reference: it is often one of the very responses that are ranked.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.benchmarks.reward.reward_details import (
    ACCURACY,
    Finding,
    by_annotator,
    by_group,
    by_length,
    calibration,
    pairs_of,
)
from alignment.evaluation.benchmarks.scoring import finite_scores
from alignment.evaluation.metrics.rankings import (
    Ballot,
    Matrix,
    agreement_credits,
    credit,
    decided_pairs,
    pair_credits,
)
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval, paired_difference, share_interval

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord


@dataclass(frozen=True)
class RewardAccuracy(Benchmark):
    """accuracy over the pairs that a majority decided (equal scores = 1/2), clustered by prompt."""

    name = "reward_accuracy"
    suite = "helpfulness"
    version = 3
    same = ("wins", "lengths", "group")
    needs_model = False

    def subjects(self, context: EvalContext) -> Sequence[str]:
        from reward.rules import NEEDS_REFERENCE

        ranked = any(len(record.responses) > 1 for record in context.held_out())
        return [name for name in context.scorers if ranked and name not in NEEDS_REFERENCE]

    def skipped(self, context: EvalContext) -> str:
        return "it needs a scorer and held-out records with at least two responses"

    def inputs(self, context: EvalContext) -> Any:
        return {"records": context.records_digest(), "criterion": context.criterion}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.preferences.views import rankings

        records = [record for record in context.held_out() if len(record.responses) > 1]
        found, dropped = rankings(records, context.criterion)
        if dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            context.say(f"{self.name}: {sum(dropped.values())} of {len(records)} records give no ranking ({reasons})")
        texts = [["\n".join(m["content"] for m in response) for response in r.responses] for r in found]
        prompts = [[*r.context[i], *r.prompt] for r in found for i in range(len(r.responses))]
        flat = finite_scores(context, subject, prompts, [text for row in texts for text in row])
        scores = iter(flat)
        by_id = {record.id: record for record in records}
        criteria = _criteria([by_id[r.record_id] for r in found])
        ties = getattr(context.scorers[subject], "ties", None)
        return [
            {
                "id": r.record_id,
                "group": r.group_id,
                "scores": [next(scores) for _ in row],
                "lengths": [len(text) for text in row],
                "wins": r.wins,
                "ballots": _ballots(by_id[r.record_id], r.criterion),
                "facts": _facts(by_id[r.record_id]),
                "criteria": criteria.get(r.record_id, {}),
                "ties": ties,
            }
            for r, row in zip(found, texts, strict=True)
        ]

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        """Pairs that a majority decided: 1 ordered right, 1/2 equal scores, 0 wrong; clustered by record group."""
        items: dict[Hashable, ItemValue] = {}
        for row in rows:
            scores = row["scores"]
            for better, worse in decided_pairs(row["wins"]):
                value = None if None in scores else credit(scores[better] - scores[worse])
                items[(row["id"], better, worse)] = ItemValue(value, row["group"])
        return [Measure("accuracy", items)]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        results = []
        for subject, rows in samples.items():
            scored = [row for row in rows if None not in row["scores"]]
            undecided = sum(_compared(row) - len(decided_pairs(row["wins"])) for row in scored)
            unscored = sum(len(decided_pairs(row["wins"])) for row in rows if None in row["scores"])
            accuracy = _pooled([pair_credits(row["scores"], row["wins"]) for row in scored], scored, context.seed)
            trained = subject in context.trained_scorers
            more: dict[str, Any] = {
                "higher_is_better": True,
                "primary": trained,
                "label": ACCURACY,
                "method": f"{accuracy.method}; {undecided} compared pairs without a majority left out",
            }
            results.append(self.result(context, subject, "accuracy", accuracy, unscored, **more))
            if trained:
                results += self._beside(context, subject, rows)
        return results

    def _beside(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> list[EvalResult]:
        """What an accuracy is read with, from the same records."""
        pairs, seed = pairs_of(rows), context.seed
        findings = [
            *_baseline_and_ceiling(rows, seed),
            *by_length(rows, pairs, seed),
            *calibration(pairs, seed),
            *by_group(pairs, rows, seed),
            *by_annotator(pairs, seed),
        ]
        return [
            self.result(
                context, subject, one.metric, one.interval, one.n_unscored, group=one.group, label=one.label, **one.more
            )
            for one in findings
        ]


def _baseline_and_ceiling(rows: Sequence[Sample], seed: int) -> list[Finding]:
    """Preferring the shorter response, what the model has beyond it, and an annotator against the others."""
    scored = [row for row in rows if None not in row["scores"]]
    unscored = sum(len(decided_pairs(row["wins"])) for row in rows if None in row["scores"])
    shorter = [pair_credits([-length for length in row["lengths"]], row["wins"]) for row in scored]
    right = [pair_credits(row["scores"], row["wins"]) for row in scored]
    beyond = paired_difference(
        [credit for some in right for credit in some],
        [credit for some in shorter for credit in some],
        _groups(right, scored),
        seed=seed,
    )
    baseline = _pooled(shorter, scored, seed)
    agreed = [agreement_credits([_ballot(votes) for votes in row["ballots"].values()]) for row in scored]
    agreement = _pooled(agreed, scored, seed)
    if not agreement.n:
        agreement = Interval(None, None, None, "no pair was judged by two annotators or more", 0)
    against = {"higher_is_better": True, "compared_to": "the shorter response"}
    return [
        Finding("prefer_shorter", "baseline: prefer the shorter response", baseline, unscored),
        Finding(
            "accuracy_difference", "accuracy beyond preferring the shorter response", beyond, unscored, more=against
        ),
        Finding("annotator_agreement", "ceiling: one annotator against the majority of the others", agreement),
    ]


def _facts(record: PreferenceRecord) -> dict[str, str | None]:
    """What the record says of itself, by dimension; None where it says nothing."""
    source, flags = record.source, record.flags
    harm = None if flags is None or flags.harm is None else "found" if flags.harm else "none found"
    return {
        "dataset": source.dataset if source else None,
        "harm": harm,
        "language": flags.language if flags else None,
    }


def _criteria(records: Sequence[PreferenceRecord]) -> dict[str, dict[str, Matrix]]:
    """Record id -> criterion -> wins (K, K), for every criterion; nothing when there is only one."""
    from alignment.preferences.tally import counted_judgements
    from alignment.preferences.views import rankings

    names = sorted({order.criterion for r in records for j in counted_judgements(r) for order in j.orders})
    found: dict[str, dict[str, Matrix]] = {}
    for name in names if len(names) > 1 else ():
        for ranking in rankings(records, name)[0]:
            found.setdefault(ranking.record_id, {})[name] = ranking.wins
    return found


def _ballots(record: PreferenceRecord, criterion: str | None) -> dict[str, list[list[int]]]:
    """Annotator -> votes [i, j, sign]: responses i < j, 1 when i is above j, -1 below, 0 tied."""
    from alignment.preferences.tally import counted_judgements

    position = {response.id: i for i, response in enumerate(record.responses)}
    ballots = {}
    for judgement in counted_judgements(record):
        votes = []
        for order in judgement.orders:
            levels = {position[one]: level for one, level in order.levels().items()}
            if criterion in (None, order.criterion):
                everyone = sorted(levels)
                votes += [
                    [i, j, (levels[j] > levels[i]) - (levels[j] < levels[i])]
                    for i in everyone
                    for j in everyone
                    if i < j
                ]
        ballots[judgement.annotator.id] = votes
    return ballots


def _ballot(votes: Sequence[Sequence[int]]) -> Ballot:
    return {(i, j): sign for i, j, sign in votes}


def _compared(row: Sample) -> int:
    """Pairs of a record that anybody compared."""
    return len({(i, j) for votes in row["ballots"].values() for i, j, _ in votes})


def _pooled(credits: Sequence[Sequence[float]], rows: Sequence[Sample], seed: int) -> Interval:
    """Mean over all pairs of all records, with the interval over groups of records."""
    return share_interval([credit for some in credits for credit in some], _groups(credits, rows), seed=seed)


def _groups(credits: Sequence[Sequence[float]], rows: Sequence[Sample]) -> list[Hashable]:
    """The group of every pair's record."""
    return [row["group"] for row, some in zip(rows, credits, strict=True) for _ in some]
