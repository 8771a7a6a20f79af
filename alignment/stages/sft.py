"""Supervised fine-tuning on demonstrations, by TRL's SFTTrainer; only the answer's tokens are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignment.lora import LoraSettings
from alignment.runs import RunContext, StageResult
from alignment.stages.settings import DataNeed, TrainingSettings

if TYPE_CHECKING:
    from alignment.training.tokens import Encoded

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-5,
    "max_length": None,  # rows fit already; longer records were dropped and counted
    "dataset_kwargs": {"skip_prepare_dataset": True},
}


class SFTSettings(TrainingSettings):
    """`data`: records whose only or best response is the demonstration. Without `peft`, all weights are trained."""

    peft: LoraSettings | None = None

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"train": DataNeed(self.data, self.split, "demonstrations")}


def check(stage: str, settings: SFTSettings) -> None:
    from trl import SFTConfig

    from alignment.stages import train

    train.check(stage, settings.trainer, SFTConfig)


def run(context: RunContext, settings: SFTSettings) -> StageResult:
    from trl import SFTConfig

    from alignment.stages import policy, train
    from alignment.stages.rows import demonstration_rows

    args = train.prepare(context, settings.trainer, DEFAULTS, SFTConfig)
    model, tokenizer = policy.load(context, settings.peft)
    rows, use = demonstration_rows(context, "train", tokenizer, settings.max_length)
    trainer = _trainer(context, model, tokenizer, args, [row for _, row in rows])
    metrics = train.train(context, trainer)
    entry = policy.register(context, model, tokenizer, settings.peft, metrics)
    train.clean_up(context)
    return StageResult(models={context.stage: entry.ref}, metrics=metrics, data=(use,))


def _trainer(context: RunContext, model: Any, tokenizer: Any, args: Any, rows: list[Encoded]) -> Any:
    """TRL's trainer over rows that our own tokenisation made, so every stage reads a record the same way."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from alignment.stages.train import progress
    from alignment.training.checkpoints import WholeCheckpoints

    class Trainer(WholeCheckpoints, SFTTrainer):  # type: ignore[misc]
        """SFTTrainer whose checkpoints say when they are whole."""

    labels = [[i if m else -100 for i, m in zip(row.ids, row.mask, strict=True)] for row in rows]
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": labels}),
        processing_class=tokenizer,
        callbacks=[progress(context)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
