"""What the stages that learn from whole rankings share: the choice of a ranking loss, and the rows it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from alignment.errors import DataError, nearest
from alignment.runs import DataUse, RunContext
from alignment.stages.settings import Found, TrainingSettings

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec
    from alignment.training.objectives.rankings import RankingRow

# The rows of reward.losses.RANKING_LOSSES, known without torch (a test holds them equal), and of the settings that not
# every loss reads: which it reads, under its own name for it.
LOSSES: dict[str, dict[str, str]] = {
    "bradley_terry": {"margin_scale": "margin_scale"},
    "plackett_luce": {},
    "davidson": {"tie_parameter": "nu"},
    "rao_kupper": {"tie_parameter": "theta"},
}


class RankingLossSettings(TrainingSettings):
    """`data`: records with at least two ranked responses; one with nothing but ties is dropped, unless the loss knows
    ties."""

    loss: str = "bradley_terry"
    margin_scale: float | None = Field(None, gt=0)  # reward per unit of stated strength; without it none is asked for
    tie_parameter: float | None = Field(None, gt=0)  # davidson's nu (default 1), rao_kupper's theta (default 2, > 1)
    weights: Literal["records", "annotators"] = "records"  # a record weighs 1, or its number of annotators

    @field_validator("loss")
    @classmethod
    def known_loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}{nearest(loss, LOSSES)}")
        return loss

    @model_validator(mode="after")
    def only_what_the_loss_reads(self) -> RankingLossSettings:
        for name in ("margin_scale", "tie_parameter"):
            if getattr(self, name) is not None and name not in LOSSES[self.loss]:
                readers = ", ".join(loss for loss, reads in LOSSES.items() if name in reads)
                raise ValueError(f"{self.loss} does not read {name}, only {readers}; leave it out")
        if self.loss == "rao_kupper" and self.tie_parameter is not None and self.tie_parameter <= 1:
            raise ValueError("tie_parameter is rao_kupper's theta and must be above 1")
        return self

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        from reward.losses import KNOWS_TIES

        if self.loss not in KNOWS_TIES and not any(any(row) for ranking in found.used for row in ranking.wins):
            raise DataError(
                f"{spec.source}: {stage}: the responses of all {len(found.used)} ranked records are tied, which "
                f"teaches {self.loss} nothing; take a loss that knows ties: {', '.join(sorted(KNOWS_TIES))}"
            )
        stated = [margin for ranking in found.used for row in ranking.margins for margin in row if margin is not None]
        if role == "train" and self.margin_scale is not None and not stated:
            raise no_strength(spec.source)

    def options(self) -> dict[str, float]:
        """The loss's own options: what is set, and no margins unless asked for."""
        found = {own: getattr(self, name) for name, own in LOSSES[self.loss].items()}
        if "margin_scale" in found and self.margin_scale is None:
            found["margin_scale"] = 0.0
        return {name: value for name, value in found.items() if value is not None}


def loss_rows(
    context: RunContext, role: str, settings: RankingLossSettings, tokenizer: Any
) -> tuple[list[RankingRow], DataUse]:
    """The rankings the loss can learn from. Raises DataError when margins are asked for and nobody stated one."""
    import numpy as np

    from alignment.stages.rows import ranking_rows
    from reward.losses import KNOWS_TIES

    rows, use = ranking_rows(
        context,
        role,
        tokenizer,
        settings.max_length,
        settings.truncation,
        ties=settings.loss in KNOWS_TIES,
        by_annotators=settings.weights == "annotators",
    )
    stated = [np.isfinite(np.asarray(row["margins"], float)).any() for row in rows]
    if role == "train" and settings.margin_scale is not None and not any(stated):
        raise no_strength(use.source)
    return rows, use


def no_strength(source: str) -> DataError:
    return DataError(f"{source}: no judgement states a strength, so margin_scale has no effect; leave it out")
