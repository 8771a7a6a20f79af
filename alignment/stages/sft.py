"""Supervised fine-tuning on demonstrations; only the answer's tokens are learned."""

from __future__ import annotations

from typing import Any

from alignment.lora import LoraSettings
from alignment.runs import RunContext, StageResult
from alignment.stages.settings import DataNeed, TrainingSettings

DEFAULTS: dict[str, Any] = {"learning_rate": 2e-5}


class SFTSettings(TrainingSettings):
    """`data`: records whose only or best response is the demonstration. Without `peft`, all weights are trained."""

    peft: LoraSettings | None = None

    def data_need(self, split: str) -> DataNeed:
        return DataNeed(self.data, split, "demonstrations")


def check(stage: str, settings: SFTSettings) -> None:
    from alignment.stages import train

    train.check(stage, settings.trainer)


def run(context: RunContext, settings: SFTSettings) -> StageResult:
    from alignment.stages import policy, train
    from alignment.stages.rows import demonstration_rows
    from alignment.training.objectives.demonstrations import SFTObjective

    args = train.prepare(context, settings, DEFAULTS)
    model, tokenizer = policy.load(context, settings.peft, settings.share_prefixes)
    data = train.load(
        context, lambda role: demonstration_rows(context, role, tokenizer, settings.max_length, settings.truncation)
    )
    objective = SFTObjective(tokenizer.pad_token_id)
    trained = train.fit(context, settings, objective, model, args, data)
    entry = policy.register(context, model, tokenizer, settings.peft, trained.metrics)
    train.clean_up(context)
    return StageResult({context.stage: entry.ref}, trained.metrics, trained.notes, data.uses)
