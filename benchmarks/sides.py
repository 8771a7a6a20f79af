"""Our side: this package's trainer and objectives, on a model that shares prefixes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import samples
import torch
from settings import Settings
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
    seed_everything,
)

from alignment.lora import LoraSettings, add_lora
from alignment.training.arguments import autocast, precision_name
from alignment.training.collate import Batch
from alignment.training.logprobs import sequence_logprobs
from alignment.training.objectives.demonstrations import SFTObjective
from alignment.training.objectives.kto import KTOObjective
from alignment.training.objectives.objective import Measured
from alignment.training.objectives.pairs import DPOObjective
from alignment.training.objectives.rewards import RewardObjective
from alignment.training.prefix_sharing import share_prefixes
from alignment.training.reference import ReferenceCache, reference_logprobs
from alignment.training.tokens import Encoded
from alignment.training.trainer import ObjectiveTrainer


@dataclass(frozen=True)
class DPOReferenceEachStep(DPOObjective):
    """DPO that runs the reference in every step instead of looking its log-probabilities up."""

    reference: Any = None  # a frozen copy of the start; None: the policy with its adapter off

    def loss(self, model: Any, batch: Batch) -> Measured:
        return super().loss(model, self._with_reference(model, batch))

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        super().check_start(model, self._with_reference(model, batch), tolerance)

    def _with_reference(self, model: Any, batch: Batch) -> Batch:
        logps = _reference(self.reference, model, batch)
        return {**batch, "ref_chosen_logps": logps[0::2], "ref_rejected_logps": logps[1::2]}


@dataclass(frozen=True)
class KTOReferenceEachStep(KTOObjective):
    """KTO that runs the reference in every step, for the rows and for the mismatched ones."""

    reference: Any = None  # a frozen copy of the start; None: the policy with its adapter off

    def loss(self, model: Any, batch: Batch) -> Measured:
        return super().loss(model, self._with_reference(model, batch))

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        super().check_start(model, self._with_reference(model, batch), tolerance)

    def _with_reference(self, model: Any, batch: Batch) -> Batch:
        mismatched_rows = {name: batch[f"kl_{name}"] for name in ("input_ids", "attention_mask", "completion_mask")}
        return {
            **batch,
            "ref_logps": _reference(self.reference, model, batch),
            "ref_kl_logps": _reference(self.reference, model, mismatched_rows),
        }


def dpo(settings: Settings) -> Workload:
    """Sigmoid DPO, with the reference in each step or cached before the first one."""
    model, reference, tokenizer = _policy_and_reference(settings)
    sample = samples.pairs(settings, tokenizer)
    args = arguments(settings)
    each_step = settings.reference == "each_step"
    encoded = [row for pair in sample.rows for row in pair]
    logps = _placeholders(encoded) if each_step else _cached(model, encoded, tokenizer.pad_token_id, args)
    objective = DPOObjective(tokenizer.pad_token_id, BETA)
    if each_step:
        objective = DPOReferenceEachStep(tokenizer.pad_token_id, BETA, reference=reference)
    rows = [
        {
            "id": record,
            "chosen": pair[0],
            "rejected": pair[1],
            "weight": 1.0,
            "ref_chosen_logps": logps[2 * i],
            "ref_rejected_logps": logps[2 * i + 1],
        }
        for i, (record, pair) in enumerate(zip(sample.ids, sample.rows, strict=True))
    ]
    return Workload(
        _trainer(objective, model, settings, args, rows),
        ranked_steps(settings, sample),
        True,
        each_step,
        sample.passed_over,
    )


def kto(settings: Settings) -> Workload:
    """KTO on one response of every pair, in turn a better and a worse one; references as in `dpo`."""
    model, reference, tokenizer = _policy_and_reference(settings)
    sample = samples.pairs(settings, tokenizer)
    single = samples.single_responses(settings, sample)
    args = arguments(settings)
    each_step = settings.reference == "each_step"
    encoded = [row for one in single for row in (one.row, one.mismatched)]
    logps = _placeholders(encoded) if each_step else _cached(model, encoded, tokenizer.pad_token_id, args)
    objective = KTOObjective(tokenizer.pad_token_id, BETA)
    if each_step:
        objective = KTOReferenceEachStep(tokenizer.pad_token_id, BETA, reference=reference)
    rows = [
        {
            "id": one.id,
            "row": one.row,
            "label": one.label,
            "kl_row": one.mismatched,
            "ref_logps": logps[2 * i],
            "ref_kl_logps": logps[2 * i + 1],
        }
        for i, one in enumerate(single)
    ]
    return Workload(
        ObjectiveTrainer(objective, model, args, rows),  # not bounded: KTO's batch cannot be split
        labelled_steps(settings, single),
        True,
        each_step,
        sample.passed_over,
    )


def reward_pairs(settings: Settings) -> Workload:
    """Bradley-Terry on pairs."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.pairs(settings, tokenizer))


