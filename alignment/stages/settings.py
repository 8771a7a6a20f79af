"""Settings every stage shares. Our own keys are few; trainer keys keep the Hugging Face names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from alignment.errors import RecipeError

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord
    from alignment.preferences.sources import DataSpec


@dataclass(frozen=True)
class Made:
    """An earlier stage of the recipe and what it makes: "policy", "reward", "records" or None."""

    name: str
    produces: str | None


@dataclass(frozen=True)
class DataNeed:
    """A data set a stage reads: a name under the recipe's `data:` (or a source), its split, what it is used as."""

    source: str
    split: str
    view: Literal["demonstrations", "heldout", "pairs", "prompts", "rankings", "steps", "unpaired"] = "rankings"
    options: Mapping[str, str] = field(default_factory=dict)  # of the view


class Found(NamedTuple):
    """The records of a data set, and what a `DataNeed` makes of them: items of its view."""

    records: Sequence[PreferenceRecord]
    used: Sequence[Any]


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


def one_end(trainer: Mapping[str, Any]) -> None:
    """Raises ValueError for `trainer:` keys that both say when to stop."""
    try:
        limited = float(trainer.get("max_steps", -1)) > 0
    except (TypeError, ValueError):
        return  # no number: the stage's check says so, naming the key
    if limited and "num_train_epochs" in trainer:
        raise ValueError("trainer.max_steps and trainer.num_train_epochs both say when to stop; keep one")


def _endless(value: Any, path: str = "") -> str | None:
    """Where a number that is not finite stands in a recipe's nested values, and which it is."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path}: must be a finite number, not {value}"
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    found = (_endless(part, f"{path}.{key}" if path else str(key)) for key, part in parts)
    return next((text for text in found if text), None)


class StageSettings(BaseModel):
    """What every stage has. `name` lets a kind appear twice in one recipe; `seed` stands in for the recipe's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    seed: int | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def finite(cls, given: Any) -> Any:
        """Settings are part of the stage's key, which holds finite numbers alone: under `trainer` and `options` too."""
        wrong = _endless(given)
        if wrong is not None:
            raise ValueError(wrong)
        return given

    @classmethod
    def in_round(cls, given: dict[str, Any], number: int) -> dict[str, Any]:
        """The settings of one round of a `repeat`, from 1, whose rounds go on from each other."""
        return given

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        """Input role -> name of an earlier stage, `base`, or a model reference."""
        return {}

    def data_inputs(self) -> dict[str, DataNeed]:
        """Role -> data set this stage reads."""
        return {}

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        """Raises DataError where a data set lacks, beyond its `DataNeed`, what this stage is sure to ask of it.

        Asked before the first stage of a run trains. It may not be stricter than the stage, which knows lengths too.
        """

    def files(self) -> dict[str, str]:
        """Role -> file or folder that the settings name besides data sets: what it holds is part of the stage's key."""
        return {}

    def awaited(self) -> dict[str, str]:
        """Role -> file that people bring while the run waits; it need not be there yet."""
        return {}


# Which way a metric gets better, by how its name ends.
_BETTER = {"loss": "lower", "accuracy": "higher", "accuracies": "higher", "margin": "higher", "margins": "higher"}


class EarlyStopping(BaseModel):
    """Training ends after `patience` evaluations in a row that are no better; the best evaluation's weights are kept.

    No better: not by more than `min_delta` better than the best before. Every evaluation saves a checkpoint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    metric: str = Field(pattern=r"^eval_.+")  # as in train_log.jsonl, with eval_ in front
    patience: int = Field(3, ge=1)
    min_delta: float = Field(0.0, ge=0)
    better: Literal["higher", "lower"] | None = None  # only for a metric whose name does not say it

    @model_validator(mode="after")
    def known_direction(self) -> EarlyStopping:
        known = self._known()
        if self.better is None and known is None:
            raise ValueError(f"say whether {self.metric} gets better: higher or lower")
        if self.better not in (None, known) and known is not None:
            raise ValueError(f"{self.metric} is better when {known}; leave `better` out")
        return self

    @property
    def higher(self) -> bool:
        """Whether a higher metric is better."""
        return (self.better or self._known()) == "higher"

    def _known(self) -> str | None:
        return next((better for end, better in _BETTER.items() if self.metric.endswith(end)), None)


class TrainingSettings(StageSettings):
    """What every training stage has."""

    model: str = "auto"  # auto: the last policy made before this stage, or the base model
    data: str  # a name under the recipe's `data:`, or a source
    split: str = "train"
    eval_split: Literal["train", "validation", "test"] | None = (
        None  # held out; see trainer's eval_strategy, eval_steps
    )
    early_stopping: EarlyStopping | None = None
    max_length: int = Field(1024, ge=8)  # tokens of prompt + response
    truncation: Literal["drop", "keep_start", "error"] = "drop"  # of longer rows: counted and reported, or an error
    group_by_length: bool = False  # rows of similar length in a batch: less padding, other batches
    share_prefixes: bool = True  # rows that begin alike run their common beginning once
    max_tokens_per_forward: int | None = Field(None, ge=8)  # bounds memory; batches and gradients stay the same
    trainer: dict[str, Any] = {}  # Hugging Face TrainingArguments by their own names

    @field_validator("trainer")
    @classmethod
    def no_contradiction(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        if trainer.get("bf16") and trainer.get("fp16"):
            raise ValueError("bf16 and fp16 are both on; keep one")
        one_end(trainer)
        return trainer

    @model_validator(mode="after")
    def evaluation_is_whole(self) -> TrainingSettings:
        """Held-out data, the keys that say when to look at it, and early stopping go together or not at all."""
        strategy = self.trainer.get("eval_strategy")
        strategy = "no" if strategy is False else strategy  # YAML reads a bare `no` as false
        if self.eval_split is None:
            asked = [key for key in ("eval_strategy", "eval_steps", "eval_delay") if key in self.trainer]
            if self.early_stopping is not None or (asked and strategy != "no"):
                raise ValueError(
                    f"{'early_stopping' if self.early_stopping else f'trainer.{asked[0]}'} needs held-out records; "
                    "set eval_split, for example to validation"
                )
            return self
        if self.split in (self.eval_split, "all"):
            raise ValueError(f"eval_split {self.eval_split} is not held out: the stage trains on split {self.split}")
        if strategy == "no":
            raise ValueError("eval_split is set and trainer.eval_strategy is no; keep one")
        if strategy == "epoch" and "eval_steps" in self.trainer:
            raise ValueError("trainer.eval_strategy is epoch and trainer.eval_steps is set; keep one")
        saving = [key for key in ("save_strategy", "save_steps") if key in self.trainer]
        if self.early_stopping is not None and saving:
            raise ValueError(f"early_stopping saves at every evaluation; leave out trainer.{saving[0]}")
        return self

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        return {"model": hand_off(self.model, stage, earlier, "policy")}

    def data_inputs(self) -> dict[str, DataNeed]:
        needs = {"train": self.data_need(self.split)}
        return needs if self.eval_split is None else {**needs, "eval": self.data_need(self.eval_split)}

    def data_need(self, split: str) -> DataNeed:
        """What the stage reads from one split of its data."""
        return DataNeed(self.data, split)
