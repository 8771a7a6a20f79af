"""A training run in a process of its own, which can kill itself: `killable_run.py MODEL FOLDER KIND WHERE STEP`.

STEP is the optimizer step, WHERE is `training`, `saving`, or `after` (the end of training). KIND is `full`, `lora`, or
`stopping`: early stopping, with grouped lengths and bounded forward passes.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch


def rows() -> list[dict[str, Any]]:
    from alignment.training.tokens import Encoded

    generator = torch.Generator().manual_seed(0)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return [int(t) for t in torch.randint(3, 250, (length,), generator=generator)]

    made: list[dict[str, Any]] = []
    for i in range(18):
        prompt, answers = tokens(2, 5), [tokens(1, 8), tokens(1, 8)]
        chosen, rejected = (Encoded(prompt, answer, [1] * len(answer)) for answer in answers)
        made.append({"id": str(i), "chosen": chosen, "rejected": rejected, "weight": 1.0 + i % 3})
    return made


def trainer_of(model_dir: str, folder: Path, kind: str, kill_where: str = "", kill_at: int = 0) -> Any:
    """15 optimizer steps, 5 to an epoch; saved every 2, logged every 3, evaluated every 5."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, TrainerCallback

    from alignment.training.arguments import training_arguments
    from alignment.training.objectives.pairs import DPOObjective
    from alignment.training.progress import ProgressLog
    from alignment.training.reference import reference_logprobs
    from alignment.training.stopping import EarlyStop
    from alignment.training.trainer import ObjectiveTrainer

    torch.set_num_threads(1)
    model, data = AutoModelForCausalLM.from_pretrained(model_dir), rows()
    for name in ("chosen", "rejected"):
        logps = reference_logprobs(model, [row[name] for row in data], pad_id=2, batch_size=4)
        for row, logp in zip(data, logps.tolist(), strict=True):
            row[f"ref_{name}_logps"] = logp
    if kind == "lora":
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1))

    class Killer(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if kill_where == "training" and state.global_step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    class Run(ObjectiveTrainer):
        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            if kill_where == "saving" and self.state.global_step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)  # the weights are written, the optimizer is not
            super()._save_optimizer_and_scheduler(output_dir)

    settings = {
        "use_cpu": True,
        "bf16": False,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "logging_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 2,
        "save_total_limit": 1,
    }
    held_out, callbacks = data[:5], [ProgressLog("dpo", folder / "train_log.jsonl", print, every=0.0), Killer()]
    if kind == "stopping":  # what is learned is wrong of the held-out pairs, so the first evaluation is the best
        pairs = {"chosen": "rejected", "rejected": "chosen"}
        names = pairs | {f"ref_{a}_logps": f"ref_{b}_logps" for a, b in pairs.items()}
        held_out = [{name: row[names.get(name, name)] for name in row} for row in held_out]
        stop = EarlyStop("eval_loss", higher=False, patience=3)
        callbacks.append(stop.callback())
        settings |= stop.arguments() | {"train_sampling_strategy": "group_by_length", "eval_steps": 2}
    return Run(
        DPOObjective(2),
        model,
        training_arguments(str(folder), 3, {}, settings),
        data,
        held_out,
        callbacks=callbacks,
        max_tokens_per_forward=30 if kind == "stopping" else None,
    )


if __name__ == "__main__":
    trainer_of(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])).train()
    if sys.argv[4] == "after":
        os.kill(os.getpid(), signal.SIGKILL)
