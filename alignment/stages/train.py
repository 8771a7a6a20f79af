"""What every training stage does around its trainer: prepare, resume, train, clean up."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, set_seed

from alignment.errors import RecipeError
from alignment.runs import RunContext
from alignment.runtime import quiet
from alignment.training.arguments import check_arguments, training_arguments
from alignment.training.checkpoints import last_complete_checkpoint
from alignment.training.progress import ProgressLog

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


TRACKERS = ("none", "tensorboard")


def check(stage: str, overrides: Mapping[str, Any], kind: type[TrainingArguments] = TrainingArguments) -> None:
    """Raises RecipeError for a `trainer:` key that cannot be, or a tracker that is not there."""
    wanted = check_arguments(stage, overrides, kind).get("report_to", "none")
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        if tracker not in TRACKERS:
            raise RecipeError(f"{stage}.trainer.report_to: {tracker!r} is not one of {', '.join(TRACKERS)}")
        if tracker == "tensorboard" and find_spec("tensorboard") is None:
            raise RecipeError(
                f"{stage}.trainer.report_to: tensorboard is not installed; pip install 'alignment-framework[tracking]'"
            )


def prepare(
    context: RunContext,
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any],
    kind: type[TrainingArguments] = TrainingArguments,
) -> Any:
    """Seeds everything and gives the stage's arguments; checkpoints go to the stage's own folder."""
    set_seed(context.seed)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(context.folder / "tensorboard")  # the only way to tell transformers
    return training_arguments(
        str(checkpoints(context)), context.seed, overrides, {**DEFAULTS, **defaults}, kind, context.stage
    )


def checkpoints(context: RunContext) -> Path:
    return context.folder / "checkpoints"


def progress(context: RunContext) -> ProgressLog:
    return ProgressLog(context.stage, context.folder / "train_log.jsonl", context.say)


def train(context: RunContext, trainer: Any) -> dict[str, float]:
    """Trains from the last whole checkpoint, or from the start. Returns the last logged metrics of training."""
    resume = last_complete_checkpoint(checkpoints(context)) if checkpoints(context).is_dir() else None
    if resume is not None:
        context.say(f"{context.stage}: resuming from {resume.name}")
    with quiet():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    logged = [row for row in trainer.state.log_history if "loss" in row]
    last = logged[-1] if logged else {}
    return {name: float(value) for name, value in last.items() if isinstance(value, (int, float))} | {
        "steps": float(trainer.state.global_step)
    }


def clean_up(context: RunContext) -> None:
    """Checkpoints have done their work once the model is in the registry."""
    shutil.rmtree(checkpoints(context), ignore_errors=True)
    gc.collect()
