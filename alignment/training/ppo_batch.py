"""What PPO samples in a step, and what is told of it: metrics and the rows of samples.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from alignment.training.experience import Experience
from alignment.training.losses.ppo import explained_variance
from alignment.training.rollouts import Rollout

Messages = Sequence[Mapping[str, str]]


class Prompt(Protocol):
    """A prompt: its record's id, its messages, its tokens."""

    @property
    def id(self) -> str: ...
    @property
    def messages(self) -> Messages: ...
    @property
    def ids(self) -> list[int]: ...


class Scored(Protocol):
    """What a scorer says of n answers; `terms` are its parts by name, `spread` the disagreement of an ensemble."""

    @property
    def scores(self) -> Any: ...
    @property
    def terms(self) -> Mapping[str, Any]: ...
    @property
    def spread(self) -> Any: ...


Score = Callable[[Sequence[str], Sequence[Messages], Sequence[str]], Scored]  # (ids, prompts, answers)


@dataclass(frozen=True)
class Sampling:
    """How a step's answers are made: `batch_size` of them, `samples_per_prompt` to each prompt."""

    batch_size: int
    samples_per_prompt: int
    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Sampled:
    """The answers of a step, before anything was learned from them."""

    prompts: list[Prompt]  # one for each answer
    groups: list[list[int]]  # which answers belong to one prompt
    answers: list[Rollout]
    scored: Scored
    watched: Scored | None
    agreement: Mapping[str, float] = field(default_factory=dict)  # of another sampler's log-probabilities with ours


def objective_metrics(sampled: Sampled, exp: Experience, kl_coef: float, raw: bool = False) -> dict[str, float]:
    """What a batch is like before the update, under TRL's names; what is undefined is left out.

    `objective/kl_k3` is the same KL as `objective/kl`, from an estimator that is never negative: what a distance is of.
    `objective/scores` is what enters the rewards, as in TRL: after a missing-EOS penalty, scaling and clipping.
    `objective/scores/NAME` is what a scorer said. `raw`: `objective/raw_scores` is their sum before all that.
    """
    finished = [answer.finished for answer in sampled.answers]
    non_score = exp.penalties.sum(dim=1)
    found = {
        "objective/kl": exp.kl.mean(),
        "objective/kl_k3": exp.kl_k3.mean(),
        "objective/entropy": -exp.logps.sum(dim=1).mean(),
        "objective/non_score_reward": non_score.mean(),
        "objective/rlhf_reward": (non_score + exp.scores).mean(),
        "objective/scores": np.mean(exp.scores.numpy()),
        "objective/kl_coef": kl_coef,
        "objective/response_length": exp.mask.sum(dim=1).float().mean(),
        "objective/eos_rate": np.mean(finished),
        "objective/empty_rate": np.mean([not answer.text.strip() for answer in sampled.answers]),
        "val/num_eos_tokens": np.sum(finished),
    }
    if raw:
        found["objective/raw_scores"] = np.mean(sampled.scored.scores)
    if sampled.scored.spread is not None:
        found["objective/score_spread"] = np.mean(sampled.scored.spread)
    for scored in (sampled.scored, sampled.watched):
        for name, values in (scored.terms if scored is not None else {}).items():
            found[f"objective/scores/{name}"] = np.mean(values)
    explained = explained_variance(exp.values, exp.returns, exp.mask)
    return {**sampled.agreement, **{name: float(value) for name, value in found.items()}} | (
        {} if explained is None else {"val/explained_variance": explained}
    )


def sample_rows(step: int, sampled: Sampled, exp: Experience) -> list[dict[str, Any]]:
    """Rows of samples.jsonl."""
    terms = dict(sampled.scored.terms) | ({} if sampled.watched is None else dict(sampled.watched.terms))
    return [
        {
            "step": step,
            "id": prompt.id,
            "prompt": [dict(message) for message in prompt.messages],
            "response": answer.text,
            "score": float(sampled.scored.scores[i]),
            "terms": {name: float(values[i]) for name, values in terms.items()},
            "kl": float(exp.kl[i]),
            "length": len(answer.response_ids),
            "finished": answer.finished,
        }
        for i, (prompt, answer) in enumerate(zip(sampled.prompts, sampled.answers, strict=True))
    ]
