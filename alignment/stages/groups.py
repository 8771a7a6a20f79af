"""Settings of the stages that learn from groups: several answers to a prompt, each compared with the others' scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from alignment.errors import DataError, RecipeError
from alignment.stages.on_policy import OnPolicySettings
from alignment.stages.settings import Found, one_end

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec

_BATCH = "answers are drawn for one step at a time: per_device_train_batch_size x gradient_accumulation_steps"
_HELD_OUT = "nothing is held out here; put an `evaluate` stage after this one"

# TRL's names for what the recipe says elsewhere.
ELSEWHERE: dict[str, str] = {
    "beta": "it is `kl_coef`, beside `trainer`",
    "max_completion_length": "it is `max_new_tokens`, beside `trainer`",
    "reward_weights": "terms of `reward` have their weights",
    "generation_batch_size": _BATCH,
    "steps_per_generation": _BATCH,
    "eval_strategy": _HELD_OUT,
    "eval_steps": _HELD_OUT,
    "eval_delay": _HELD_OUT,
    "per_device_eval_batch_size": _HELD_OUT,
}


class GroupSettings(OnPolicySettings):
    """What RLOO and GRPO share, under TRL's names.

    A step draws per_device_train_batch_size x gradient_accumulation_steps answers, `num_generations` to each prompt.
    """

    num_generations: int = Field(4, ge=2)  # answers to a prompt
    num_iterations: int = Field(1, ge=1)  # updates on the same answers
    epsilon: float = Field(0.2, gt=0, lt=1)  # ratios are clipped to 1 - epsilon ... 1 + epsilon_high
    epsilon_high: float | None = Field(None, gt=0)  # None: epsilon
    mask_truncated_completions: bool = False  # answers without an end do not count in the loss
    sample_every: int = Field(10, ge=1)  # steps between two groups of answers kept in samples.jsonl

    @model_validator(mode="after")
    def no_contradiction(self) -> GroupSettings:
        if self.trainer.get("bf16") and self.trainer.get("fp16"):
            raise ValueError("trainer.bf16 and trainer.fp16 are both on; keep one")
        one_end(self.trainer)
        return self

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        super().check_records(stage, role, found, spec)
        check_enough(f"{spec.source} ({spec.split})", len(found.used), _answers(stage, self), self.num_generations)

    def trl_arguments(self) -> dict[str, Any]:
        """These settings as TRL's configs name them."""
        return {
            "beta": self.kl_coef,
            "max_completion_length": self.max_new_tokens,
            "temperature": self.temperature,
            "num_generations": self.num_generations,
            "num_iterations": self.num_iterations,
            "epsilon": self.epsilon,
            "epsilon_high": self.epsilon_high,
            "mask_truncated_completions": self.mask_truncated_completions,
        }


def check(stage: str, settings: GroupSettings) -> None:
    """Raises RecipeError for a `trainer:` key that cannot be, or a batch that does not hold whole groups."""
    from alignment.stages import train

    for key in settings.trainer:
        if key in ELSEWHERE:
            raise RecipeError(f"{stage}.trainer.{key}: not to be set here: {ELSEWHERE[key]}")
        if key in type(settings).model_fields:
            raise RecipeError(f"{stage}.trainer.{key}: a setting of the stage; write it beside `trainer`, not in it")
    train.check(stage, settings.trainer)
    answers = _answers(stage, settings)
    if answers % settings.num_generations:
        raise RecipeError(
            f"{stage}.num_generations: {settings.num_generations} does not divide the {answers} answers of a step "
            "(per_device_train_batch_size x gradient_accumulation_steps)"
        )


def check_enough(source: str, n_prompts: int, answers: int, group: int) -> None:
    """Raises DataError where there are fewer prompts than a step takes, `group` of its `answers` to each."""
    if n_prompts < answers // group:
        raise DataError(
            f"{source}: {n_prompts} prompts, but a step takes {answers // group} ({answers} answers, {group} to each); "
            "lower per_device_train_batch_size"
        )


def _answers(stage: str, settings: GroupSettings) -> int:
    """Of a step."""
    from alignment.stages import train
    from alignment.training.arguments import check_arguments

    given = train.DEFAULTS | check_arguments(stage, settings.trainer)
    return int(given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 1))
