"""A reward model from rankings: every response goes through the trunk once, the loss sees all comparisons."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from alignment.lora import LoraSettings
from alignment.runs import RunContext, StageResult
from alignment.stages.settings import TrainingSettings

DEFAULTS: dict[str, Any] = {"learning_rate": 1e-5, "per_device_train_batch_size": 4}
LOSSES = ("bradley_terry",)  # the rows of reward.losses.RANKING_LOSSES, known without torch; a test holds them equal


class RewardSettings(TrainingSettings):
    """`data`: records with at least two ranked responses. Without `peft`, all weights are trained.

    The model starts from the policy's trunk and is stored whole, adapters merged: a standard sequence classifier.
    """

    peft: LoraSettings | None = None
    loss: str = "bradley_terry"
    center_coefficient: float = Field(0.01, ge=0)  # keeps the rewards around zero (Eisenstein et al. 2023)

    @field_validator("loss")
    @classmethod
    def known_loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"unknown loss; there are: {', '.join(LOSSES)}")
        return loss


def check(stage: str, settings: RewardSettings) -> None:
    from alignment.stages import train

    train.check(stage, settings.trainer)


def run(context: RunContext, settings: RewardSettings) -> StageResult:
    from alignment.models import new_reward_model, save_model
    from alignment.runtime import pick_device
    from alignment.stages import train
    from alignment.stages.rows import ranking_rows
    from alignment.training.objectives.rewards import RewardObjective
    from alignment.training.trainer import ObjectiveTrainer

    args = train.prepare(context, settings.trainer, DEFAULTS)
    model, tokenizer = new_reward_model(
        context.inputs["model"],
        context.registry,
        seed=context.seed,
        device=pick_device(),
        adapter_config=settings.peft,
        chat_template=context.chat_template,
        say=context.say,
    )
    rows, use = ranking_rows(context, "train", tokenizer, settings.max_length)
    trainer = ObjectiveTrainer(
        RewardObjective(tokenizer.pad_token_id, settings.loss, settings.center_coefficient),
        model,
        args,
        rows,
        callbacks=[train.progress(context)],
    )
    metrics = train.train(context, trainer)
    if settings.peft is not None:
        model = model.merge_and_unload()
    entry = context.register("reward", "reward", lambda folder: save_model(model, tokenizer, folder), metrics, "model")
    train.clean_up(context)
    return StageResult(models={context.stage: entry.ref}, metrics=metrics, data=(use,))
