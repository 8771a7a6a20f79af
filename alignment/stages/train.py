"""What every training stage does around its trainer: prepare, load rows, train or resume, clean up."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainingArguments, set_seed

from alignment.errors import RecipeError
from alignment.runs import DataUse, RunContext
from alignment.runtime import quiet
from alignment.stages.settings import TrainingSettings
from alignment.training.arguments import check_arguments, training_arguments
from alignment.training.checkpoints import discard_checkpoints, last_complete_checkpoint
from alignment.training.objectives.objective import Objective
from alignment.training.optimizers import check_warmup
from alignment.training.progress import TIMINGS, ProgressLog
from alignment.training.stopping import EarlyStop
from alignment.training.trainer import ObjectiveTrainer

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # below 1: a share of all steps
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 0.25,  # below 1: a share of all steps
    "save_total_limit": 1,
}
EVAL_STEPS = 0.25  # where records are held out and the recipe does not say how often to look at them

TRACKERS = ("none", "tensorboard")

# What these keys must be. Elsewhere nothing is trained, or it fails far from here.
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "num_train_epochs": (lambda n: n > 0, "above 0"),
    "max_steps": (lambda n: n >= 1 or n == -1, "1 or more"),  # -1: num_train_epochs says how long
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        (lambda n: n >= 1, "1 or more"),
    ),
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm"), (lambda x: x >= 0, "0 or more")
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (lambda x: 0 <= x < 1, "0 or more and below 1")),
}


class Data(NamedTuple):
    """The rows a stage trains on, those it only looks at (None without `eval_split`), and what became of records."""

    train: list[Any]
    held_out: list[Any] | None
    uses: tuple[DataUse, ...]

    @property
    def rows(self) -> list[Any]:
        """All of them."""
        return [*self.train, *(self.held_out or ())]


class Trained(NamedTuple):
    """Last metrics of training and evaluation, up to the step that was kept; what to know of them, and of that step."""

    metrics: dict[str, float]
    notes: tuple[str, ...]


def check(stage: str, overrides: Mapping[str, Any], kind: type[TrainingArguments] = TrainingArguments) -> None:
    """Raises RecipeError for a `trainer:` key that cannot be, or a tracker that is not there."""
    given = check_arguments(stage, overrides, kind)
    for key, (allowed, words) in RANGES.items():
        if key in given and not allowed(given[key]):
            raise RecipeError(f"{stage}.trainer.{key}: must be {words}, not {given[key]}")
    if given.get("max_steps", -1) > 0:
        schedule, warmup = given.get("lr_scheduler_type", ""), given.get("warmup_steps", 0)
        check_warmup(f"{stage}.trainer", schedule, warmup, given["max_steps"])
    wanted = given.get("report_to", "none")
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        if tracker not in TRACKERS:
            raise RecipeError(f"{stage}.trainer.report_to: {tracker!r} is not one of {', '.join(TRACKERS)}")
        if tracker == "tensorboard" and find_spec("tensorboard") is None:
            raise RecipeError(
                f"{stage}.trainer.report_to: tensorboard is not installed; pip install 'alignment-framework[tracking]'"
            )


def check_coupled(stage: str, settings: TrainingSettings) -> None:
    """Raises RecipeError for a bound that a loss on the whole batch cannot keep: only a trunk that shares can."""
    if settings.max_tokens_per_forward is not None and not settings.share_prefixes:
        raise RecipeError(
            f"{stage}.max_tokens_per_forward: this loss compares the records of a batch, which then cannot be split; "
            "set share_prefixes: true, so that the model runs it in parts"
        )


def begin(context: RunContext) -> None:
    """Seeds everything; what is tracked goes to the stage's own folder."""
    set_seed(context.seed)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(context.folder / "tensorboard")  # the only way to tell transformers


def prepare(context: RunContext, settings: TrainingSettings, defaults: Mapping[str, Any]) -> TrainingArguments:
    """Seeds everything and gives the stage's arguments; checkpoints go to the stage's own folder."""
    begin(context)
    defaults = {**DEFAULTS, **defaults, **_implied(context.stage, settings)}
    arguments: TrainingArguments = training_arguments(
        str(checkpoints(context)), context.seed, settings.trainer, defaults, stage=context.stage
    )
    return arguments


