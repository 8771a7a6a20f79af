"""What a PPO run logs: every name, and by hand what can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainerCallback

from alignment.training.ppo_batch import Sampled
from tests.tiny_ppo import Said, trainer_of

NAMES = {
    "objective/kl_k3",
    *("objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores"),
    *("policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg", "loss/value_avg"),
    *("val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr", "episode"),  # so far TRL's
    *(
        "objective/kl_coef",
        "objective/response_length",
        "objective/eos_rate",
        "objective/empty_rate",
        "val/explained_variance",
        "epoch",
    ),
    *("policy/updates", "policy/stopped_early", "objective/score_spread"),
    *("objective/scores/length", "objective/scores/watched"),
}
PENALTY = 2.5


class Logs(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.rows.append(dict(logs))


def length(ids: Any, prompts: Any, answers: Any) -> Said:
    scores = np.array([len(answer) for answer in answers], dtype=np.float32)
    return Said(scores, {"length": scores}, np.full(len(answers), 0.5, dtype=np.float32))


def watched(ids: Any, prompts: Any, answers: Any) -> Said:
    scores = np.array([answer.count("e") for answer in answers], dtype=np.float32)
    return Said(scores, {"watched": scores}, None)


def logged(model: Path, output: Path, **options: Any) -> tuple[list[dict[str, float]], list[Sampled]]:
    """The log of two steps and the answers they were made of."""
    logs, kept = Logs(), []
    setting = {"steps": 2, "kl_coef": 0.2, "learning_rate": 1e-2, "num_ppo_epochs": 2, "callbacks": [logs]}
    trainer = trainer_of(model, output, len, score=length, max_new_tokens=24, **setting | options)
    trainer._watch = watched
    sample = trainer.sample

    def keep(step: int) -> Sampled:
        kept.append(sample(step))
        return kept[-1]

    trainer.sample = keep  # type: ignore[method-assign]
    trainer.train()
    return logs.rows, kept


def test_every_name_and_what_can_be_counted(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows, steps = logged(tiny_model_dir, tmp_path, missing_eos_penalty=PENALTY)
    assert set(rows[0]) == set(rows[1]) == NAMES | {"objective/raw_scores"}
    assert {sum(answer.finished for answer in step.answers) for step in steps} - {0, 8}  # some end, some are cut off
    for number, (row, step) in enumerate(zip(rows, steps, strict=True), 1):
        ended = [answer.finished for answer in step.answers]
        raw = float(np.mean([len(answer.text) for answer in step.answers]))
        assert row["val/num_eos_tokens"] == sum(ended) == sum(2 in answer.response_ids for answer in step.answers)
        assert row["objective/eos_rate"] == sum(ended) / 8
        assert row["objective/response_length"] == sum(len(answer.response_ids) for answer in step.answers) / 8
        assert row["objective/entropy"] == pytest.approx(-sum(sum(answer.logps) for answer in step.answers) / 8)
        assert row["objective/raw_scores"] == row["objective/scores/length"] == pytest.approx(raw)
        assert row["objective/scores"] == pytest.approx(raw - PENALTY * (8 - sum(ended)) / 8)
        assert row["objective/non_score_reward"] == pytest.approx(-0.2 * row["objective/kl"], abs=1e-6)
        assert row["objective/rlhf_reward"] == pytest.approx(
            row["objective/scores"] - 0.2 * row["objective/kl"], abs=1e-5
        )
        assert row["objective/scores/watched"] == np.mean([answer.text.count("e") for answer in step.answers])
        assert row["objective/score_spread"] == 0.5
        assert row["objective/kl_coef"] == 0.2
        assert (row["episode"], row["epoch"]) == (8 * number, number)
        assert (row["policy/updates"], row["policy/stopped_early"], row["lr"]) == (2, 0, 1e-2)
    assert abs(rows[1]["objective/kl"]) > 1e-4
    assert 0 <= rows[0]["objective/kl_k3"] < 1e-9
    assert rows[1]["objective/kl_k3"] > 1e-4


def test_without_a_penalty_the_score_is_told_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows, _ = logged(tiny_model_dir, tmp_path)
    assert set(rows[0]) == NAMES
    assert all(row["objective/scores"] == row["objective/scores/length"] for row in rows)
