"""Two models' answers to the same prompts, compared by somebody's scores."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.evaluation.statistics import Clusters, Interval, share_interval


def preferences(
    scores: Sequence[float | None],
    baseline_scores: Sequence[float | None],
    same_text: Sequence[bool] | None = None,
) -> list[float | None]:
    """Per prompt 1 (better than the baseline), 1/2 (tie), 0, or None where either answer is unscored.

    `same_text`: identical answers tie whatever the scorer says (a scorer need not be exactly reproducible).
    """
    same = [False] * len(scores) if same_text is None else same_text
    return [_preference(score, other, alike) for score, other, alike in zip(scores, baseline_scores, same, strict=True)]


def _preference(score: float | None, other: float | None, alike: bool) -> float | None:
    if score is None or other is None:
        return None
    return 0.5 if alike or score == other else float(score > other)


def win_rate(values: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """Mean preference in 0..1: wins + 1/2 ties of all prompts (graded preferences are taken as they are)."""
    return share_interval(values, clusters, seed=seed)


def tie_rate(values: Sequence[float], clusters: Clusters = None, *, seed: int) -> Interval:
    """Share of prompts whose preference is exactly 1/2."""
    return share_interval([float(value == 0.5) for value in values], clusters, seed=seed)
