"""One rank of a two-process run on the CPU: `two_processes.py MODEL FOLDER`, with torchrun's environment variables."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch


def run(model_dir: str, folder: Path, batch_size: int, shared: bool = False) -> dict[str, Any]:
    """Gradients of the first step, its log, and an evaluation of 7 uneven rows; shared: in small passes.

    With two processes these are not equally many on both, and each of them runs its trunk in parts as well.
    """
    from transformers import AutoModelForCausalLM, TrainerCallback

    from alignment.training.arguments import training_arguments
    from alignment.training.objectives.pairs import DPOObjective
    from alignment.training.prefix_sharing import share_prefixes
    from alignment.training.reference import reference_logprobs
    from alignment.training.tokens import Encoded
    from alignment.training.trainer import ObjectiveTrainer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    if shared:
        share_prefixes(model, max_tokens_per_forward=6)
    rows: list[dict[str, Any]] = []
    for i in range(8):
        longer = [50 + i] * (i % 4)
        chosen = Encoded([5 + i], [9, 30 + i, *longer], [1] * (2 + len(longer)))
        rejected = Encoded([5 + i], [40 + i], [1])
        rows.append({"id": str(i), "chosen": chosen, "rejected": rejected, "weight": 1.0 + i % 3})
    for name in ("chosen", "rejected"):
        logps = reference_logprobs(model, [row[name] for row in rows], pad_id=2, batch_size=8)
        for row, logp in zip(rows, logps.tolist(), strict=True):
            row[f"ref_{name}_logps"] = logp
    gradients: dict[str, torch.Tensor] = {}

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            gradients.update({name: weight.grad.clone() for name, weight in model.named_parameters()})

    settings = {
        "use_cpu": True,
        "ddp_backend": "gloo" if "WORLD_SIZE" in os.environ else None,
        "bf16": False,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "save_steps": 1,
    }
    passes: list[int] = []

    class Counting(DPOObjective):
        def loss(self, model: Any, batch: Any) -> Any:
            passes.append(len(batch["ids"]))
            return super().loss(model, batch)

    trainer = ObjectiveTrainer(
        Counting(2),
        model,
        training_arguments(str(folder), 0, {}, settings),
        rows,
        rows[:7],
        callbacks=[Keep()],
        max_tokens_per_forward=10 if shared else None,
    )
    trainer.train()
    steps = len(passes)
    evaluation = trainer.evaluate()
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    timings = ("runtime", "per_second", "preparation")
    return {
        "gradients": gradients,
        # at the start all margins are 0 up to rounding, so which of them count as ties is chance
        "log": {name: value for name, value in logged.items() if name not in ("grad_norm", "rewards/accuracies")},
        "evaluation": {k: v for k, v in evaluation.items() if not any(t in k for t in timings)},
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*/COMPLETE")),
        "rank": trainer.args.process_index,
        "passes": steps,
    }


def rows_read(model_dir: Path, folder: Path, checkpoint: str | None = None) -> list[list[str]]:
    """Ids of the batches this process trains on in 3 epochs of 3 steps, or from a checkpoint on."""
    from tiny_trainer import PAD, pair_rows, policy, trainer_of

    from alignment.training.objectives.pairs import DPOObjective

    read: list[list[str]] = []

    class Reading(DPOObjective):
        def loss(self, model: Any, batch: Any) -> Any:
            read.append(batch["ids"])
            return super().loss(model, batch)

    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1,
        "ddp_backend": "gloo",
    }  # fmt: skip
    rows = pair_rows(12, policy(model_dir))
    trainer_of(model_dir, folder, rows, Reading(PAD), **settings).train(resume_from_checkpoint=checkpoint)
    return read


if __name__ == "__main__":
    found = run(sys.argv[1], Path(sys.argv[2]), batch_size=2, shared=True)
    print(f"passes {found['passes']}")
    if found["rank"] == 0:
        torch.save(found.pop("gradients"), Path(sys.argv[2]) / "gradients.pt")
        (Path(sys.argv[2]) / "found.json").write_text(json.dumps(found))
    model, folder = Path(sys.argv[1]), Path(sys.argv[2]) / "resumed"
    whole = rows_read(model, folder)
    print(f"resumed {rows_read(model, folder, str(folder / 'checkpoint-5')) == whole[5:]}")
    torch.distributed.destroy_process_group()
