"""Pairs, a tiny policy and a trainer for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alignment.training.arguments import training_arguments
from alignment.training.logprobs import sequence_logprobs
from alignment.training.objectives.pairs import DPOObjective
from alignment.training.tokens import Encoded
from alignment.training.trainer import ObjectiveTrainer

PAD = 2


def policy(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def encoded(generator: torch.Generator) -> Encoded:
    def tokens() -> list[int]:
        length = int(torch.randint(1, 8, (1,), generator=generator))
        return [int(t) for t in torch.randint(3, 250, (length,), generator=generator)]

    answer = tokens()
    return Encoded(tokens(), answer, [1] * len(answer))


def pair_rows(n: int, reference: Any, weights: Sequence[float] | None = None) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = [
        {
            "id": f"pair-{i}",
            "chosen": encoded(generator),
            "rejected": encoded(generator),
            "weight": weights[i] if weights else 1.0,
            "ref_chosen_logps": 0.0,
            "ref_rejected_logps": 0.0,
        }
        for i in range(n)
    ]
    with torch.no_grad():
        logps = sequence_logprobs(reference.eval(), DPOObjective(PAD).collate(rows))
    for i, row in enumerate(rows):
        row["ref_chosen_logps"], row["ref_rejected_logps"] = logps[2 * i].item(), logps[2 * i + 1].item()
    return rows


def trainer_of(
    folder: Path,
    output: Path,
    rows: list[dict[str, Any]],
    objective: Any = None,
    model: Any = None,
    eval_rows: list[dict[str, Any]] | None = None,
    max_tokens: int | None = None,
    callbacks: Sequence[Any] = (),
    **overrides: Any,
) -> ObjectiveTrainer:
    """`overrides`: keys of the trainer, also those that a recipe may not set."""
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1,
    }
    arguments = training_arguments(str(output), 0, {}, {**defaults, **overrides})
    return ObjectiveTrainer(
        objective or DPOObjective(PAD),
        model or policy(folder),
        arguments,
        rows,
        eval_rows,
        callbacks,
        max_tokens_per_forward=max_tokens,
    )


def gradient_of_first_step(trainer: ObjectiveTrainer) -> dict[str, torch.Tensor]:
    """Gradients as the optimizer sees them, before clipping."""
    from transformers import TrainerCallback

    kept: dict[str, torch.Tensor] = {}

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            kept.update({n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None and not kept})

    trainer.args.max_grad_norm = 0.0
    trainer.add_callback(Keep())
    trainer.train()
    return kept
