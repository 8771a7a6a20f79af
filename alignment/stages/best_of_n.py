"""Best of n: n answers to each prompt, ranked by a scorer; the best is there to imitate, all of them to compare.

Choosing among samples gets more score per nat of KL than most training (Stiennon et al. 2020; Gao et al. 2022), so what
it reaches is what training has to be measured against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from alignment.errors import DataError
from alignment.runs import RunContext, StageResult
from alignment.stages.scored_sampling import ScoredSamplingSettings, gain_lines, gains, sample_and_score
from alignment.stages.scoring import ScorerTerm, check_references, watch_inputs
from alignment.stages.settings import Found, Made

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec

ALIKE = "all answers alike"


class BestOfNSettings(ScoredSamplingSettings):
    """Its records hold all different answers to a prompt, ranked; a prompt whose answers are all alike gives none.

    Empty answers are in no record.

    `watch` is scored and logged, never chosen by.
    """

    n: int = Field(4, ge=2)
    watch: list[ScorerTerm] = Field([])
    tie_width: float = Field(0.0, ge=0)  # scores closer than this tie, equal ones always do

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        return super().model_inputs(stage, earlier) | watch_inputs(self.watch, stage, earlier, self.reward)

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        check_references(stage, found.records, spec, self.reward, self.watch)


def check(stage: str, settings: BestOfNSettings) -> None:
    """Nothing that only heavy libraries can tell."""


def run(context: RunContext, settings: BestOfNSettings) -> StageResult:
    from alignment.stages.judging import judged

    scored = sample_and_score(context, settings, settings.watch)
    found = gains(scored, settings.n)
    for line in gain_lines(found, settings.n):
        context.say(f"{context.stage}: {line}")
    made = [
        judged(record, scores, scored.annotator, settings.tie_width)
        for record, scores in filter(None, scored.said())
        if len(record.responses) > 1
    ]
    if not made:
        raise DataError(f"{context.stage}: the answers to each prompt are all alike; raise temperature or n")
    return StageResult(
        metrics=scored.sampled.metrics() | found,
        notes=scored.notes(),
        data=(scored.use(len(made), ALIKE),),
        records=context.write_records(made),
    )
