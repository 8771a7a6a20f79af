"""Optimizers and schedules that cannot be made are refused before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_ppo import trainer_of as ppo_trainer
from tiny_trainer import pair_rows, policy, trainer_of
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from alignment.errors import RecipeError
from alignment.stages import STAGES
from alignment.training import optimizers
from alignment.training.arguments import check_arguments, training_arguments
from alignment.training.optimizers import PACKAGES, check_optimizer, check_warmup


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


# --- a warm-up and the length of the run -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({member.value for member in SchedulerType} - FOLLOW_A_METRIC))
@pytest.mark.parametrize("warmup", [0, 0.05, 0.99, 1, 3, 4, 5, 9])
def test_a_warm_up_is_refused_where_the_schedule_never_gets_to_its_value(
    name: str, warmup: float, tmp_path: Path
) -> None:
    """Against the schedules themselves: all rates of a run of four steps."""
    steps = 4
    needs = {"min_lr": 0.0} if "min_lr" in name else {"num_decay_steps": 1} if "decay" in name else None
    args = TrainingArguments(
        str(tmp_path), lr_scheduler_type=name, warmup_steps=warmup, lr_scheduler_kwargs=needs, use_cpu=True
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs)
    rates = []
    for _ in range(steps - 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rates.append(schedule.get_last_lr()[0])
    just = (name, warmup) == ("cosine_warmup_with_min_lr", steps)  # with the last step of the warm-up and of the run
    if warmup >= 1 and (max(rates) < 1 or just):
        with pytest.raises(
            RecipeError, match=rf"^x\.warmup_steps: {warmup} steps of .* but the run has 4: .* as 0\.05"
        ):
            check_warmup("x", args.lr_scheduler_type, warmup, steps)
    else:
        check_warmup("x", args.lr_scheduler_type, warmup, steps)


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo", "grpo"])
def test_a_recipe_that_says_both_is_refused_before_anything_runs(kind: str) -> None:
    stage = STAGES[kind]

    def check(**trainer: Any) -> None:
        given = {"data": "prefs", "trainer": {"max_steps": 3, **trainer}}
        stage.check("mine", stage.settings.model_validate(given))

    for fine in ({}, {"warmup_steps": 2}, {"warmup_steps": 0.5}, {"warmup_ratio": 0.5}):
        check(**fine)
    check(warmup_steps=100, lr_scheduler_type="constant")  # which reads none
    for warmup in (3, 100, "100"):
        with pytest.raises(
            RecipeError, match=rf"^mine\.trainer\.warmup_steps: {warmup} steps of warm-up, but the run "
        ):
            check(warmup_steps=warmup)


@pytest.mark.parametrize("warmup", [4, 0.5])
def test_a_run_counted_in_epochs_is_refused_at_its_first_step(
    warmup: float, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = policy(tiny_model_dir)
    rows = pair_rows(4, model)
    trainer = trainer_of(
        tiny_model_dir, tmp_path, rows, num_train_epochs=2, lr_scheduler_type="linear", warmup_steps=warmup
    )
    if warmup < 1:
        assert trainer.train().global_step == 2
        return
    with pytest.raises(RecipeError, match=r"^trainer\.warmup_steps: 4 steps of warm-up, but the run has 2: "):
        trainer.train()


def test_so_is_one_of_ppo(tiny_model_dir: Path, tmp_path: Path) -> None:
    slow = {"lr_scheduler_type": "linear", "warmup_steps": 3}
    with pytest.raises(RecipeError, match=r"^trainer\.warmup_steps: 3 steps of warm-up, but the run has 3: "):
        ppo_trainer(tiny_model_dir, tmp_path, len, steps=3, trainer=slow)
    assert ppo_trainer(tiny_model_dir, tmp_path, len, steps=4, trainer=slow).total_steps == 4
