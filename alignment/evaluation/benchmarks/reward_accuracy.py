"""Does the reward model order held-out responses as the annotators did?

Beside its accuracy stand what it must beat (preferring the shorter response), what it cannot be expected to beat (how
often one annotator agrees with the majority of the others), how its scores go with length, and its calibration.
Scorers that no stage was trained on are measured too: it says what their win rates are worth. Not those that compare
with a reference: it is often one of the very responses that are ranked.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.scoring import finite_scores
from alignment.evaluation.metrics.rankings import (
    Ballot,
    agreement_credits,
    confidences,
    decided_pairs,
    pair_credits,
)
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval, paired_difference, share_interval, statistic_interval

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord


LABELS = {
    "accuracy": "pairs ordered as the majority of annotators",
    "prefer_shorter": "baseline: prefer the shorter response",
    "accuracy_difference": "accuracy beyond preferring the shorter response",
    "annotator_agreement": "ceiling: one annotator against the majority of the others",
    "length_correlation": "rank correlation of score with length",
    "calibration_error": "expected calibration error of σ(score difference)",
}


class RewardAccuracy(Benchmark):
    """accuracy over the pairs that a majority decided (equal scores = 1/2), clustered by prompt."""

    name = "reward_accuracy"
    suite = "helpfulness"
    version = 1
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
        return [
            {
                "id": r.record_id,
                "group": r.group_id,
                "scores": [next(scores) for _ in row],
                "lengths": [len(text) for text in row],
                "wins": r.wins,
                "ballots": _ballots(by_id[r.record_id], r.criterion),
            }
            for r, row in zip(found, texts, strict=True)
        ]

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
                "label": LABELS["accuracy"],
                "method": f"{accuracy.method}; {undecided} compared pairs without a majority left out",
            }
            results.append(self.result(context, subject, "accuracy", accuracy, unscored, **more))
            if trained:
                results += self._beside(context, subject, scored, unscored)
        return results

    def _beside(self, context: EvalContext, subject: str, rows: Sequence[Sample], unscored: int) -> list[EvalResult]:
        """What an accuracy is read with; all but the agreement from the same responses as the accuracy."""
        shorter = [pair_credits([-length for length in row["lengths"]], row["wins"]) for row in rows]
        right = [pair_credits(row["scores"], row["wins"]) for row in rows]
        beyond = paired_difference(
            [credit for some in right for credit in some],
            [credit for some in shorter for credit in some],
            _groups(right, rows),
            seed=context.seed,
        )
        agreed = [agreement_credits([_ballot(votes) for votes in row["ballots"]]) for row in rows]
        agreement = _pooled(agreed, rows, context.seed)
        if not agreement.n:
            agreement = Interval(None, None, None, "no pair was judged by two annotators or more", 0)
        result = partial(self.result, context, subject)
        found = [
            result("prefer_shorter", _pooled(shorter, rows, context.seed), unscored, higher_is_better=None),
            result("accuracy_difference", beyond, unscored, higher_is_better=True, compared_to="the shorter response"),
            result("annotator_agreement", agreement, higher_is_better=None),
            result("length_correlation", _correlation(rows, context.seed), higher_is_better=None, unit="correlation"),
            result("calibration_error", _calibration(rows), unscored, higher_is_better=False),
        ]
        return [one.model_copy(update={"label": LABELS[one.metric]}) for one in found]


def _ballots(record: PreferenceRecord, criterion: str | None) -> list[list[list[int]]]:
    """Of every counted judgement its votes [i, j, sign]: responses i < j, 1 when i is above j, -1 below, 0 tied."""
    from alignment.preferences.tally import counted_judgements

    position = {response.id: i for i, response in enumerate(record.responses)}
    ballots = []
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
        ballots.append(votes)
    return ballots


def _ballot(votes: Sequence[Sequence[int]]) -> Ballot:
    return {(i, j): sign for i, j, sign in votes}


def _compared(row: Sample) -> int:
    """Pairs of a record that anybody compared."""
    return len({(i, j) for votes in row["ballots"] for i, j, _ in votes})


def _pooled(credits: Sequence[Sequence[float]], rows: Sequence[Sample], seed: int) -> Interval:
    """Mean over all pairs of all records, with the interval over groups of records."""
    return share_interval([credit for some in credits for credit in some], _groups(credits, rows), seed=seed)


def _groups(credits: Sequence[Sequence[float]], rows: Sequence[Sample]) -> list[Hashable]:
    """The group of every pair's record."""
    return [row["group"] for row, some in zip(rows, credits, strict=True) for _ in some]


def _correlation(rows: Sequence[Sample], seed: int) -> Interval:
    import numpy as np

    from reward.quality import length_correlation

    scores = np.array([score for row in rows for score in row["scores"]])
    lengths = np.array([length for row in rows for length in row["lengths"]])
    clusters = [row["group"] for row in rows for _ in row["scores"]]
    return statistic_interval(
        lambda drawn: length_correlation(scores[drawn], lengths[drawn]),
        len(scores),
        clusters,
        seed=seed,
        name="Spearman's rho",
    )


def _calibration(rows: Sequence[Sample]) -> Interval:
    from reward.quality import expected_calibration_error

    sure = [one for row in rows for one in confidences(row["scores"], row["wins"])]
    error = expected_calibration_error([one.probability for one in sure], [one.right for one in sure])
    # Resampling would only add to the error's upward bias in small samples.
    return Interval(error, None, None, "σ(|difference|) against being right, 10 bins; no interval", len(sure))
