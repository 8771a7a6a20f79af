"""Direct preference optimisation; the reference is the policy the stage starts from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from alignment.lora import LoraSettings
from alignment.runs import RunContext, StageResult
from alignment.stages.settings import TrainingSettings

DEFAULTS: dict[str, Any] = {"learning_rate": 5e-6}
LOSSES = (
    "sigmoid",
)  # the rows of alignment.training.losses.pairs.DPO_LOSSES, known without torch; a test holds them equal


class DPOSettings(TrainingSettings):
    """`data`: ranked records. `pairs`: all decided pairs (weight 1/#pairs of the record), or best against worst."""

    beta: float = Field(0.1, gt=0)
    loss: str = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    pairs: Literal["all", "best_worst"] = "all"
    peft: LoraSettings | None = None

    @field_validator("loss")
    @classmethod
    def known_loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"unknown loss; there are: {', '.join(LOSSES)}")
        return loss

    @model_validator(mode="after")
    def no_dropout(self) -> DPOSettings:
        if self.peft is not None and self.peft.lora_dropout:
            raise ValueError("lora_dropout makes the policy differ from its reference at the start; set it to 0")
        return self


def check(stage: str, settings: DPOSettings) -> None:
    from alignment.stages import train

    train.check(stage, settings.trainer)


def run(context: RunContext, settings: DPOSettings) -> StageResult:
    from alignment.stages import policy, train
    from alignment.stages.rows import pair_rows
    from alignment.training.objectives.pairs import DPOObjective
    from alignment.training.trainer import ObjectiveTrainer

    args = train.prepare(context, settings.trainer, DEFAULTS)
    model, tokenizer = policy.load(context, settings.peft)
    rows, use = pair_rows(context, "train", tokenizer, settings.max_length, settings.pairs)
    _add_reference(context, model, tokenizer, args, rows)
    trainer = ObjectiveTrainer(
        DPOObjective(tokenizer.pad_token_id, settings.beta, settings.loss, settings.label_smoothing),
        model,
        args,
        rows,
        callbacks=[train.progress(context)],
    )
    metrics = train.train(context, trainer)
    entry = policy.register(context, model, tokenizer, settings.peft, metrics)
    train.clean_up(context)
    return StageResult(models={context.stage: entry.ref}, metrics=metrics, data=(use,))


def _add_reference(context: RunContext, model: Any, tokenizer: Any, args: Any, rows: list[dict[str, Any]]) -> None:
    """Reference log-probabilities of every row, before the first step, from the run's cache where it has them.

    A resumed stage takes them from the cache: the model is still the starting policy when this runs.
    """
    from alignment.training.arguments import autocast, precision_name
    from alignment.training.reference import ReferenceCache, reference_logprobs

    cache = ReferenceCache(
        context.run_dir / "reference-cache", context.input_digests["model"], precision_name(model, args)
    )
    encoded = [row[side] for row in rows for side in ("chosen", "rejected")]
    logps = cache.get_or_compute(
        encoded,
        lambda part: reference_logprobs(model, part, tokenizer.pad_token_id, args.eval_batch_size, autocast(args)),
        progress=lambda done, total: context.say(f"{context.stage}: reference log-probabilities {done}/{total}"),
    ).tolist()
    for row, chosen, rejected in zip(rows, logps[0::2], logps[1::2], strict=True):
        row["ref_chosen_logps"], row["ref_rejected_logps"] = chosen, rejected
