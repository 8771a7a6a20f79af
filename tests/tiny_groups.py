"""RLOO's and GRPO's trainer on a tiny model and two prompts, with scores given in advance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignment.lora import LoraSettings, add_lora
from alignment.runtime import quiet
from alignment.scorers import CheckedScorer, Scored
from alignment.stages import trl_on_policy
from alignment.stages.prompts import PromptRow
from alignment.stages.trl_trainer import OnPolicyTrainer
from alignment.training.arguments import training_arguments
from alignment.training.prefix_sharing import share_prefixes

KINDS = ["rloo", "grpo"]
SCORES = [1.0, 0.0, 0.0, 3.0, 2.0, 2.0, 2.0, 2.0]


class Given(CheckedScorer):
    """Scores given in advance, and what was asked."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = np.asarray(scores, dtype=np.float32)
        self.asked: tuple[list[str], list[Any], list[str]] = ([], [], [])

    def score(self, ids: Sequence[str], prompts: Sequence[Any], responses: Sequence[str]) -> Scored:
        self.asked = list(ids), list(prompts), list(responses)
        return Scored(self.scores[: len(ids)], {"given": self.scores[: len(ids)]}, None)


MESSAGES = (
    [{"role": "user", "content": "hi there"}],
    [{"role": "system", "content": "be nice"}, {"role": "user", "content": "why? <|im_end|>"}],
)


def trainer_of(
    kind: str,
    model_dir: Path,
    folder: Path,
    scorer: CheckedScorer,
    *,
    peft: bool = True,
    reference: Any = None,
    share: bool = True,
    **own: Any,
) -> tuple[Any, list[PromptRow]]:
    """The trainer, and its prompts; `own` are settings of TRL."""
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, base = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}[kind]
    trainer: Any = type("Trainer", (OnPolicyTrainer, base), {})
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    if share:
        share_prefixes(model)
    torch.manual_seed(0)
    policy = add_lora(model, LoraSettings(r=4)) if peft else model
    rows = [
        PromptRow(f"id-{i}", m, tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False))
        for i, m in enumerate(MESSAGES)
    ]
    settings = {"beta": 0.1, "num_generations": 4, "max_completion_length": 5, "learning_rate": 1e-2} | own
    with quiet():
        args = training_arguments(str(folder), 3, {"bf16": False, "use_cpu": True}, settings, config)
        made = trl_on_policy.Reward(scorer, None, None)
        return trainer(policy, reference, args, made, rows, processing_class=tokenizer), rows


def drawn(trainer: Any, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """Four answers to each prompt, scored, as TRL hands them to the loss."""
    trainer.model.train()
    torch.manual_seed(0)
    with quiet():
        answers: dict[str, Any] = trainer._generate_and_score_completions(
            [{"prompt": row.messages, "id": row.id} for row in rows for _ in range(4)]
        )
    return answers
