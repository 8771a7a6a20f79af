import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainer import PAD, encoded, gradient_of_first_step, pair_rows, policy, trainer_of
from transformers import TrainingArguments

from alignment.errors import AlignmentError, DataError, StorageError
from alignment.training.checkpoints import MARKER, last_complete_checkpoint
from alignment.training.finite import check_loss
from alignment.training.metrics import Meter, measured_names, term
from alignment.training.objectives.pairs import DPOObjective
from alignment.training.objectives.rewards import RewardObjective


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0, 0.25, 1.0, 2.0, 0.1, 1.0]], ids=["even", "uneven"])
@pytest.mark.parametrize(("micro", "steps"), [(8, 1), (4, 2), (1, 8), (3, 3)])
def test_the_gradient_does_not_depend_on_how_a_batch_is_split(
    tiny_model_dir: Path, tmp_path: Path, weights: list[float] | None, micro: int, steps: int
) -> None:
    rows = pair_rows(8, policy(tiny_model_dir), weights)
    trainer = trainer_of(
        tiny_model_dir, tmp_path, rows, per_device_train_batch_size=micro, gradient_accumulation_steps=steps
    )
    found = gradient_of_first_step(trainer)
    model = policy(tiny_model_dir).train()
    objective = DPOObjective(PAD)
    objective.loss(model, objective.collate(rows)).loss.backward()  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-7, msg=name)
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/accuracies"] == pytest.approx(0.5, abs=0.5)


def test_the_last_smaller_step_weighs_its_own_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    """5 rows as 2+2 | 1: the second step holds one row, and its loss is that row's mean, not half of it."""
    rows = pair_rows(5, policy(tiny_model_dir))
    trainer = trainer_of(
        tiny_model_dir, tmp_path, rows, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=0.0
    )
    trainer.train()
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log] == pytest.approx([math.log(2)] * 2)


