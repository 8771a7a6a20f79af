"""Optimizers and schedules that cannot be made are refused before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from alignment.errors import RecipeError
from alignment.training import optimizers
from alignment.training.arguments import check_arguments, training_arguments
from alignment.training.optimizers import PACKAGES, check_optimizer


@pytest.mark.parametrize("name", [member.value for member in OptimizerNames])
def test_every_name_that_transformers_knows_is_there_or_refused(tmp_path: Path, name: str) -> None:
    """Of a new transformers, too: what passes here can be made."""
    if any(part in name and find_spec(package) is None for part, package in PACKAGES.items()):
        with pytest.raises(RecipeError, match=rf"^sft\.trainer\.optim: {name} needs the package "):
            check_optimizer("sft.trainer.optim", name)
        return
    check_optimizer("sft.trainer.optim", name)
    args = TrainingArguments(output_dir=str(tmp_path), optim=name, use_cpu=True, report_to="none")
    Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Linear(1, 1))


def test_a_recipe_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match=r"^sft\.trainer\.optim: paged_lion_8bit needs the package bitsandbytes, which"
    ):
        check_arguments("sft", {"optim": "paged_lion_8bit"})
    assert check_arguments("sft", {"optim": "adafactor"}) == {"optim": "adafactor"}


FOLLOW_A_METRIC = {"reduce_lr_on_plateau", "greedy"}  # of evaluations, which the recipe has to ask for


@pytest.mark.parametrize("name", sorted({member.value for member in SchedulerType} - FOLLOW_A_METRIC))
def test_every_schedule_can_be_made_or_says_what_it_needs(tmp_path: Path, name: str) -> None:
    needs = {"cosine_with_min_lr": "min_lr", "cosine_warmup_with_min_lr": "min_lr", "warmup_stable_decay": "num_decay"}
    overrides = {"lr_scheduler_type": name, "warmup_steps": 2}
    if name in needs:
        with pytest.raises(
            RecipeError, match=rf"^ppo\.trainer: lr_scheduler_type {name} .*lr_scheduler_kwargs.*{needs[name]}"
        ):
            training_arguments(str(tmp_path), 1, overrides, {}, stage="ppo")
        overrides["lr_scheduler_kwargs"] = {"num_decay_steps": 2} if "decay" in name else {"min_lr": 0.1}
    assert training_arguments(str(tmp_path), 1, overrides, {}, stage="ppo").lr_scheduler_type == name
