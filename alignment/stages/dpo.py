"""Direct preference optimisation and its relatives; the reference, if any, is the policy the stage starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from alignment.errors import RecipeError
from alignment.lora import LoraSettings
from alignment.runs import RunContext, StageResult
from alignment.stages.ranking_loss import no_strength
from alignment.stages.reference import no_dropout
from alignment.stages.settings import DataNeed, Found, TrainingSettings
from alignment.training.losses.pair_options import LOSSES as LOSSES
from alignment.training.losses.pair_options import (
    REFERENCE_FREE,
    PairOptions,
    is_coupled,
    problem,
    weights_of,
    wrong_losses,
)

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec

DEFAULTS: dict[str, Any] = {"learning_rate": 5e-6}


class DPOSettings(TrainingSettings):
    """`data`: ranked records, each of which counts once. `pairs`: all decided ones, or best against worst."""

    loss: str | dict[str, float] = "sigmoid"  # one of LOSSES, or a mix of them with weights: {sigmoid: 0.8, sft: 0.2}
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    loss_options: PairOptions = PairOptions()
    pairs: Literal["all", "best_worst"] = "all"
    peft: LoraSettings | None = None

    @field_validator("loss", mode="before")
    @classmethod
    def known_losses(cls, loss: Any) -> Any:
        wrong = wrong_losses(loss) if isinstance(loss, (str, Mapping)) else None
        if wrong is not None:
            raise ValueError(wrong)
        return loss

    @model_validator(mode="after")
    def nothing_without_effect(self) -> DPOSettings:
        wrong = problem(self.loss, self.label_smoothing, self.loss_options)
        if wrong is not None:
            raise ValueError(wrong)
        if self.needs_reference:
            no_dropout(self.peft)
        return self

    def data_need(self, split: str) -> DataNeed:
        return DataNeed(self.data, split, "pairs", {"mode": self.pairs})

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        unstated = all(pair.margin is None for pair in found.used)
        if role == "train" and self.loss_options.margin_scale is not None and unstated:
            raise no_strength(spec.source)

    @property
    def needs_reference(self) -> bool:
        return not weights_of(self.loss).keys() <= REFERENCE_FREE


def check(stage: str, settings: DPOSettings) -> None:
    from alignment.stages import train
    from alignment.training.arguments import check_arguments

    train.check(stage, settings.trainer)
    if not is_coupled(settings.loss, settings.loss_options):
        return
    train.check_coupled(stage, settings)
    if check_arguments(stage, settings.trainer).get("gradient_accumulation_steps", 1) > 1:
        by_response = settings.loss_options.model_copy(update={"nll_average": "responses"})
        way_out = "" if is_coupled(settings.loss, by_response) else "set loss_options.nll_average: responses, or "
        raise RecipeError(
            f"{stage}.trainer.gradient_accumulation_steps: this loss compares the pairs of a batch, which accumulation "
            f"would split; {way_out}raise per_device_train_batch_size instead, with max_tokens_per_forward to bound "
            "memory"
        )


def run(context: RunContext, settings: DPOSettings) -> StageResult:
    from alignment.stages import policy, train
    from alignment.stages.rows import pair_rows
    from alignment.training.objectives.pairs import DPOObjective

    args = train.prepare(context, settings, DEFAULTS)
    model, tokenizer = policy.load(context, settings.peft, settings.share_prefixes, dropout=False)
    options = settings.loss_options
    how = settings.max_length, settings.pairs, settings.truncation, options.use_soft_labels
    data = train.load(context, lambda role: pair_rows(context, role, tokenizer, *how))
    objective = DPOObjective(
        tokenizer.pad_token_id, settings.beta, settings.loss, settings.label_smoothing, settings.loss_options
    )
    objective.refuse(data.rows)
    if options.margin_scale is not None and all(row["margin"] is None for row in data.train):
        raise no_strength(data.uses[0].source)
    if settings.needs_reference:
        _add_reference(context, settings, model, tokenizer, args, data.rows)
    trained = train.fit(context, settings, objective, model, args, data)
    entry = policy.register(context, model, tokenizer, settings.peft, trained.metrics)
    train.clean_up(context)
    return StageResult({context.stage: entry.ref}, trained.metrics, trained.notes, data.uses)


def _add_reference(
    context: RunContext, settings: DPOSettings, model: Any, tokenizer: Any, args: Any, rows: list[dict[str, Any]]
) -> None:
    """Reference log-probabilities of every row, before the first step; of LD-DPO reduced as the policy's will be."""
    from alignment.stages.reference import reference_logps
    from alignment.training.objectives.pairs import shared_lengths

    bound, ld_alpha = settings.max_tokens_per_forward, settings.loss_options.ld_alpha
    encoded = [row[side] for row in rows for side in ("chosen", "rejected")]
    logps = reference_logps(context, model, tokenizer, args, encoded, bound)
    if ld_alpha is not None:
        parts = [part for row in rows for part in shared_lengths(row["chosen"], row["rejected"])]
        shared = reference_logps(context, model, tokenizer, args, parts, bound)
        logps = [part + ld_alpha * (whole - part) for part, whole in zip(shared, logps, strict=True)]
    for row, chosen, rejected in zip(rows, logps[0::2], logps[1::2], strict=True):
        row["ref_chosen_logps"], row["ref_rejected_logps"] = chosen, rejected