def test_rows_beyond_the_context_stop_training_before_it_begins(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = policy(tiny_model_dir)
    rows = pair_rows(3, model)
    longest = max(len(row[side]) for row in rows for side in ("chosen", "rejected"))
    model.config.max_position_embeddings = longest - 1
    with pytest.raises(DataError, match=f"{longest} tokens, but the model reads {longest - 1} at once"):
        trainer_of(tiny_model_dir, tmp_path, rows, model=model)
    model.config.max_position_embeddings = longest
    trainer_of(tiny_model_dir, tmp_path, rows, model=model)


def test_prompts_of_a_reward_model_weigh_the_same_in_any_split(tiny_model_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    start = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    generator = torch.Generator().manual_seed(1)
    rows = [
        {"id": str(k), "responses": [encoded(generator) for _ in range(k)], "wins": torch.ones(k, k).triu(1).numpy()}
        for k in (2, 4, 3, 2)
    ]
    gradients = [
        gradient_of_first_step(
            trainer_of(
                tiny_model_dir,
                tmp_path,
                rows,
                RewardObjective(PAD),
                copy.deepcopy(start),
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=4 // micro,
            )
        )
        for micro in (4, 1)
    ]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_evaluation_is_exact_over_records_not_a_mean_of_batch_means(tiny_model_dir: Path, tmp_path: Path) -> None:
    reference = policy(tiny_model_dir)
    rows = pair_rows(5, reference, weights=[1.0, 0.5, 3.0, 0.25, 2.0])
    torch.manual_seed(0)
    moved = policy(tiny_model_dir)
    with torch.no_grad():
        for weight in moved.parameters():
            weight += 0.05 * torch.randn_like(weight)
    objective = DPOObjective(PAD)
    with torch.no_grad():
        whole = objective.loss(moved.eval(), objective.collate(rows))
    expected = {name: float(whole.sums[name].sum() / whole.counts[name].sum()) for name in whole.sums}
    for size in (4, 2, 5):
        trainer = trainer_of(
            tiny_model_dir, tmp_path, rows, model=moved, eval_rows=rows, per_device_eval_batch_size=size
        )
        found = trainer.evaluate()
        for name, value in expected.items():
            assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-5), (size, name)
        assert trainer.evaluate()["eval_loss"] == found["eval_loss"]  # a second evaluation starts afresh


NLL_LOSSES = ["orpo", "cpo", {"sigmoid": 1.0, "sft": 0.5}]


@pytest.mark.parametrize("loss", NLL_LOSSES, ids=["orpo", "cpo", "sigmoid and sft"])
def test_an_nll_over_tokens_is_exact_whatever_the_evaluation_batch(
    tiny_model_dir: Path, tmp_path: Path, loss: Any
) -> None:
    """Its mean over all tokens is not the mean of its means over the batches' tokens."""
    rows = pair_rows(5, policy(tiny_model_dir), weights=[1.0, 0.5, 3.0, 0.25, 2.0])
    objective, model = DPOObjective(PAD, loss_type=loss), policy(tiny_model_dir)
    with torch.no_grad():
        whole = objective.loss(model.eval(), objective.collate(rows)).loss.item()
        alone = [objective.loss(model, objective.collate([row])).loss.item() * row["weight"] for row in rows]
    assert sum(alone) / 6.75 != pytest.approx(whole, rel=1e-3)
    found = {
        size: trainer_of(
            tiny_model_dir, tmp_path, rows, objective, model, eval_rows=rows, per_device_eval_batch_size=size
        ).evaluate()
        for size in (1, 2, 4, 5)
    }
    for size, metrics in found.items():
        assert metrics["eval_loss"] == pytest.approx(whole, rel=1e-6), size
        assert not any("+" in name for name in metrics)
        for name in metrics.keys() & {f"eval_losses/{name}" for name in objective.losses}:
            assert metrics[name] == pytest.approx(found[5][name], rel=1e-6), (size, name)


@pytest.mark.parametrize("loss", NLL_LOSSES, ids=["orpo", "cpo", "sigmoid and sft"])
def test_an_nll_over_tokens_is_exact_over_the_steps_of_a_log(tiny_model_dir: Path, tmp_path: Path, loss: Any) -> None:
    rows = pair_rows(5, policy(tiny_model_dir))
    objective = DPOObjective(PAD, loss_type=loss)
    trainer = trainer_of(
        tiny_model_dir,
        tmp_path,
        rows,
        objective,
        per_device_train_batch_size=2,
        learning_rate=0.0,
        logging_steps=3,
        logging_first_step=False,
    )
    trainer.train()
    with torch.no_grad():
        whole = objective.loss(policy(tiny_model_dir), objective.collate(rows)).loss.item()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(whole, rel=1e-6)


def test_a_training_log_covers_every_record_since_the_last_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    """7 rows in batches of 3, logged once: the ratio is over 7 rows, not over 3 batches."""
    rows = pair_rows(7, policy(tiny_model_dir))
    for i, row in enumerate(rows):
        row["ref_chosen_logps"] += 5e-5 * (i - 2.5)  # no two rows alike, and no margin that rounding decides
    trainer = trainer_of(
        tiny_model_dir, tmp_path, rows, per_device_train_batch_size=3, learning_rate=0.0, logging_steps=3
    )
    trainer.args.logging_first_step = False
    trainer.train()
    log = trainer.state.log_history[0]
    objective = DPOObjective(PAD)
    with torch.no_grad():
        whole = objective.loss(policy(tiny_model_dir).train(), objective.collate(rows))
    for name in whole.sums:
        assert log[name] == pytest.approx(float(whole.sums[name].sum() / 7), rel=1e-5, abs=1e-7), name


def test_autocast_reaches_the_trunk(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = pair_rows(4, policy(tiny_model_dir))
    trainer = trainer_of(tiny_model_dir, tmp_path, rows, bf16=True)
    seen: set[torch.dtype] = set()
    trainer.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    trainer.train()
    assert seen == {torch.bfloat16}


def test_a_loss_that_is_not_finite_names_step_and_records(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = pair_rows(6, policy(tiny_model_dir))
    trainer = trainer_of(tiny_model_dir, tmp_path, rows, per_device_train_batch_size=6)
    trainer._start_checked = True
    rows[3]["ref_rejected_logps"] = rows[5]["ref_chosen_logps"] = float("nan")
    with pytest.raises(AlignmentError, match=r"step 1: the loss is not finite for record pair-[35], pair-[35]; lower"):
        trainer.train()


def test_an_nll_that_is_not_finite_is_a_loss_that_is_not() -> None:
    ones, nll = torch.ones(2), torch.tensor([1.0, math.inf])
    check_loss({"loss": ones, "loss+sft": ones, "nll_loss": nll}, ["a", "b"], 3)
    with pytest.raises(AlignmentError, match="step 3: the loss is not finite for record b; lower"):
        check_loss({"loss": ones, "loss+sft": nll}, ["a", "b"], 3)


@pytest.mark.parametrize("clipped", [1.0, 0.0], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_stepped_on(
    tiny_model_dir: Path, tmp_path: Path, value: float, clipped: float
) -> None:
    """A backward pass can overflow where the forward pass did not."""
    rows, model = pair_rows(8, policy(tiny_model_dir)), policy(tiny_model_dir)
    trainer = trainer_of(tiny_model_dir, tmp_path, rows, model=model, max_grad_norm=clipped)
    weights: list[torch.Tensor] = []

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.state.global_step == 0:
            return gradient
        weights[:] = [weight.detach().clone() for weight in model.parameters()]
        return gradient.masked_fill(torch.ones_like(gradient).bool(), value)

    next(model.parameters()).register_hook(overflow)
    with pytest.raises(
        AlignmentError, match=r"step 2: the gradient is not finite \(norm (nan|inf)\), though the loss is"
    ):
        trainer.train()
    assert weights
    for weight, before in zip(model.parameters(), weights, strict=True):
        assert weight.equal(before)


def test_the_scaler_of_fp16_may_skip_a_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model_dir, tmp_path, pair_rows(2, policy(tiny_model_dir)))
    with pytest.raises(AlignmentError, match="not finite"):
        trainer._get_grad_norm(trainer.model, math.inf)
    trainer.args.fp16 = True
    assert trainer._get_grad_norm(trainer.model, math.inf) == math.inf


def test_rows_that_processes_would_read_twice_are_refused(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda args: 2))
    trainer = trainer_of(tiny_model_dir, tmp_path, pair_rows(7, policy(tiny_model_dir)), per_device_train_batch_size=2)
    with pytest.raises(AlignmentError, match="7 rows for 2 processes that read 2 at a time: 3 are left over"):
        trainer.train()


def test_training_does_not_start_from_another_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = pair_rows(4, policy(tiny_model_dir))
    for row in rows:
        row["ref_chosen_logps"] -= 3.0
    with pytest.raises(AlignmentError, match="the reference is not the starting policy"):
        trainer_of(tiny_model_dir, tmp_path, rows).train()


def test_a_row_without_a_column_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = pair_rows(2, policy(tiny_model_dir))
    del rows[1]["weight"]
    with pytest.raises(ValueError, match="row pair-1 has no weight"):
        trainer_of(tiny_model_dir, tmp_path, rows)


@pytest.mark.parametrize("where", ["model", "optimizer", "state"])
def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoint(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from safetensors import SafetensorError

    rows = pair_rows(8, policy(tiny_model_dir))
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer = trainer_of(tiny_model_dir, tmp_path, rows, **saving)
    errors = {
        "model": (
            "save_model",
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ),
        "optimizer": (
            "_save_optimizer_and_scheduler",
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        ),
        "state": ("_save_rng_state", OSError(28, "No space left on device")),
    }
    name, error = errors[where]
    original = getattr(trainer, name)

    def fail_at_step_2(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        if trainer.state.global_step == 2:
            raise error

    monkeypatch.setattr(trainer, name, fail_at_step_2)
    with pytest.raises(StorageError, match=r"checkpoint-2: .*(?i:no space)"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


def test_an_error_that_is_no_full_disk_is_not_called_one(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pair_rows(4, policy(tiny_model_dir))
    trainer = trainer_of(tiny_model_dir, tmp_path, rows, save_strategy="steps", save_steps=1)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda _folder: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        trainer.train()


def test_checkpoints_are_marked_rotated_and_cleaned(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = pair_rows(8, policy(tiny_model_dir))
    trainer_of(
        tiny_model_dir,
        tmp_path,
        rows,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
    ).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    (tmp_path / "checkpoint-10").mkdir()  # half-written by a killed process
    (tmp_path / "checkpoint-10" / "model.safetensors").touch()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-10").exists()
    (tmp_path / "checkpoint-4" / MARKER).unlink()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_checkpoints_sort_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_a_metric_of_several_terms_is_the_sum_of_their_ratios() -> None:
    meter = Meter()
    loss, nll = term("loss", "sft"), term("losses/sft", "nll")
    meter.add(
        {"loss": torch.tensor([1.0, 2.0]), loss: torch.tensor([3.0, 5.0]), nll: torch.ones(2), "b": torch.ones(2)},
        {"loss": torch.ones(2), loss: torch.tensor([4.0, 12.0]), nll: torch.ones(2), "b": torch.ones(2)},
    )
    assert meter.ratios() == {"loss": 1.5 + 0.5, "losses/sft": 1.0, "b": 1.0}
    assert measured_names(["loss", loss, nll]) == ["loss", "losses/sft"]
    meter.clear()
    meter.add({"loss": torch.ones(1), loss: torch.zeros(1)}, {"loss": torch.ones(1), loss: torch.zeros(1)})
    assert meter.ratios() == {}  # one of its terms is undefined, and so is the sum


def test_a_meter_is_exact_and_survives_json() -> None:
    meter = Meter()
    meter.add(
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0, 0.0])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2)},
    )
    meter.add({"a": torch.tensor([0.1]), "b": torch.tensor([0.0])}, {"a": torch.tensor([1.0]), "b": torch.zeros(1)})
    assert meter.ratios() == {"a": (3.0 + float(torch.tensor(0.1).double())) / 4}
    again = Meter()
    again.load(json.loads(json.dumps(meter.state())))
    assert again.ratios() == meter.ratios()
    meter.clear()
    assert meter.ratios() == {}
