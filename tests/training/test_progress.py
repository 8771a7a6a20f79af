import json
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import StorageError
from alignment.training.progress import ProgressLog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Session:
    """Drives a ProgressLog the way the Trainer does."""

    def __init__(self, path: Path, step: int = 0, total: int = 75, every: float = 5.0) -> None:
        from transformers import TrainerControl, TrainerState, TrainingArguments

        self.said: list[str] = []
        self.clock = Clock()
        self.log = ProgressLog("dpo", path, self.said.append, every, self.clock)
        self.args = TrainingArguments(output_dir=str(path.parent), use_cpu=True)
        self.state = TrainerState(global_step=step, max_steps=total)
        self.control = TrainerControl()
        self.log.on_train_begin(self.args, self.state, self.control)

    def step(self, logs: dict[str, Any] | None = None, seconds: float = 1.0) -> None:
        self.clock.now += seconds
        self.state.global_step += 1
        self.log.on_step_end(self.args, self.state, self.control)
        if logs is not None:
            self.put(logs)

    def put(self, logs: dict[str, Any]) -> None:
        self.log.on_log(self.args, self.state, self.control, logs={"epoch": self.state.global_step / 10, **logs})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


DPO = {"loss": 0.653, "grad_norm": 1.5, "rewards/margins": 0.11, "rewards/accuracies": 0.62}


def test_a_line_a_human_can_read(tmp_path: Path) -> None:
    session = Session(tmp_path / "train_log.jsonl", every=10.0)
    session.step(DPO)
    assert session.said == ["dpo  1/75  loss 0.653  margin 0.11  acc 0.62  eta 1:14"]
    for _ in range(11):
        session.step(DPO)
    assert session.said[1:] == ["dpo  11/75  loss 0.653  margin 0.11  acc 0.62  eta 1:04"]
    session.put({"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_runtime": 3.0})
    assert session.said[-1] == "dpo  12/75  held out: loss 0.5  acc 0.75"


def test_the_last_step_is_always_logged_and_said(tmp_path: Path) -> None:
    session = Session(tmp_path / "train_log.jsonl", total=3)
    session.step({"loss": 1.0})
    session.step()
    assert not session.control.should_log
    session.step()
    assert session.control.should_log
    session.put({"loss": 0.25})
    assert session.said[-1] == "dpo  3/3  loss 0.25"
    session.put({"train_runtime": 3.0, "train_loss": 0.6})  # the Trainer's summary is no step
    assert [row["step"] for row in read(tmp_path / "train_log.jsonl")] == [1, 3]


def test_long_times_have_hours(tmp_path: Path) -> None:
    session = Session(tmp_path / "train_log.jsonl")
    session.step({"loss": 1.0}, seconds=100)
    assert session.said[-1].endswith("eta 2:03:20")


def test_rows_have_step_epoch_split_and_trl_names(tmp_path: Path) -> None:
    session = Session(tmp_path / "deep" / "train_log.jsonl")
    session.step(DPO)
    session.put({"eval_loss": 0.5, "eval_rewards/margins": float("nan"), "eval_runtime": 1.0})
    assert read(tmp_path / "deep" / "train_log.jsonl") == [
        {"step": 1, "epoch": 0.1, "split": "train", **DPO},
        {"step": 1, "epoch": 0.1, "split": "eval", "loss": 0.5, "rewards/margins": None},
    ]


def test_resuming_cuts_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "train_log.jsonl"
    first = Session(path)
    for _ in range(5):
        first.step({"loss": 1.0})
    first.put({"eval_loss": 2.0})
    with path.open("a") as stream:
        stream.write('{"step": 6, "epo')  # killed in the middle of a line
    second = Session(path, step=3)
    assert [row["step"] for row in read(path)] == [1, 2, 3]
    second.put({"loss": 9.0})  # a step never appears twice
    second.step({"loss": 0.5})
    assert [(row["step"], row["loss"]) for row in read(path)] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5)]
    Session(path)  # a fresh start keeps nothing
    assert read(path) == []


def test_a_log_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "train_log.jsonl").mkdir()
    with pytest.raises(StorageError, match="train_log"):
        Session(tmp_path / "train_log.jsonl")