def _implied(stage: str, settings: TrainingSettings) -> dict[str, Any]:
    """Arguments that follow from the stage's own settings."""
    found: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if settings.group_by_length else {}
    if settings.eval_split is None:
        return found
    given = check_arguments(stage, settings.trainer)
    strategy, steps = given.get("eval_strategy", "steps"), given.get("eval_steps", EVAL_STEPS)
    found |= {"eval_strategy": strategy, "eval_steps": steps}
    stop = _early_stop(settings)
    if stop is not None:
        found |= {**stop.arguments(), "save_strategy": strategy, "save_steps": steps}
    return found


def _early_stop(settings: TrainingSettings) -> EarlyStop | None:
    asked = settings.early_stopping
    return None if asked is None else EarlyStop(asked.metric, asked.higher, asked.patience, asked.min_delta)


def checkpoints(context: RunContext) -> Path:
    return context.folder / "checkpoints"


def load(context: RunContext, rows_of: Callable[[str], tuple[Sequence[Any], DataUse]]) -> Data:
    """The stage's rows; `rows_of` makes them for a role, `train` or `eval`."""
    train, use = rows_of("train")
    if "eval" not in context.data:
        return Data(list(train), None, (use,))
    held_out, eval_use = rows_of("eval")
    return Data(list(train), list(held_out), (use, eval_use))


def fit(
    context: RunContext,
    settings: TrainingSettings,
    objective: Objective,
    model: Any,
    args: TrainingArguments,
    data: Data,
) -> Trained:
    """Trains `model` from the last whole checkpoint, or from the start; the best weights stay in it, or the last.

    Raises as `ObjectiveTrainer` does.
    """
    progress = ProgressLog(context.stage, context.folder / "train_log.jsonl", context.say)
    notes = _notes(objective, args, data)
    for note in notes:
        context.say(f"{context.stage}: {note}")
    stop = _early_stop(settings)
    trainer = ObjectiveTrainer(
        objective,
        model,
        args,
        data.train,
        data.held_out,
        callbacks=[progress] if stop is None else [progress, stop.callback()],
        max_tokens_per_forward=settings.max_tokens_per_forward,
    )
    resume = last_complete_checkpoint(checkpoints(context)) if checkpoints(context).is_dir() else None
    if resume is not None:
        context.say(f"{context.stage}: resuming from {resume.name}")
    with quiet():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if stop is None:
        return Trained(_metrics(trainer.state.log_history) | {"steps": float(trainer.state.global_step)}, notes)
    kept = trainer.state.best_global_step
    metrics = _metrics([row for row in trainer.state.log_history if row["step"] <= kept])
    outcome = stop.outcome(trainer.state)
    context.say(f"{context.stage}: {outcome}")
    return Trained(metrics | {"steps": float(trainer.state.global_step), "kept_step": float(kept)}, (*notes, outcome))


def _notes(objective: Objective, args: TrainingArguments, data: Data) -> tuple[str, ...]:
    if data.held_out is None or not objective.batchwise:
        return ()
    size = args.eval_batch_size
    return (f"this loss compares the records of a batch: eval_loss is that of batches of {size}",)


def _metrics(logs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last training row and, under eval_*, the last evaluation; how long they took is no result."""
    training = [row for row in logs if "loss" in row]
    evaluations = [row for row in logs if "eval_loss" in row]
    timings = {f"eval_{name}" for name in TIMINGS}
    last = {name: value for rows in (evaluations, training) for name, value in (rows[-1] if rows else {}).items()}
    return {
        name: float(value) for name, value in last.items() if isinstance(value, (int, float)) and name not in timings
    }


def clean_up(context: RunContext) -> None:
    """Checkpoints have done their work once the model is in the registry."""
    discard_checkpoints(checkpoints(context))
    gc.collect()
