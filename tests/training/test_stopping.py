"""Early stopping keeps the best step and says why it ended; training that is over is never taken further."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainer import pair_rows, policy, trainer_of

from alignment.errors import AlignmentError, RecipeError
from alignment.training.checkpoints import discard_checkpoints, last_complete_checkpoint
from alignment.training.stopping import EarlyStop

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LOSS = EarlyStop("eval_loss", higher=False, patience=2)


def swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same pairs the wrong way round: the better the rows are learned, the worse these."""
    names = {"chosen": "rejected", "ref_chosen_logps": "ref_rejected_logps"}
    names |= {b: a for a, b in names.items()}
    return [{name: row[names.get(name, name)] for name in row} for row in rows]


def stopping_trainer(folder: Path, output: Path, stop: EarlyStop = LOSS, wrong: bool = True, **changes: Any) -> Any:
    """12 steps in all, evaluated and saved at every second one; `wrong` held-out pairs get worse at once."""
    rows = pair_rows(8, policy(folder))
    settings = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1,
        "num_train_epochs": 3, "per_device_train_batch_size": 2, "learning_rate": 3e-3,
    }  # fmt: skip
    return trainer_of(
        folder,
        output,
        rows,
        eval_rows=swapped(rows) if wrong else rows,
        callbacks=[stop.callback()],
        **{**settings, **stop.arguments(), **changes},
    )


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].equal(value), name


def test_the_best_steps_weights_stay_in_the_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    stopped = stopping_trainer(tiny_model_dir, tmp_path / "stopped")
    stopped.train()
    assert (stopped.state.global_step, stopped.state.best_global_step) == (6, 2)
    best = f"{stopped.state.best_metric:.4g}"
    assert LOSS.outcome(stopped.state) == (
        f"kept step 2: eval_loss {best} is the best of 3 evaluations; training stopped at step 6 of 12, because 2 "
        "evaluations in a row were no better"
    )
    short = stopping_trainer(tiny_model_dir, tmp_path / "short", max_steps=2)
    short.train()
    assert_same(weights(stopped), weights(short))


def test_what_keeps_getting_better_trains_to_its_end(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = stopping_trainer(tiny_model_dir, tmp_path, wrong=False)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_global_step) == (12, 12)
    assert LOSS.outcome(trainer.state).endswith("is the best of 6 evaluations; training went on to its end at step 12")


def test_better_by_less_than_min_delta_is_no_better_but_still_the_best(tiny_model_dir: Path, tmp_path: Path) -> None:
    stop = EarlyStop("eval_rewards/margins", higher=True, patience=1, min_delta=10.0)
    trainer = stopping_trainer(tiny_model_dir, tmp_path, stop, wrong=False)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_global_step) == (4, 4)
    assert stop.outcome(trainer.state).endswith(
        "training stopped at step 4 of 12, because an evaluation was no better by more than 10"
    )


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_run_killed_after_it_stopped_takes_no_further_step(
    tiny_model_dir: Path, tmp_path: Path, adapter: bool
) -> None:
    """Also when its folder was moved: the best checkpoint is the one beside it, whatever path the state remembers."""

    def model() -> Any:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        return get_peft_model(policy(tiny_model_dir), LoraConfig(r=4, target_modules="all-linear")) if adapter else None

    first = stopping_trainer(tiny_model_dir, tmp_path / "first", model=model())
    first.train()
    (tmp_path / "first").rename(tmp_path / "moved")
    last = last_complete_checkpoint(tmp_path / "moved")
    assert last == tmp_path / "moved" / "checkpoint-6"
    again = stopping_trainer(tiny_model_dir, tmp_path / "moved", model=model())
    again.train(resume_from_checkpoint=str(last))
    assert (again.state.global_step, again.state.best_global_step) == (6, 2)
    assert LOSS.outcome(again.state) == LOSS.outcome(first.state)
    assert_same(weights(again), weights(first))


def test_a_run_killed_after_its_last_step_takes_no_further_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    """In the middle of an epoch there are batches left, and the Trainer would take one."""
    settings: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 2, "save_strategy": "steps"}
    rows = pair_rows(12, policy(tiny_model_dir))
    first = trainer_of(tiny_model_dir, tmp_path, rows, **settings)
    first.train()
    again = trainer_of(tiny_model_dir, tmp_path, rows, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 3
    assert again.state.log_history == first.state.log_history[: len(again.state.log_history)]
    assert_same(weights(again), weights(first))


def test_a_metric_that_is_not_measured_is_an_error_before_the_first_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = stopping_trainer(tiny_model_dir, tmp_path, EarlyStop("eval_accuracy", higher=True, patience=1))
    with pytest.raises(RecipeError, match=r"metric: eval_accuracy is not measured here; there are: eval_loss, eval_r"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_without_a_best_step_there_is_an_error_not_the_last_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = stopping_trainer(tiny_model_dir, tmp_path)
    with pytest.raises(AlignmentError, match="eval_loss is not defined on the held-out records"):
        trainer._determine_best_metric({"eval_other": 1.0}, None)
    assert not trainer._determine_best_metric({"eval_loss": math.nan}, None)
    with pytest.raises(AlignmentError, match="no evaluation gave a finite eval_loss"):
        trainer.best_checkpoint()
    trainer.state.best_global_step = 4
    with pytest.raises(AlignmentError, match="checkpoint-4: the best checkpoint is gone"):
        trainer.best_checkpoint()


def test_a_folder_half_deleted_holds_no_checkpoint(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = stopping_trainer(tiny_model_dir, tmp_path)
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-6"}
    monkeypatch.setattr("shutil.rmtree", lambda *args, **kwargs: None)  # killed before anything else is deleted
    discard_checkpoints(tmp_path)
    assert last_complete_checkpoint(tmp_path) is None
