"""Optimizers and schedules by their Hugging Face names: what is missing for them, said before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from alignment.errors import RecipeError

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Part of a name -> the package; the first that fits counts.
PACKAGES = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "schedule_free": "schedulefree",
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
    "anyprecision": "torchdistx",
    "xla": "torch_xla",
    "npu": "torch_npu",
    "torch_4bit": "torchao",
    "torch_8bit": "torchao",
    "bnb": "bitsandbytes",
    "8bit": "bitsandbytes",
    "paged": "bitsandbytes",
    "lion": "bitsandbytes",
    "ademamix": "bitsandbytes",
}

NO_WARMUP = frozenset({"constant", "reduce_lr_on_plateau", "greedy"})  # schedules that read no warm-up


def check_optimizer(where: str, name: str) -> None:
    """Raises RecipeError when the package that the optimizer `name` comes from is not installed."""
    package = next((package for part, package in PACKAGES.items() if part in name), None)
    if package is not None and find_spec(package) is None:
        raise RecipeError(f"{where}: {name} needs the package {package}, which is not installed; or use adamw_torch")


def check_schedule(where: str, args: TrainingArguments) -> None:
    """Raises RecipeError when the schedule cannot be built from what `args` say: some need `lr_scheduler_kwargs`."""
    import torch
    from transformers import get_scheduler

    steps, name = 10, getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    try:
        get_scheduler(
            args.lr_scheduler_type,
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
            args.get_warmup_steps(steps),
            steps,
            args.lr_scheduler_kwargs,
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: lr_scheduler_type {name} cannot be built with lr_scheduler_kwargs "
            f"{args.lr_scheduler_kwargs or {}}: {' '.join(str(error).split())}"
        ) from error


def check_warmup(where: str, schedule: str, warmup: float, steps: int) -> None:
    """Raises RecipeError for a warm-up of whole steps that a run of `steps` does not get beyond.

    The learning rate has its value at the step after the warm-up (in one of transformers' schedules, with its last
    step: refused where that is the run's last one, too). Below 1, `warmup` is a share of the run itself.
    """
    if int(warmup) >= max(steps, 1) and getattr(schedule, "value", schedule) not in NO_WARMUP:
        raise RecipeError(
            f"{where}.warmup_steps: {int(warmup)} steps of warm-up, but the run has {steps}: its learning rate would "
            f"never get to its value; give fewer than {steps}, or a share of all steps, such as 0.05"
        )


class WarmsUp:
    """A mixin before transformers' Trainer, which knows how long a run is when it makes its schedule."""

    args: TrainingArguments

    def create_scheduler(self, num_training_steps: int, *rest: Any, **more: Any) -> Any:
        """As the Trainer's. Raises RecipeError as `check_warmup`."""
        check_warmup("trainer", self.args.lr_scheduler_type, self.args.warmup_steps, num_training_steps)
        return super().create_scheduler(num_training_steps, *rest, **more)  # type: ignore[misc]
