"""The settings of PPO, known without torch.

Defaults are those of Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO" (arXiv:2403.17031), where
they have the setting; what differs, here and in the stage's own settings, stands in docs/decisions/0009-ppo.md.
Fixed, not settings: dropout is off, log-probabilities are those of the sampling temperature, the score stands at the
last token of the answer, padding never counts, advantages are computed once per batch, the learning rate falls per
batch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class AdaptiveKLOptions(BaseModel):
    """kl_coef moves so that the KL per answer comes to `target` nats (Ziegler et al. 2019)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    target: float = Field(6.0, gt=0)
    horizon: int = Field(10_000, ge=1)  # samples


class Guard(BaseModel):
    """What stops a run that has gone wrong, with the last good checkpoint kept. None watches nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_kl: float | None = Field(100.0, gt=0)  # nats per answer, to the starting policy
    max_log_ratio: float | None = Field(2.0, gt=0)  # nats per token: mean |log ratio| to the policy that sampled
    max_ratio: float | None = Field(10.0, gt=1)  # mean ratio or its inverse: about 1 unless single tokens explode


class PPOOptions(BaseModel):
    """How a batch of answers becomes an update."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_ppo_epochs: int = Field(4, ge=1)
    num_mini_batches: int = Field(1, ge=1)
    cliprange: float = Field(0.2, gt=0)
    cliprange_value: float | None = Field(0.2, gt=0)  # None: values are not clipped
    vf_coef: float = Field(0.1, ge=0)
    entropy_coef: float = Field(0.0, ge=0)
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"  # of the KL penalty inside the reward
    adaptive_kl: AdaptiveKLOptions | None = None
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    missing_eos_penalty: float | None = Field(None, gt=0)  # taken off the score of an answer that did not end
    normalize_scores: bool = False  # by the running mean and deviation of all scores so far
    clip_scores: float | None = Field(None, gt=0)  # to ± this, after normalising
    # An update ends before the mini-batch that finds the policy moved further than this (approxkl, nats per token).
    early_stop_kl: float | None = Field(None, gt=0)
    value_adapter: bool = False  # values come from a LoRA adapter of their own instead of the policy's
    guard: Guard = Guard()

    @property
    def changes_scores(self) -> bool:
        """Whether the policy is rewarded with something else than what the scorer said."""
        return self.normalize_scores or self.clip_scores is not None or self.missing_eos_penalty is not None

    @model_validator(mode="after")
    def values_are_learned(self) -> PPOOptions:
        if self.vf_coef == 0:
            raise ValueError("vf_coef 0 would never learn values; rloo and grpo need none")
        return self

    @model_validator(mode="after")
    def something_left_to_stop(self) -> PPOOptions:
        if self.early_stop_kl is not None and self.num_ppo_epochs * self.num_mini_batches == 1:
            raise ValueError(
                "early_stop_kl has nothing to stop in an update of one step; raise num_ppo_epochs or leave it out"
            )
        return self
