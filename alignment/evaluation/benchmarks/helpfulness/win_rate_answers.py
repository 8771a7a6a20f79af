"""The policies' answers to the held-out prompts, kept apart from what scorers and judges say of them.

Their key is the prompts and the settings. Another scorer, another reference answer or another judgement in the held-out
records makes no policy answer again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.result import EvalResult

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord


@dataclass(frozen=True)
class WinRateAnswers(Benchmark):
    """Greedy answers, which win_rate scores and judged_wins has compared."""

    name = "win_rate_answers"
    suite = "helpfulness"
    version = 1
    same = ("prompt", "group")

    def subjects(self, context: EvalContext) -> Sequence[str]:
        return list(context.models) if held_out_prompts(context.held_out()) else []

    def skipped(self, context: EvalContext) -> str:
        return "there are no held-out prompts"

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"max_new_tokens": context.settings.max_new_tokens}

    def inputs(self, context: EvalContext) -> Any:
        return {"prompts": prompts_digest(context), "bf16": context.settings.bf16, **self.settings(context)}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.generation.generate import generate

        assert model is not None
        asked = held_out_rows(context)
        answers = generate(
            *model,
            [row["prompt"] for row in asked],
            max_new_tokens=context.settings.max_new_tokens,
            batch_size=context.settings.batch_size,
            bf16=context.settings.bf16,
            say=lambda line: context.say(f"{subject}: {line}"),
        )
        return [
            {
                **row,
                "response": None if answer is None else answer.text,
                "n_tokens": None if answer is None else answer.n_tokens,
                "finished": None if answer is None else answer.finished,
            }
            for row, answer in zip(asked, answers, strict=True)
        ]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        return []  # answers have no numbers before they are scored


def held_out_prompts(records: Sequence[PreferenceRecord]) -> list[PreferenceRecord]:
    """The first record of every distinct prompt; prompts with tools are left out: the chat template gets none."""
    found: dict[str, PreferenceRecord] = {}
    for record in records:
        if not record.prompt.tools:
            found.setdefault(json.dumps([[m.role, m.content] for m in record.prompt.messages]), record)
    return list(found.values())


def held_out_rows(context: EvalContext) -> list[Sample]:
    """What a sample keeps of every distinct held-out prompt: its id, group and messages."""
    return [
        {
            "id": record.id,
            "group": record.group_id,
            "prompt": [{"role": m.role, "content": m.content} for m in record.prompt.messages],
        }
        for record in held_out_prompts(context.held_out())
    ]


def prompts_digest(context: EvalContext) -> str:
    """What the held-out prompts are, without what is said of responses to them: part of the key of answers."""
    from alignment.atomic import json_digest

    return json_digest({"prompts": held_out_rows(context)})
