"""Candidate answers: several from a policy to each prompt, to be ranked by a scorer or by people."""

from __future__ import annotations

from alignment.runs import RunContext, StageResult
from alignment.stages.sampling import SamplingSettings, cut_note, merged_note, prepare, sample_answers


class SampleSettings(SamplingSettings):
    """As every sampling stage's; the records it makes have no judgements."""


def check(stage: str, settings: SampleSettings) -> None:
    """Nothing that only heavy libraries can tell."""


def run(context: RunContext, settings: SampleSettings) -> StageResult:
    sampled = sample_answers(context, settings, prepare(context, settings))
    records = context.write_records(answers.record for answers in sampled.answers)
    notes = merged_note(sampled) + cut_note(sampled)
    return StageResult(metrics=sampled.metrics(), notes=notes, data=(sampled.use,), records=records)
