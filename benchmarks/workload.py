"""What both sides of a comparison share: loading, the trainer's arguments, and the shape of what they hand back."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from samples import Labelled, Sample
from settings import Settings
from transformers import TrainingArguments

from alignment.models import load_policy, new_reward_model
from alignment.registry import ModelRegistry
from alignment.runtime import pick_device
from alignment.training.arguments import training_arguments
from alignment.training.tokens import Encoded

BETA = 0.1  # of DPO and KTO


@dataclass(frozen=True)
class Step:
    """The rows of one optimiser step, each once, however often a side runs them."""

    rows: Sequence[Encoded]
    forward_only: Sequence[Encoded] = ()  # rows without gradient: KTO's mismatched pairs


@dataclass(frozen=True)
class Workload:
    """A trainer that is ready to train, and what its steps have to do at least."""

    trainer: Any
    steps: Sequence[Step]
    vocabulary_head: bool  # False for a reward head, whose work is nothing beside the trunk's
    reference: bool = False  # whether each step has the reference's forward pass in it
    passed_over: Mapping[str, int] = field(default_factory=dict)


def registry() -> ModelRegistry:
    return ModelRegistry(Path(os.environ.get("ALIGNMENT_REGISTRY") or "registry"))


def policy(settings: Settings) -> tuple[Any, Any]:
    """The starting model in fp32 and its tokenizer, the same on both sides."""
    return load_policy(settings.model, registry(), device=pick_device())


def classifier(settings: Settings) -> tuple[Any, Any]:
    """A new reward model on the starting model's trunk, the same on both sides."""
    return new_reward_model(settings.model, registry(), seed=settings.seed, device=pick_device())


def arguments(
    settings: Settings, kind: type[TrainingArguments] = TrainingArguments, rows_per_record: int = 1, **more: Any
) -> Any:
    """Training arguments, the same on both sides but for what only one of them has (`more`)."""
    values = {
        "per_device_train_batch_size": settings.batch * rows_per_record,
        "max_steps": settings.all_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",  # the default of transformers
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        **more,
    }
    if settings.dtype != "auto":
        values["bf16"] = settings.dtype == "bfloat16"
    return training_arguments(tempfile.mkdtemp(prefix="benchmark-"), settings.seed, {}, values, kind)


def precision(args: TrainingArguments) -> str:
    return "bfloat16" if args.bf16 else "float32"


def frozen(model: Any) -> Any:
    """A copy of the starting weights that stays as it is: the reference of full fine-tuning."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def seed_everything(settings: Settings) -> None:
    """Before an adapter is made, so that both sides draw the same one."""
    torch.manual_seed(settings.seed)


def ranked_steps(settings: Settings, sample: Sample) -> list[Step]:
    """All responses of the records of each step."""
    return [Step([row for record in batch for row in record]) for batch in sample.batches(settings.batch)]


def demonstration_steps(settings: Settings, sample: Sample) -> list[Step]:
    """The best response of the records of each step."""
    return [Step([record[0] for record in batch]) for batch in sample.batches(settings.batch)]


def labelled_steps(settings: Settings, single: Sequence[Labelled]) -> list[Step]:
    """The rows of each step, and the mismatched ones, which have no gradient."""
    starts = range(0, len(single), settings.batch)
    batches = [single[start : start + settings.batch] for start in starts]
    return [Step([one.row for one in batch], [one.mismatched for one in batch]) for batch in batches]
