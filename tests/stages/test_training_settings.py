"""What every training stage can be told, and what contradicts itself."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignment.errors import RecipeError
from alignment.registry import ModelRegistry
from alignment.runs import RunContext
from alignment.stages import STAGES, dpo, kto, train
from alignment.stages.process_reward import ProcessRewardSettings
from alignment.stages.settings import EarlyStopping, TrainingSettings
from alignment.training.tokens import Truncation

STOP = {"metric": "eval_loss"}


def test_truncation_is_what_tokens_can_do() -> None:
    assert TrainingSettings.model_fields["truncation"].annotation == Truncation
    assert typing.get_args(Truncation) == ("drop", "keep_start", "error")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"early_stopping": STOP}, "early_stopping needs held-out records; set eval_split"),
        ({"trainer": {"eval_strategy": "epoch"}}, "trainer.eval_strategy needs held-out records; set eval_split"),
        ({"trainer": {"eval_steps": 5}}, "trainer.eval_steps needs held-out records; set eval_split"),
        ({"eval_split": "train"}, "eval_split train is not held out: the stage trains on split train"),
        ({"eval_split": "test", "split": "all"}, "eval_split test is not held out: the stage trains on split all"),
        ({"eval_split": "all"}, "'train', 'validation' or 'test'"),
        ({"eval_split": "test", "trainer": {"eval_strategy": False}}, "eval_split is set and .*eval_strategy is no"),
        ({"eval_split": "test", "trainer": {"eval_strategy": "epoch", "eval_steps": 2}}, "eval_steps is set; keep one"),
        (
            {"eval_split": "test", "early_stopping": STOP, "trainer": {"save_steps": 2}},
            "early_stopping saves at every evaluation; leave out trainer.save_steps",
        ),
        ({"eval_split": "test", "early_stopping": {**STOP, "patience": 0}}, "greater than or equal to 1"),
        ({"eval_split": "test", "early_stopping": {**STOP, "min_delta": -1}}, "greater than or equal to 0"),
        ({"eval_split": "test", "early_stopping": {"metric": "loss"}}, "should match pattern"),
        ({"max_tokens_per_forward": 0}, "greater than or equal to 8"),
        ({"truncation": "keep_end"}, "'drop', 'keep_start' or 'error'"),
    ],
)
def test_what_contradicts_itself_is_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(data="prefs", **given)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"num_train_epochs": 0}, "num_train_epochs: must be above 0, not 0"),
        ({"num_train_epochs": -1}, "num_train_epochs: must be above 0, not -1"),
        ({"max_steps": 0}, "max_steps: must be 1 or more, not 0"),
        ({"max_steps": -2}, "max_steps: must be 1 or more, not -2"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: must be 1 or more, not 0"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size: must be 1 or more, not 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: must be 1 or more, not 0"),
        ({"learning_rate": -1}, "learning_rate: must be 0 or more, not -1"),
        ({"weight_decay": -0.1}, "weight_decay: must be 0 or more, not -0.1"),
        ({"adam_epsilon": -1}, "adam_epsilon: must be 0 or more, not -1"),
        ({"max_grad_norm": -1}, "max_grad_norm: must be 0 or more, not -1"),
        ({"adam_beta1": 1}, "adam_beta1: must be 0 or more and below 1, not 1"),
        ({"adam_beta2": -0.5}, "adam_beta2: must be 0 or more and below 1, not -0.5"),
    ],
)
def test_training_that_would_do_nothing_or_fail_later_is_refused(trainer: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=f"^mine.trainer.{words}$"):
        train.check("mine", trainer)


def test_every_training_stage_refuses_to_train_nothing() -> None:
    trainer = {"trainer": {"num_train_epochs": 0}}
    checked = 0
    for stage in STAGES.values():
        if "trainer" in stage.settings.model_fields:
            settings = stage.settings(data="prefs", **trainer)
            with pytest.raises(RecipeError, match=r"^mine.trainer.num_train_epochs: must be above 0, not 0$"):
                stage.check("mine", settings)
            checked += 1
    assert checked >= 8


def test_the_edges_of_what_is_refused() -> None:
    given = {"num_train_epochs": 0.5, "max_steps": -1, "learning_rate": 0, "max_grad_norm": 0, "adam_beta1": 0}
    train.check("mine", given)


def test_to_evaluate_no_more_than_never_is_no_contradiction() -> None:
    assert TrainingSettings(data="prefs", trainer={"eval_strategy": "no"}).eval_split is None


def test_which_way_a_metric_gets_better_is_known_or_said() -> None:
    assert not EarlyStopping(metric="eval_loss").higher
    assert not EarlyStopping(metric="eval_nll_loss").higher
    for name in ("eval_accuracy", "eval_rewards/accuracies", "eval_margin", "eval_rewards/margins"):
        assert EarlyStopping(metric=name).higher
    with pytest.raises(ValidationError, match="say whether eval_kl gets better: higher or lower"):
        EarlyStopping(metric="eval_kl")
    assert EarlyStopping(metric="eval_mean_reward", better="higher").higher
    assert not EarlyStopping(metric="eval_kl", better="lower").higher
    with pytest.raises(ValidationError, match="eval_loss is better when lower; leave `better` out"):
        EarlyStopping(metric="eval_loss", better="higher")


def test_steps_are_never_cut() -> None:
    with pytest.raises(ValidationError, match="truncation keep_start would cut steps; use drop or error"):
        ProcessRewardSettings(data="prefs", truncation="keep_start")


def context(folder: Path) -> RunContext:
    return RunContext(
        run="x", run_dir=folder, folder=folder, stage="dpo", key="k", seed=3, chat_template=None, recipe_digest="d",
        registry=ModelRegistry(folder / "registry"), inputs={}, input_digests={}, data={}, data_digests={}, say=print,
    )  # fmt: skip


def arguments(folder: Path, **given: Any) -> Any:
    given["trainer"] = {"use_cpu": True, **given.get("trainer", {})}
    return train.prepare(context(folder), TrainingSettings(data="prefs", **given), {})


def test_the_settings_become_arguments(tmp_path: Path) -> None:
    plain = arguments(tmp_path)
    assert (plain.eval_strategy, plain.train_sampling_strategy, plain.load_best_model_at_end) == ("no", "random", False)
    looking = arguments(tmp_path, eval_split="test")
    assert (looking.eval_strategy, looking.eval_steps, looking.load_best_model_at_end) == ("steps", 0.25, False)
    often = arguments(tmp_path, eval_split="test", trainer={"eval_steps": "7", "save_steps": 100})
    assert (often.eval_strategy, often.eval_steps, often.save_steps) == ("steps", 7, 100)
    epochs = arguments(tmp_path, eval_split="test", early_stopping=STOP, trainer={"eval_strategy": "epoch"})
    assert (epochs.eval_strategy, epochs.save_strategy) == ("epoch", "epoch")
    stopping = arguments(tmp_path, eval_split="test", early_stopping=STOP, trainer={"eval_steps": 7})
    assert (stopping.eval_steps, stopping.save_strategy, stopping.save_steps) == (7, "steps", 7)
    assert (stopping.metric_for_best_model, stopping.greater_is_better) == ("eval_loss", False)
    assert stopping.load_best_model_at_end
    assert arguments(tmp_path, group_by_length=True).train_sampling_strategy == "group_by_length"


def test_rows_that_need_their_order_cannot_be_grouped() -> None:
    with pytest.raises(RecipeError, match=r"mine.group_by_length: kto reads its rows in the order"):
        kto.check("mine", kto.KTOSettings(data="prefs", group_by_length=True))
    kto.check("mine", kto.KTOSettings(data="prefs", group_by_length=True, loss="apo_zero_unpaired"))


@pytest.mark.parametrize(
    ("stage", "given"),
    [
        (kto, {}),
        (dpo, {"loss": "aot"}),
        (dpo, {"loss": {"sigmoid": 1.0, "sft": 0.1}}),
        (dpo, {"loss": "bco_pair", "loss_options": {"reward_shift": True}}),
    ],
)
def test_a_bound_that_a_loss_on_the_whole_batch_cannot_keep_is_refused(stage: Any, given: dict[str, Any]) -> None:
    kind = kto.KTOSettings if stage is kto else dpo.DPOSettings
    with pytest.raises(RecipeError, match=r"mine.max_tokens_per_forward: .* set share_prefixes: true"):
        stage.check("mine", kind(data="prefs", max_tokens_per_forward=256, share_prefixes=False, **given))
    stage.check("mine", kind(data="prefs", max_tokens_per_forward=256, **given))
    stage.check("mine", kind(data="prefs", share_prefixes=False, **given))


def test_a_loss_of_single_records_is_bounded_padded_too() -> None:
    bounded: dict[str, Any] = {"data": "prefs", "max_tokens_per_forward": 256, "share_prefixes": False}
    dpo.check("mine", dpo.DPOSettings(**bounded))
    kto.check("mine", kto.KTOSettings(**bounded, loss="apo_zero_unpaired"))