def rankings(settings: Settings) -> Workload:
    """Bradley-Terry on all comparisons of K responses, each of which runs once."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.rankings(settings, tokenizer))


def scaling(settings: Settings) -> Workload:
    """The same on K responses of random tokens."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.random_tokens(settings, tokenizer))


def scaling_padded(settings: Settings) -> Workload:
    """The same with every row on its own, padded."""
    model, tokenizer = classifier(settings)
    return _rewards(settings, model, tokenizer, samples.random_tokens(settings, tokenizer), shared=False)


def sft(settings: Settings) -> Workload:
    """Maximum likelihood of the better response of every pair."""
    model, tokenizer = policy(settings)
    sample = samples.pairs(settings, tokenizer)
    rows = [{"id": record, "row": pair[0]} for record, pair in zip(sample.ids, sample.rows, strict=True)]
    model, args = _ready(model, settings), arguments(settings)
    trainer = _trainer(SFTObjective(tokenizer.pad_token_id), model, settings, args, rows)
    return Workload(trainer, demonstration_steps(settings, sample), True, passed_over=sample.passed_over)


def _rewards(settings: Settings, model: Any, tokenizer: Any, sample: samples.Sample, shared: bool = True) -> Workload:
    rows = [
        {"id": record, "responses": answers, "wins": torch.ones(len(answers), len(answers)).triu(1).numpy()}
        for record, answers in zip(sample.ids, sample.rows, strict=True)
    ]
    bounded = shared and bool(settings.data)  # scaling shows what one pass takes
    trainer = ObjectiveTrainer(
        RewardObjective(tokenizer.pad_token_id),
        _ready(model, settings, shared),
        arguments(settings),
        rows,
        max_tokens_per_forward=settings.max_tokens_per_forward if bounded else None,
    )
    return Workload(trainer, ranked_steps(settings, sample), False, passed_over=sample.passed_over)


def _policy_and_reference(settings: Settings) -> tuple[Any, Any, Any]:
    """The policy, its frozen copy where the reference runs in each step of full fine-tuning, and the tokenizer."""
    model, tokenizer = policy(settings)
    copied = settings.reference == "each_step" and not settings.lora
    reference = share_prefixes(frozen(model)) if copied else None
    return _ready(model, settings), reference, tokenizer


def _reference(reference: Any, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    adapter_off = model.disable_adapter() if reference is None else nullcontext()
    with torch.no_grad(), adapter_off:
        return sequence_logprobs(model if reference is None else reference, batch)


def _trainer(objective: Any, model: Any, settings: Settings, args: Any, rows: Sequence[Any]) -> ObjectiveTrainer:
    return ObjectiveTrainer(objective, model, args, rows, max_tokens_per_forward=settings.max_tokens_per_forward)


def _ready(model: Any, settings: Settings, shared: bool = True) -> Any:
    if settings.lora:
        seed_everything(settings)
        model = add_lora(model, LoraSettings())
    return share_prefixes(model) if shared else model


def _placeholders(rows: Sequence[Encoded]) -> list[float]:
    """Of log-probabilities that each step computes; nothing reads these."""
    return [float("nan")] * len(rows)


def _cached(model: Any, rows: Sequence[Encoded], pad_id: int, args: Any) -> list[float]:
    """What the dpo stage does before its first step."""
    cache = ReferenceCache(Path(tempfile.mkdtemp(prefix="benchmark-")), "start", precision_name(model, args))
    size = args.per_device_train_batch_size

    def compute(part: Sequence[Encoded]) -> torch.Tensor:
        return reference_logprobs(model, part, pad_id, size, autocast(args))

    return cache.get_or_compute(rows, compute).tolist()
