from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.errors import RecipeError
from alignment.training import arguments
from alignment.training.arguments import BESIDE, OWNED, autocast, check_arguments, precision_name, training_arguments


def test_ours_then_the_stages_then_the_recipes(tmp_path: Path) -> None:
    args = training_arguments(
        str(tmp_path),
        7,
        {"learning_rate": "2e-4", "num_train_epochs": 2, "use_cpu": True},
        {"learning_rate": 1e-6, "warmup_ratio": 0.1},
    )
    assert (args.learning_rate, args.num_train_epochs, args.warmup_steps) == (2e-4, 2, 0.1)
    assert (args.seed, args.data_seed, args.output_dir) == (7, 7, str(tmp_path))
    assert (args.remove_unused_columns, args.disable_tqdm, args.report_to) == (False, True, [])
    assert args.gradient_checkpointing is False
    assert not args.dataloader_pin_memory


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("learning_rate", "2e-4", 2e-4),
        ("learning_rate", 1, 1),
        ("per_device_train_batch_size", "8", 8),
        ("per_device_train_batch_size", 8.0, 8),
        ("max_steps", -1, -1),
        ("logging_steps", 10, 10),
        ("bf16", True, True),
        ("bf16", "false", False),
        ("eval_strategy", "epoch", "epoch"),
        ("eval_strategy", False, "no"),  # YAML 1.1 reads a bare `no` as false
        ("lr_scheduler_type", "cosine", "cosine"),
        ("save_total_limit", None, None),
        ("report_to", "tensorboard", "tensorboard"),
        ("report_to", ["tensorboard"], ["tensorboard"]),
        ("lr_scheduler_kwargs", {"a": 1}, {"a": 1}),
        ("run_name", "12", "12"),
    ],
)
def test_values_are_cast_to_the_type_of_the_field(key: str, value: Any, expected: Any) -> None:
    found = check_arguments("dpo", {key: value})[key]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learing_rate": 1e-4}, r"dpo.trainer.learing_rate: no such training argument; nearest: learning_rate"),
        ({"epochs": 3}, "nearest: "),
        ({"output_dir": "x"}, "dpo.trainer.output_dir: not yours to set: the stage's own folder"),
        ({"seed": 1}, "set `seed` at the top"),
        ({"learning_rate": "fast"}, "dpo.trainer.learning_rate: expects float, not 'fast'"),
        ({"learning_rate": True}, "expects float, not True"),
        ({"learning_rate": float("nan")}, "expects float, not nan"),
        ({"learning_rate": None}, "expects float, not None"),
        ({"per_device_train_batch_size": 2.5}, "expects int, not 2.5"),
        ({"bf16": 1}, "expects bool, not 1"),
        ({"save_total_limit": "many"}, "expects int, not 'many'"),
        ({"lr_scheduler_type": "cosin"}, "'cosin' is not one of .*; nearest: cosine"),
        ({"optim": True}, "True is not one of"),
        ({"report_to": 3}, "expects .* not 3"),
        ({"warmup_ratio": 3}, "dpo.trainer.warmup_ratio: a share of all steps, 0 <= ratio < 1, not 3"),
        ({"warmup_ratio": 0.1, "warmup_steps": 3}, "keep one"),
        ({"load_best_model_at_end": True}, "not yours to set: set `early_stopping` beside `trainer`"),
        ({"train_sampling_strategy": "group_by_length"}, "set `group_by_length` beside `trainer` to group them"),
        ({"max_tokens_per_forward": 8}, "a setting of the stage; write it beside `trainer`, not in it"),
        ({"neftune_noise_alpha": 5}, "not tested with this trainer"),
    ],
)
def test_what_cannot_be_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        check_arguments("dpo", overrides)
    assert "\n" not in str(error.value)


def test_values_that_contradict_each_other_are_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"dpo\.trainer: At most one of fp16 and bf16"):
        training_arguments(str(tmp_path), 0, {"fp16": True, "bf16": True, "use_cpu": True}, {}, stage="dpo")


def test_everything_beside_the_trainer_is_a_setting_of_every_training_stage() -> None:
    from alignment.stages.settings import TrainingSettings

    assert set(BESIDE) <= set(TrainingSettings.model_fields)


def test_everything_we_own_is_a_key_of_the_trainer() -> None:
    import dataclasses

    from transformers import TrainingArguments

    assert set(OWNED) <= {field.name for field in dataclasses.fields(TrainingArguments)}
    assert all(reason and not reason.endswith(".") for reason in OWNED.values())


def test_bfloat16_follows_the_hardware_unless_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bf16(**overrides: Any) -> bool:
        return bool(training_arguments(str(tmp_path), 0, {"use_cpu": True, **overrides}, {}).bf16)

    for has in (True, False):
        monkeypatch.setattr(arguments, "autocast_bf16", lambda device, has=has: has)
        assert bf16() is has
        assert bf16(bf16=not has) is not has
        assert bf16(fp16=True) is False


def test_old_names_work_without_a_warning(tmp_path: Path) -> None:
    args = training_arguments(str(tmp_path), 0, {"gradient_checkpointing": True, "use_cpu": True}, {})
    assert args.activation_checkpointing is True


def test_the_arguments_of_trl_are_known_to_its_config(tmp_path: Path) -> None:
    from trl import SFTConfig

    args = training_arguments(
        str(tmp_path), 0, {"use_cpu": True, "packing": "false"}, {"max_length": 64}, kind=SFTConfig, stage="sft"
    )
    assert isinstance(args, SFTConfig)
    assert (args.packing, args.max_length, args.gradient_checkpointing) == (False, 64, False)
    with pytest.raises(RecipeError, match="nearest"):
        check_arguments("dpo", {"packing": False})


def test_precision_outside_the_trainer_is_the_trainers(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    low = training_arguments(str(tmp_path), 0, {"use_cpu": True, "bf16": True}, {})
    high = training_arguments(str(tmp_path), 0, {"use_cpu": True, "bf16": False}, {})
    assert (precision_name(model, low), precision_name(model, high)) == ("float32/bfloat16/cpu", "float32/none/cpu")
    names = set()
    for tf32 in (None, True, False):  # another arithmetic of the same weights on a GPU
        high.tf32 = tf32
        names.add(precision_name(model, high))
    assert names == {"float32/none/cpu", "float32/none/cpu/tf32", "float32/none/cpu/no tf32"}
    high.tf32 = None
    with autocast(low):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast(high):
        assert model(torch.ones(1, 2)).dtype == torch.float32
