"""Asking a scorer, with its complaints turned into errors a user can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext


def finite_scores(
    context: EvalContext, scorer: str, prompts: Sequence[Sequence[Mapping[str, str]]], responses: Sequence[str]
) -> list[float | None]:
    """Scores by one of the context's scorers; None where it gives no finite number or lacks its reference.

    Raises DataError with the scorer's own words when it refuses its input (too long).
    """
    from reward.rules import NEEDS_REFERENCE, prompt_text

    found: list[float | None] = [None] * len(responses)
    needs = scorer in NEEDS_REFERENCE
    asked = [i for i, prompt in enumerate(prompts) if not needs or prompt_text(prompt) in context.references]
    if not asked:
        return found
    try:
        scores = context.scorers[scorer].score([prompts[i] for i in asked], [responses[i] for i in asked])
    except ValueError as error:
        raise DataError(f"scorer {scorer} cannot score the held-out data: {error}") from error
    for i, score in zip(asked, scores, strict=True):
        found[i] = float(score) if math.isfinite(score) else None
    return found
