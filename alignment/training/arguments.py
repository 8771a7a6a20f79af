"""A recipe's `trainer:` keys -> TrainingArguments, under their Hugging Face names; ours are refused, saying why."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from alignment.errors import RecipeError
from alignment.runtime import autocast_bf16
from alignment.training.optimizers import check_optimizer, check_schedule

_NO_COMPILE = "trunk and head are called separately, so compiling the whole model changes nothing"
_UNTESTED = "not tested with this trainer"
_NO_EFFECT = "it would have no effect on this trainer"
_STAGE = "the stage decides"
_BEST = "set `early_stopping` beside `trainer`"

OWNED: dict[str, str] = {
    "output_dir": "the stage's own folder is used",
    "seed": "set `seed` at the top of the recipe",
    "remove_unused_columns": "rows are batched by the stage itself",
    "disable_tqdm": "progress is one line of text, also written to train_log.jsonl",
    "resume_from_checkpoint": "a stage always resumes from its last whole checkpoint",
    "ignore_data_skip": "a resumed run must see the same rows",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed; use save_strategy: no to save none",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "label_smoothing_factor": "label smoothing is a setting of the stage's loss",
    "label_names": "batches carry no labels",
    "auto_find_batch_size": "it changes the batch size unasked; set per_device_train_batch_size",
    "torch_compile": _NO_COMPILE,
    "torch_compile_backend": _NO_COMPILE,
    "torch_compile_mode": _NO_COMPILE,
    "bf16_full_eval": "evaluation runs in the precision of training",
    "fp16_full_eval": "evaluation runs in the precision of training",
    "train_sampling_strategy": "rows are shuffled by the seed; set `group_by_length` beside `trainer` to group them",
    "length_column_name": "the stage knows how long its rows are",
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "restore_callback_states_from_checkpoint": "a resumed run always goes on where it was",
    "eval_on_start": "a resumed run would evaluate a step twice",
    "eval_use_gather_object": _NO_EFFECT,
    "eval_do_concat_batches": _NO_EFFECT,
    "eval_accumulation_steps": _NO_EFFECT,
    "batch_eval_metrics": _NO_EFFECT,
    "prediction_loss_only": _NO_EFFECT,
    "include_for_metrics": _NO_EFFECT,
    "average_tokens_across_devices": "a step's weight is always summed over processes",
    "use_liger_kernel": _UNTESTED,
    "liger_kernel_config": _UNTESTED,
    "neftune_noise_alpha": _UNTESTED,
    "enable_jit_checkpoint": _UNTESTED,
    "push_to_hub": _UNTESTED,
    "accelerator_config": "data loading must stay reproducible",
    "deepspeed": _UNTESTED,
    "fsdp": _UNTESTED,
    "fsdp_config": _UNTESTED,
    "parallelism_config": _UNTESTED,
    "local_rank": "the launcher sets it",
    "do_train": _STAGE,
    "do_eval": _STAGE,
    "do_predict": _STAGE,
}

# Settings of the stages that people look for here.
BESIDE = ("early_stopping", "eval_split", "group_by_length", "max_length", "max_tokens_per_forward", "truncation")

# Names people have in their fingers -> the name of the installed transformers.
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def training_arguments(
    output_dir: str,
    seed: int,
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any],
    kind: type[TrainingArguments] = TrainingArguments,
    stage: str = "",
) -> Any:
    """The arguments of a stage's trainer, an instance of `kind`.

    Autocast in bfloat16 is chosen where the hardware has it and neither bf16 nor fp16 is given. Activation
    checkpointing is off and nothing is reported to a tracker unless asked for. Shuffling follows `seed`.

    Args:
        output_dir: where checkpoints go.
        seed: seeds shuffling, dropout and new weights.
        overrides: the recipe's `trainer:` keys.
        defaults: the stage's defaults; keys of Hugging Face, and of `kind`.
        kind: TrainingArguments or a subclass, such as TRL's SFTConfig.
        stage: the stage's name, for messages.

    Raises:
        RecipeError: an unknown or owned key, a value of the wrong type, or values that contradict each other.
    """
    own = {"output_dir": output_dir, "seed": seed, "remove_unused_columns": False, "disable_tqdm": True}
    values: dict[str, Any] = {
        "report_to": "none",
        "logging_first_step": True,
        "activation_checkpointing": False,
        "data_seed": seed,
        **_translate(_key(stage), defaults),
        **check_arguments(stage, overrides, kind),
    }
    values.setdefault("use_cpu", not torch.accelerator.is_available())
    device = "cpu" if values["use_cpu"] else "cuda" if torch.cuda.is_available() else "other"
    if not values.get("fp16"):
        values.setdefault("bf16", autocast_bf16(device))
    values.setdefault("dataloader_pin_memory", device == "cuda")
    try:
        args = kind(**values, **own, logging_nan_inf_filter=False)
    except ValueError as error:
        raise RecipeError(f"{_key(stage)}: {' '.join(str(error).split())}") from error
    check_schedule(_key(stage), args)
    return args


def check_arguments(
    stage: str, overrides: Mapping[str, Any], kind: type[TrainingArguments] = TrainingArguments
) -> dict[str, Any]:
    """The keys of a stage's `trainer:`, cast to their types, under the names `kind` knows.

    Raises RecipeError for an unknown key (naming the nearest), for one that is ours, for a value of a wrong type, and
    for an optimizer whose package is not installed.
    """
    where = _key(stage)
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)} - set(OWNED)
    for key in overrides:
        if key in OWNED:
            raise RecipeError(f"{where}.{key}: not yours to set: {OWNED[key]}")
        if key in BESIDE and key not in known:
            raise RecipeError(f"{where}.{key}: a setting of the stage; write it beside `trainer`, not in it")
        if key not in known and key != "warmup_ratio":
            close = difflib.get_close_matches(key, [*known, "warmup_ratio"], n=1, cutoff=0.0)
            raise RecipeError(f"{where}.{key}: no such training argument; nearest: {close[0]}")
    cast = {key: _cast(f"{where}.{key}", value, hints.get(key, float)) for key, value in overrides.items()}
    if "optim" in cast:
        check_optimizer(f"{where}.optim", str(cast["optim"]))
    return _translate(where, cast)


def precision_name(model: Any, args: TrainingArguments) -> str:
    """Weights, autocast, device, and TF32 where it is set, in words: part of the key of what was computed with them."""
    cast = "float16" if args.fp16 else "bfloat16" if args.bf16 else "none"
    tf32 = "" if args.tf32 is None else "/tf32" if args.tf32 else "/no tf32"
    return f"{str(next(model.parameters()).dtype).removeprefix('torch.')}/{cast}/{args.device.type}{tf32}"


def autocast(args: TrainingArguments) -> torch.autocast:
    """A new context in the precision of training, for what runs outside the trainer (reference log-probabilities)."""
    dtype = torch.float16 if args.fp16 else torch.bfloat16
    return torch.autocast(args.device.type, dtype=dtype, enabled=args.bf16 or args.fp16)


def _key(stage: str) -> str:
    return f"{stage}.trainer" if stage else "trainer"


def _translate(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """New names for old ones; `warmup_ratio` is `warmup_steps` below 1 in transformers 5."""
    renamed = {RENAMED.get(key, key): value for key, value in values.items()}
    if "warmup_ratio" in renamed:
        if "warmup_steps" in renamed:
            raise RecipeError(f"{where}: warmup_ratio and warmup_steps both say how long to warm up; keep one")
        ratio = renamed.pop("warmup_ratio")
        if not 0 <= ratio < 1:
            raise RecipeError(f"{where}.warmup_ratio: a share of all steps, 0 <= ratio < 1, not {ratio}")
        renamed["warmup_steps"] = ratio
    return renamed


def _cast(key: str, value: Any, hint: Any) -> Any:
    """`value` as one of the types of the field; a text is read as a number where the field takes no text."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _choice(key, value, [str(member.value) for member in kind])
    for kind in sorted(kinds, key=lambda kind: kind is not str):  # a text stays a text where that is allowed
        found = _as(value, typing.get_origin(kind) or kind)
        if found is not None:
            return found
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not type(None))
    raise RecipeError(f"{key}: expects {names}, not {value!r}")


def _as(value: Any, kind: Any) -> Any:
    """`value` as a `kind`, or None when it is not one. A bool is no number."""
    if kind is bool:
        words = {"true": True, "false": False}
        return value if isinstance(value, bool) else words.get(value.lower()) if isinstance(value, str) else None
    if isinstance(value, bool):
        return None
    if kind in (int, float) and isinstance(value, (int, float, str)):
        try:
            number = float(value)
        except ValueError:
            return None
        if not math.isfinite(number) or (kind is int and not number.is_integer()):
            return None
        return value if isinstance(value, int) else kind(number)
    return value if isinstance(kind, type) and isinstance(value, kind) else None


def _choice(key: str, value: Any, names: list[str]) -> Any:
    text = "no" if value is False else value  # YAML reads a bare `no` as false
    if text not in names:
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)
        raise RecipeError(f"{key}: {value!r} is not one of {', '.join(names)}; nearest: {close[0]}")
    return text
