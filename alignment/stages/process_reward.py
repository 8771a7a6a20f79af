"""A process reward model: every labelled step of a response is learned at its last token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from alignment.lora import LoraSettings
from alignment.preferences import steps
from alignment.runs import RunContext, StageResult
from alignment.stages.reward import check, fit, start
from alignment.stages.settings import DataNeed, Found, TrainingSettings

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec

__all__ = ["ProcessRewardSettings", "check", "run"]


class ProcessRewardSettings(TrainingSettings):
    """`data`: records whose judgements label single steps. Without `peft`, all weights are trained.

    The model is stored as `reward` stores its own, and remembers `separator` and `aggregate`. Responses that are scored
    later are split where the separator stands.
    """

    peft: LoraSettings | None = None
    label: str = Field("correct", min_length=1)  # the name of the labels; their values are true or false
    separator: str = Field("\n\n", min_length=1)  # between the steps of a response
    aggregate: Literal["product", "min"] = "product"  # how the steps' probabilities become one score

    @model_validator(mode="after")
    def steps_are_whole(self) -> ProcessRewardSettings:
        if self.truncation == "keep_start":
            raise ValueError("truncation keep_start would cut steps; use drop or error")
        return self

    def data_need(self, split: str) -> DataNeed:
        return DataNeed(self.data, split, "steps", {"label": self.label, "separator": self.separator})

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        steps.check_separable(found.used, self.separator)


def run(context: RunContext, settings: ProcessRewardSettings) -> StageResult:
    from alignment.stages import train
    from alignment.stages.rows import step_rows
    from alignment.training.objectives.steps import ProcessRewardObjective

    marker = {"separator": settings.separator, "aggregate": settings.aggregate}
    args, model, tokenizer = start(context, settings, settings.peft, marker)
    how = settings.label, settings.separator, settings.truncation
    data = train.load(context, lambda role: step_rows(context, role, tokenizer, settings.max_length, *how))
    objective = ProcessRewardObjective(tokenizer.pad_token_id)
    return fit(context, settings, objective, args, model, tokenizer, data)
