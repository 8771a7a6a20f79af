"""What a reward model's accuracy is to be read with: length, calibration, groups of pairs, single annotators.

Every function takes stored samples (or the judged pairs in them) and returns findings; nothing here asks a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignment.evaluation.benchmarks.benchmark import Sample
from alignment.evaluation.metrics.judged import JudgedPair, grouped_pairs, judged_pairs
from alignment.evaluation.metrics.rankings import credit, decided_pairs, pair_credits
from alignment.evaluation.statistics import Interval, paired_difference, share_interval, statistic_interval

ACCURACY = "pairs ordered as the majority of annotators"  # a reader's name of the accuracy, and of its groups
BINS = 10  # over 0..1; the confidence in an order is at least 1/2, so five of them are used
FEWEST_VOTES = 20  # decided votes of an annotator who is shown by name
MOST_ANNOTATORS = 20  # shown by name, those with the most votes


@dataclass(frozen=True)
class Finding:
    """A number without the names of model and benchmark; `more`: further fields of its EvalResult."""

    metric: str
    label: str
    interval: Interval
    n_unscored: int = 0
    group: str | None = None
    more: dict[str, Any] = field(default_factory=lambda: {"higher_is_better": None})


def pairs_of(rows: Iterable[Sample]) -> list[JudgedPair]:
    """Every compared pair of the samples, without scores where its record could not be scored."""
    return [
        pair
        for row in rows
        for pair in judged_pairs(
            row["scores"], row["lengths"], row["ballots"], row["group"], row["facts"], tuple(row["ties"] or ()) or None
        )
    ]


def by_length(rows: Sequence[Sample], pairs: Sequence[JudgedPair], seed: int) -> list[Finding]:
    """Score and length over all responses and within prompts; how often model and annotators prefer the longer."""
    from reward.quality import longer_preferred

    scored = [row for row in rows if None not in row["scores"]]
    missing = sum(len(row["scores"]) for row in rows) - sum(len(row["scores"]) for row in scored)
    unequal = [pair for pair in pairs if pair.majority and pair.longer]
    used = [pair for pair in unequal if pair.difference is not None]
    differences = [pair.lengths[0] - pair.lengths[1] for pair in used]
    model, people = (
        [share for share in longer_preferred(preferences, differences) if share is not None]
        for preferences in ([pair.scored for pair in used], [pair.majority for pair in used])
    )
    groups, left = [pair.group for pair in used], len(unequal) - len(used)
    against = {"higher_is_better": None, "compared_to": "the annotators"}
    correlation = {"higher_is_better": None, "unit": "correlation"}
    overall, within = _correlations(scored, seed)
    shares = [share_interval(share, groups, seed=seed) for share in (model, people)]
    beyond = paired_difference(model, people, groups, seed=seed)
    rank, longer = "rank correlation of score with length", "prefer the longer response"
    return [
        Finding("length_correlation", rank, overall, missing, more=correlation),
        Finding("length_correlation_within", f"{rank} within prompts", within, missing, more=correlation),
        Finding("longer_preferred", f"the scores {longer}", shares[0], left),
        Finding("longer_preferred_annotators", f"the annotators {longer}", shares[1], left),
        Finding("longer_preferred_difference", "preference for length beyond theirs", beyond, left, more=against),
    ]


def _correlations(rows: Sequence[Sample], seed: int) -> tuple[Interval, Interval]:
    """Over all responses, and of their deviations from the means of their prompts."""
    import numpy as np

    from reward.quality import length_correlation, within_prompts

    scores = np.array([score for row in rows for score in row["scores"]], float)
    lengths = np.array([length for row in rows for length in row["lengths"]], float)
    prompts = [index for index, row in enumerate(rows) for _ in row["scores"]]
    groups = [row["group"] for row in rows for _ in row["scores"]]

    def interval(x: Any, y: Any) -> Interval:
        return statistic_interval(
            lambda drawn: length_correlation(x[drawn], y[drawn]), len(x), groups, seed=seed, name="Spearman's rho"
        )

    return interval(scores, lengths), interval(within_prompts(scores, prompts), within_prompts(lengths, prompts))


def calibration(pairs: Sequence[JudgedPair], seed: int) -> list[Finding]:
    """The calibration error, and the points of its reliability diagram: confidence against the share of votes.

    The share of votes, not the majority: a Bradley-Terry probability says what the next annotator will say, and pairs
    that divide annotators are to be predicted too. With one annotator per pair and no ties the two are the same. A
    model that was trained with a probability of ties states its own, a tie counting 1/2 as in the votes.
    """
    from reward.quality import reliability

    scored = [pair for pair in pairs if pair.difference is not None]
    sure, supported = [pair.confidence for pair in scored], [pair.supported for pair in scored]
    stated_as = next(
        (f"P(above) + P(tie)/2 of {pair.ties[0]}" for pair in scored if pair.ties), "σ(|score difference|)"
    )
    groups, left = [pair.group for pair in scored], len(pairs) - len(scored)
    error = _calibration_error(sure, supported, groups, seed, stated_as)
    lower = {"higher_is_better": False}
    found = [Finding("calibration_error", f"expected calibration error of {stated_as}", error, left, more=lower)]
    for one in reliability(sure, supported, BINS):
        name = f"{100 * one.low:.0f}% to {100 * one.high:.0f}%"
        members = list(one.members)
        observed = share_interval([supported[i] for i in members], [groups[i] for i in members], seed=seed)
        stated = Interval(one.probability, None, None, f"mean of {stated_as} of the bin's pairs", len(members))
        found.append(Finding("stated_confidence", "confidence in the order given", stated, group=name))
        found.append(Finding("reliability", "votes for the order given", observed, group=name))
    return found


def _calibration_error(
    sure: Sequence[float], supported: Sequence[float], groups: Sequence[Hashable], seed: int, stated_as: str
) -> Interval:
    """The error between two bounds that its upward bias in small samples cannot push above the truth, or below it.

    ECE is the L1 norm of the bins' gaps g, so |‖g‖ - ‖γ‖| ≤ ‖g - γ‖ for the true gaps γ. The bootstrap gives the
    97.5th percentile of ‖g* - g‖; the error less that is the lower bound, 0 for a model that chance alone explains. The
    upper one is the percentile of ‖g*‖: too high rather than too low. The percentile interval would not do: of a
    perfectly calibrated model it never holds 0.
    """
    import numpy as np

    from reward.quality import calibration_gaps, expected_calibration_error

    p, y = np.asarray(sure, float), np.asarray(supported, float)
    gaps = calibration_gaps(p, y, BINS)
    what = f"{stated_as} against the share of votes, {BINS} equal bins"

    def distance(drawn: Any) -> float | None:
        moved = calibration_gaps(p[drawn], y[drawn], BINS)
        return None if moved is None or gaps is None else float(np.abs(moved - gaps).sum())

    error = statistic_interval(
        lambda drawn: expected_calibration_error(p[drawn], y[drawn], BINS), len(p), groups, seed=seed, name=what
    )
    moved = statistic_interval(distance, len(p), groups, seed=seed, name=what)
    if error.value is None or error.high is None:
        return error
    if moved.high is None:
        return replace(error, low=None, high=None, method=moved.method)
    return Interval(
        error.value,
        max(0.0, error.value - moved.high),
        max(error.value, error.high),
        f"{error.method}; lower bound by the resampled distance of the bins, so that it can be 0",
        error.n,
    )


def by_group(pairs: Sequence[JudgedPair], rows: Sequence[Sample], seed: int) -> list[Finding]:
    """Accuracy over groups of the decided pairs, and by every criterion of the same records if there are several."""
    more, found = {"higher_is_better": True}, []
    for (dimension, value), members in grouped_pairs([pair for pair in pairs if pair.majority]).items():
        right, left = _agreement(members, [pair.majority for pair in members], seed)
        found.append(Finding("accuracy", ACCURACY, right, left, f"{dimension}: {value}", more))
    for criterion in dict.fromkeys(name for row in rows for name in row["criteria"]):
        judged = [(row, row["criteria"][criterion]) for row in rows if criterion in row["criteria"]]
        credits = [
            (one, row["group"])
            for row, wins in judged
            if None not in row["scores"]
            for one in pair_credits(row["scores"], wins)
        ]
        right = share_interval([one for one, _ in credits], [group for _, group in credits], seed=seed)
        left = sum(len(decided_pairs(wins)) for _, wins in judged) - len(credits)
        found.append(Finding("accuracy", ACCURACY, right, left, f"criterion: {criterion}", more))
    return found


def by_annotator(pairs: Sequence[JudgedPair], seed: int) -> list[Finding]:
    """The model on each annotator's decided votes; and where others judged the pair too, beside their majority.

    That last number is the ceiling: what people reach who judge the same pairs. It is to be read with the model's on
    those same pairs, `annotator_accuracy_shared`. Others who are divided count 1/2, as equal scores do. Nothing where
    one annotator judged all pairs: the accuracy says it already.
    """
    cast = Counter(name for pair in pairs for name, vote in pair.votes.items() if vote)
    shown = [name for name, n in cast.most_common(MOST_ANNOTATORS) if n >= FEWEST_VOTES]
    found = []
    for name in shown if len(cast) > 1 else ():
        own = [pair for pair in pairs if pair.votes.get(name)]
        model, left = _agreement(own, [pair.votes[name] for pair in own], seed)
        found.append(Finding("annotator_accuracy", "the model on one annotator's votes", model, left, name))
        found += _where_shared([pair for pair in own if len(pair.votes) > 1], name, seed)
    return found


def _where_shared(pairs: Sequence[JudgedPair], name: str, seed: int) -> list[Finding]:
    """The model and the other annotators on the votes of `name`, on pairs that all have others' votes too."""
    model, left = _agreement(pairs, [pair.votes[name] for pair in pairs], seed)
    scored = [pair for pair in pairs if pair.difference is not None]
    others = share_interval(
        [credit((sum(pair.votes.values()) - pair.votes[name]) * pair.votes[name]) for pair in scored],
        [pair.group for pair in scored],
        seed=seed,
    )
    if not pairs:
        model = others = Interval(None, None, None, "nobody else judged these pairs", 0)
    shared = "one annotator's votes on pairs that others judged too"
    return [
        Finding("annotator_accuracy_shared", f"the model on {shared}", model, left, name),
        Finding("annotator_ceiling", f"the other annotators on {shared}", others, left, name),
    ]


def _agreement(pairs: Sequence[JudgedPair], signs: Sequence[int], seed: int) -> tuple[Interval, int]:
    """How often the scores order the pairs as `signs` say, clustered by prompt, and how many pairs have no scores."""
    scored = [(pair, sign) for pair, sign in zip(pairs, signs, strict=True) if pair.difference is not None]
    credits, groups = [pair.agrees(sign) for pair, sign in scored], [pair.group for pair, _ in scored]
    return share_interval(credits, groups, seed=seed), len(pairs) - len(scored)
