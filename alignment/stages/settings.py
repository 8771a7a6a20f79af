"""Settings every stage shares. Our own keys are few; trainer keys keep the Hugging Face names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from alignment.errors import RecipeError


@dataclass(frozen=True)
class Made:
    """An earlier stage of the recipe and what it makes: "policy", "reward" or None."""

    name: str
    produces: str | None


@dataclass(frozen=True)
class DataNeed:
    """A data set a stage reads: a name under the recipe's `data:` (or a source), its split, what it is used as."""

    source: str
    split: str
    view: Literal["demonstrations", "rankings"] = "rankings"


def hand_off(wanted: str, stage: str, earlier: list[Made], kind: str) -> str:
    """The name of the model a stage works on: what the recipe says, or the last earlier one of that kind.

    Raises RecipeError when no earlier stage makes it.
    """
    made = {m.name: m.produces for m in earlier}
    if wanted == "auto":
        candidates = [m.name for m in earlier if m.produces == kind]
        if candidates:
            return candidates[-1]
        if kind == "policy":
            return "base"
        raise RecipeError(
            f"{stage}: needs a {kind} model, but no earlier stage makes one; put a `{kind}` stage before it"
        )
    if wanted == "base" or "@" in wanted or ":" in wanted:
        return wanted
    if made.get(wanted) == kind:
        return wanted
    if wanted in made:
        raise RecipeError(f"{stage}: needs a {kind} model, but stage {wanted} makes {made[wanted] or 'no model'}")
    known = ", ".join(["base", *(m.name for m in earlier if m.produces == kind)])
    raise RecipeError(f"{stage}: needs the output of {wanted!r}, but no earlier stage makes it; there are: {known}")


class StageSettings(BaseModel):
    """What every stage has. `name` lets a kind appear twice in one recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        """Input role -> name of an earlier stage, `base`, or a model reference."""
        return {}

    def data_inputs(self) -> dict[str, DataNeed]:
        """Role -> data set this stage reads."""
        return {}


class TrainingSettings(StageSettings):
    """What every training stage has."""

    model: str = "auto"  # auto: the last policy made before this stage, or the base model
    data: str  # a name under the recipe's `data:`, or a source
    split: str = "train"
    max_length: int = Field(1024, ge=8)  # tokens of prompt + response; longer rows are dropped and reported
    trainer: dict[str, Any] = {}  # Hugging Face TrainingArguments by their own names

    @field_validator("trainer")
    @classmethod
    def no_contradiction(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        if trainer.get("bf16") and trainer.get("fp16"):
            raise ValueError("bf16 and fp16 are both on; keep one")
        if int(trainer.get("max_steps", -1)) > 0 and "num_train_epochs" in trainer:
            raise ValueError("max_steps and num_train_epochs both say when to stop; keep one")
        return trainer

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        return {"model": hand_off(self.model, stage, earlier, "policy")}

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"train": DataNeed(self.data, self.split)}
