"""Asking a scorer, with its complaints turned into errors a user can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext


def finite_scores(
    context: EvalContext, scorer: str, prompts: Sequence[Sequence[Mapping[str, str]]], responses: Sequence[str]
) -> list[float | None]:
    """Scores by one of the context's scorers; None where it gives no finite number.

    Raises DataError with the scorer's own words when it refuses its input (no reference answer, too long).
    """
    if not responses:
        return []
    try:
        scores = context.scorers[scorer].score(prompts, responses)
    except ValueError as error:
        raise DataError(f"scorer {scorer} cannot score the held-out data: {error}") from error
    return [float(score) if math.isfinite(score) else None for score in scores]
