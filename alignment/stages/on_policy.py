"""Settings of the stages that learn from answers they sample themselves: the same keys for data, scorer and KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from alignment.lora import LoraSettings
from alignment.stages.reference import no_dropout
from alignment.stages.scoring import Reward, ScorerTerm, check_references, scorer_inputs, watch_inputs
from alignment.stages.settings import DataNeed, Found, Made, StageSettings, hand_off

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec


class OnPolicySettings(StageSettings):
    """`data`: records, of which only the prompts are read (and the reference answers, by the rules that need one).

    `reward` is what is maximised: a reward model (`auto`: the last one made before this stage), or a weighted sum of
    reward models and rules. `watch` is scored and logged, never learned from.
    """

    model: str = "auto"  # auto: the last policy made before this stage, or the base model
    data: str
    split: str = "train"
    reward: Reward = "auto"
    watch: list[ScorerTerm] = Field([])
    kl_coef: float = Field(0.05, ge=0)  # weight of the KL to the starting policy
    max_prompt_length: int = Field(512, ge=1)  # tokens
    long_prompts: Literal["drop", "error"] = "drop"  # prompts above it: counted and reported, or an error
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(1.0, gt=0)
    peft: LoraSettings | None = None
    share_prefixes: bool = True
    trainer: dict[str, Any] = Field({})  # Hugging Face TrainingArguments by their own names

    @field_validator("peft")
    @classmethod
    def starts_at_the_reference(cls, peft: LoraSettings | None) -> LoraSettings | None:
        no_dropout(peft)
        return peft

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        scorers = scorer_inputs(self.reward, stage, earlier) | watch_inputs(self.watch, stage, earlier, self.reward)
        return {"model": hand_off(self.model, stage, earlier, "policy")} | scorers

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"train": DataNeed(self.data, self.split, "prompts")}

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        check_references(stage, found.records, spec, self.reward, self.watch)
