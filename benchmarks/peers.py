"""Their side: TRL's stock trainers, fed with the same token ids."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from typing import Any

import samples
import torch
from datasets import Dataset
from peft import LoraConfig
from settings import Settings
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from workload import (
    BETA,
    Workload,
    arguments,
    classifier,
    demonstration_steps,
    frozen,
    labelled_steps,
    policy,
    ranked_steps,
)

from alignment.lora import LoraSettings


class TokenDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer on rows that are token ids already, which it would otherwise make from text."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset


class TokenKTOTrainer(KTOTrainer):  # type: ignore[misc]
    """KTOTrainer on token ids; the mismatched responses come with the rows."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset


def dpo(settings: Settings) -> Workload:
    """DPOTrainer; the reference in each step, or its own precomputed log-probabilities."""
    model, tokenizer = policy(settings)
    sample = samples.pairs(settings, tokenizer)
    each_step = settings.reference == "each_step"
    trainer = TokenDPOTrainer(
        _fast(model),
        ref_model=frozen(model) if each_step and not settings.lora else None,
        args=arguments(settings, DPOConfig, beta=BETA, max_length=None, precompute_ref_log_probs=not each_step),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt_ids": chosen.prompt_ids,
                    "chosen_ids": chosen.completion_ids,
                    "rejected_ids": rejected.completion_ids,
                }
                for chosen, rejected in sample.rows
            ]
        ),
        processing_class=tokenizer,
        peft_config=_lora(settings, "CAUSAL_LM"),
    )
    return Workload(trainer, ranked_steps(settings, sample), True, each_step, sample.passed_over)


def kto(settings: Settings) -> Workload:
    """KTOTrainer; references as in `dpo`."""
    model, tokenizer = policy(settings)
    sample = samples.pairs(settings, tokenizer)
    single = samples.single_responses(settings, sample)
    each_step = settings.reference == "each_step"
    trainer = TokenKTOTrainer(
        _fast(model),
        ref_model=frozen(model) if each_step and not settings.lora else None,
        args=arguments(settings, KTOConfig, beta=BETA, max_length=None, precompute_ref_log_probs=not each_step),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt_ids": one.row.prompt_ids,
                    "completion_ids": one.row.completion_ids,
                    "KL_completion_ids": one.mismatched.completion_ids,
                    "label": one.label,
                }
                for one in single
            ]
        ),
        processing_class=tokenizer,
        peft_config=_lora(settings, "CAUSAL_LM"),
    )
    return Workload(trainer, labelled_steps(settings, single), True, each_step, sample.passed_over)


def reward_pairs(settings: Settings) -> Workload:
    """RewardTrainer on pairs."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.pairs(settings, tokenizer))


def rankings(settings: Settings) -> Workload:
    """RewardTrainer on all pairs of every ranking; a batch holds all pairs of its records."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.rankings(settings, tokenizer))


def scaling(settings: Settings) -> Workload:
    """The same on K responses of random tokens."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.random_tokens(settings, tokenizer))


def sft(settings: Settings) -> Workload:
    """SFTTrainer on the better response of every pair; only the response is learned."""
    model, tokenizer = policy(settings)
    sample = samples.pairs(settings, tokenizer)
    rows = [pair[0] for pair in sample.rows]
    labels = [[token if scored else -100 for token, scored in zip(row.ids, row.mask, strict=True)] for row in rows]
    args = arguments(
        settings,
        SFTConfig,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        padding_free=has_flash_attention(),
    )
    trainer = SFTTrainer(
        _fast(model),
        args=args,
        train_dataset=Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": labels}),
        processing_class=tokenizer,
        peft_config=_lora(settings, "CAUSAL_LM"),
    )
    return Workload(trainer, demonstration_steps(settings, sample), True, passed_over=sample.passed_over)


def has_flash_attention() -> bool:
    """FlashAttention 2, which padding-free training needs."""
    return torch.cuda.is_available() and find_spec("flash_attn") is not None


def _rewards(settings: Settings, model: Any, tokenizer: Any, sample: samples.Sample) -> Workload:
    per_record = [list(itertools.combinations(answers, 2)) for answers in sample.rows]
    rows = [{"chosen_ids": better.ids, "rejected_ids": worse.ids} for record in per_record for better, worse in record]
    trainer = RewardTrainer(
        _fast(model),
        args=arguments(settings, RewardConfig, rows_per_record=len(per_record[0]), max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_lora(settings, "SEQ_CLS"),
    )
    return Workload(trainer, ranked_steps(settings, sample), False, passed_over=sample.passed_over)


def _fast(model: Any) -> Any:
    """The best attention there is: FlashAttention 2 where it is installed, else SDPA."""
    model.set_attn_implementation("flash_attention_2" if has_flash_attention() else "sdpa")
    return model


def _lora(settings: Settings, task: str) -> LoraConfig | None:
    """The adapter of `alignment.lora.add_lora`, by TRL's own way in: a wrapped model would get a second adapter."""
    if not settings.lora:
        return None
    lora = LoraSettings()
    return LoraConfig(
        task_type=task,
        r=lora.r,
        lora_alpha=lora.lora_alpha or 2 * lora.r,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        bias=lora.bias,
    )
