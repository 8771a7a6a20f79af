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

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"train": DataNeed(self.data, self.split, "demonstrations")}


def check(stage: str, settings: SFTSettings) -> None:
    from alignment.stages import train

    train.check(stage, settings.trainer)


def run(context: RunContext, settings: SFTSettings) -> StageResult:
    from alignment.stages import policy, train
    from alignment.stages.rows import demonstration_rows
    from alignment.training.objectives.demonstrations import SFTObjective
    from alignment.training.trainer import ObjectiveTrainer

    args = train.prepare(context, settings.trainer, DEFAULTS)
    model, tokenizer = policy.load(context, settings.peft)
    rows, use = demonstration_rows(context, "train", tokenizer, settings.max_length)
    trainer = ObjectiveTrainer(
        SFTObjective(tokenizer.pad_token_id), model, args, rows, callbacks=[train.progress(context)]
    )
    metrics = train.train(context, trainer)
    entry = policy.register(context, model, tokenizer, settings.peft, metrics)
    train.clean_up(context)
    return StageResult(models={context.stage: entry.ref}, metrics=metrics, data=(use,))
