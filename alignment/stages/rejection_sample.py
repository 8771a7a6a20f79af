"""Rejection sampling: of n answers to each prompt those that a scorer finds good enough, to be imitated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from alignment.errors import DataError
from alignment.preferences.record import PreferenceRecord, record_id
from alignment.runs import RunContext, StageResult
from alignment.scorer_names import OVERALL
from alignment.stages.scored_sampling import Scored, ScoredSamplingSettings, gain_lines, gains, sample_and_score

NONE_KEPT = "no answer kept"


class RejectionSampleSettings(ScoredSamplingSettings):
    """`min_score`: keep what scores at least this. `top_share`: keep this share of all different answers, by score.

    Each kept answer is a record of its own, with its score as a rating. `top_share` looks at the answers to all prompts
    together, so a hard prompt may keep none; answers that score the same as the last one kept stay too. Empty answers
    are nothing to imitate, whatever they score.
    """

    min_score: float | None = Field(None, allow_inf_nan=False)
    top_share: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def one_threshold(self) -> RejectionSampleSettings:
        if (self.min_score is None) == (self.top_share is None):
            raise ValueError("give min_score or top_share, one of the two")
        return self


def check(stage: str, settings: RejectionSampleSettings) -> None:
    """Nothing that only heavy libraries can tell."""


def run(context: RunContext, settings: RejectionSampleSettings) -> StageResult:
    scored = sample_and_score(context, settings)
    found = gains(scored, settings.n)
    for line in gain_lines(found, settings.n):
        context.say(f"{context.stage}: {line}")
    every = [value for _, scores in filter(None, scored.said()) for value in scores[OVERALL]]
    least = settings.min_score if settings.min_score is not None else threshold(every, settings.top_share or 1.0)
    kept = _kept(scored, least)
    made = [record for records in kept for record in records]
    if not made:
        raise DataError(
            f"{context.stage}: none of {len(every)} answers scores {least:g} or more, the best one {max(every):.4g}; "
            "lower min_score or raise n"
        )
    scores = [record.judgements[0].ratings[0].value for record in made]
    use = scored.use(sum(map(bool, kept)), NONE_KEPT)
    context.say(
        f"{context.stage}: {len(made)} of {len(every)} different answers kept, which score {least:.4g} or more; "
        f"{use.dropped.get(NONE_KEPT, 0)} of {len(scored.sampled.answers)} prompts keep none"
    )
    return StageResult(
        metrics=scored.sampled.metrics()
        | found
        | {"kept": float(len(made)), "kept_score": sum(scores) / len(scores), "threshold": least},
        notes=scored.notes(),
        data=(use,),
        records=context.write_records(made),
    )


def threshold(scores: Sequence[float], share: float) -> float:
    """The score of the last answer among the best `share` of them, at least one."""
    kept = max(1, math.floor(share * len(scores) + 1e-9))  # 0.3 * 10 is a little less than 3
    return sorted(scores, reverse=True)[kept - 1]


def _kept(scored: Scored, least: float) -> list[list[PreferenceRecord]]:
    """For each prompt that was answered the records of the answers that stay."""
    import numpy as np

    from alignment.preferences.scored import by_scores

    with np.errstate(over="ignore"):
        least = float(np.float32(least))  # as scores are: one of 0.7 is 0.699999988, and stays
    found = []
    for record, scores in filter(None, scored.said()):
        kept = []
        for place, response in enumerate(record.responses):
            if scores[OVERALL][place] >= least:
                update = {"responses": (response,), "id": record_id(record.prompt, (response,))}
                own = {name: [values[place]] for name, values in scores.items()}
                kept.append(by_scores(record.model_copy(update=update), [response.id], own, scored.annotator))
        found.append(kept)
    return found
