"""A reward model from rankings: every response goes through the trunk once, the loss sees all comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from alignment.lora import LoraSettings
from alignment.runs import RunContext, StageResult
from alignment.stages.ranking_loss import LOSSES, RankingLossSettings, loss_rows
from alignment.stages.settings import TrainingSettings

if TYPE_CHECKING:
    from alignment.stages.train import Data

DEFAULTS: dict[str, Any] = {"learning_rate": 1e-5, "per_device_train_batch_size": 4}


class RewardSettings(RankingLossSettings):
    """`data`: records with at least two ranked responses. Without `peft`, all weights are trained.

    The model starts from the policy's trunk and is stored whole, adapters merged: a standard sequence classifier with
    one label per head.
    """

    peft: LoraSettings | None = None
    center_coefficient: float = Field(0.01, ge=0)  # keeps the rewards around zero (Eisenstein et al. 2023)
    length_coefficient: float = 0.0  # reward per token that annotators give to length; the model learns the rest
    heads: int = Field(1, ge=1, le=64)  # an ensemble on one trunk, each head from a start of its own
    aggregate: Literal["mean", "worst", "uncertainty"] = "mean"  # how the heads become one score
    penalty: float | None = Field(None, gt=0, allow_inf_nan=False)  # of uncertainty: mean - penalty x variance; None: 1

    @model_validator(mode="after")
    def an_aggregate_of_several(self) -> RewardSettings:
        if "aggregate" in self.model_fields_set and self.heads == 1:
            raise ValueError("aggregate needs several heads; set heads or leave aggregate out")
        if self.penalty is not None and self.aggregate != "uncertainty":
            raise ValueError(f"penalty belongs to aggregate: uncertainty, not to {self.aggregate}; leave it out")
        return self


def check(stage: str, settings: TrainingSettings) -> None:
    from alignment.stages import train

    train.check(stage, settings.trainer)


def run(context: RunContext, settings: RewardSettings) -> StageResult:
    from alignment.stages import train
    from alignment.training.objectives.rewards import RewardObjective

    args, model, tokenizer = start(context, settings, settings.peft, marker_of(settings))
    data = train.load(context, lambda role: loss_rows(context, role, settings, tokenizer))
    objective = RewardObjective(
        tokenizer.pad_token_id,
        settings.loss,
        settings.center_coefficient,
        settings.length_coefficient,
        settings.options(),
    )
    return fit(context, settings, objective, args, model, tokenizer, data)


def marker_of(settings: RewardSettings) -> dict[str, Any]:
    """What the stored model is to remember (see `reward.model.marker`); nothing of one head and one plain reward."""
    from reward.losses import options_of

    heads = settings.model_dump(include={"heads", "aggregate", "penalty"}, exclude_none=True)
    marker = heads if settings.heads > 1 else {}
    if own := LOSSES[settings.loss].get("tie_parameter"):
        marker["ties"] = [settings.loss, (options_of(settings.loss) | settings.options())[own]]
    return marker


def start(
    context: RunContext, settings: TrainingSettings, peft: LoraSettings | None, marker: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Arguments of the trainer, a new reward model on the input policy's trunk, and its tokenizer."""
    from alignment.models import new_reward_model
    from alignment.runtime import pick_device
    from alignment.stages import train
    from alignment.training.prefix_sharing import share_prefixes

    args = train.prepare(context, settings, DEFAULTS)
    model, tokenizer = new_reward_model(
        context.inputs["model"],
        context.registry,
        seed=context.seed,
        device=pick_device(),
        adapter_config=peft,
        chat_template=context.chat_template,
        marker=marker,
        say=context.say,
    )
    if settings.share_prefixes:
        share_prefixes(model)
    return args, model, tokenizer


def fit(
    context: RunContext, settings: TrainingSettings, objective: Any, args: Any, model: Any, tokenizer: Any, data: Data
) -> StageResult:
    """Trains, merges an adapter and puts the whole model into the registry."""
    from alignment.models import save_model
    from alignment.stages import train

    trained = train.fit(context, settings, objective, model, args, data)
    whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    entry = context.register(
        "reward", "reward", lambda folder: save_model(whole, tokenizer, folder), trained.metrics, "model"
    )
    train.clean_up(context)
    return StageResult({context.stage: entry.ref}, trained.metrics, trained.notes, data.uses)
