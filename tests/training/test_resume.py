"""A run killed with SIGKILL and resumed ends bit for bit where one that was not killed ends."""

import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked

from alignment.training.checkpoints import last_complete_checkpoint

# peft reads an attribute that transformers renamed
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SCRIPT = Path(__file__).with_name("killable_run.py")


def start_to_be_killed(*words: object) -> Forked:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
    }
    return Forked((str(SCRIPT), *map(str, words)), SCRIPT.parent, environment)


def run_to_the_end(model: Path, folder: Path, kind: str) -> tuple[dict[str, torch.Tensor], Any, int | None]:
    """Final weights, the trainer's state, and the step training started from (None: it did not start)."""
    spec = importlib.util.spec_from_file_location("killable_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    killable_run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(killable_run)
    threads = torch.get_num_threads()
    try:
        trainer = killable_run.trainer_of(model, folder, kind)
        checkpoint = last_complete_checkpoint(folder)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        torch.set_num_threads(threads)
    return trainer.model.state_dict(), trainer.state, getattr(trainer, "_initial_global_step", None)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "kill_where", "kill_at", "left", "resumes_at"),
    [
        ("full", "saving", 10, {"checkpoint-8", "checkpoint-10"}, 8),  # inside an epoch; 10 is half-written
        ("lora", "training", 11, {"checkpoint-10"}, 10),  # between two epochs
        ("stopping", "saving", 8, {"checkpoint-2", "checkpoint-6", "checkpoint-8"}, 6),  # the step it stops at
        ("stopping", "after", 0, {"checkpoint-2", "checkpoint-8"}, None),  # stopped, and nothing done with it yet
    ],
)
def test_a_killed_run_resumes_bit_for_bit(
    tiny_model_dir: Path,
    tmp_path: Path,
    kind: str,
    kill_where: str,
    kill_at: int,
    left: set[str],
    resumes_at: int | None,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start_to_be_killed(tiny_model_dir, killed, kind, kill_where, kill_at)
    expected, state, began = run_to_the_end(tiny_model_dir, whole, kind)
    assert began == 0
    _, output = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output[-3000:]
    assert {path.name for path in killed.glob("checkpoint-*")} == left

    found, resumed, began = run_to_the_end(tiny_model_dir, killed, kind)
    assert began == resumes_at
    for name in ("global_step", "best_global_step", "best_metric"):
        assert getattr(resumed, name) == getattr(state, name), name
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.equal(found[name]), name
    assert log_of(killed) == log_of(whole)
    steps = [(row["step"], row["split"]) for row in log_of(whole)]
    if kind == "stopping":
        assert steps == [
            (1, "train"), (2, "eval"), (3, "train"), (4, "eval"), (6, "train"), (6, "eval"), (8, "eval")
        ]  # fmt: skip
        assert (state.global_step, state.best_global_step, state.max_steps) == (8, 2, 15)
        return
    assert steps == [
        (1, "train"), (3, "train"), (5, "eval"), (6, "train"), (9, "train"), (10, "eval"),
        (12, "train"), (15, "train"), (15, "eval"),
    ]  # fmt: skip
