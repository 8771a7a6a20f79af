"""Several opinions on one response: several heads on one trunk, or several scorers. Adding a rule is one row.

Members can only be compared where they are on one scale. Comparisons leave a reward's zero open, so train members with
`centering`, and do not mix scorers of different units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reward.scorer import LimitedScorer, Messages, RowError, Scorer

Aggregate = Callable[[Tensor], Tensor]  # (..., H) scores of H members -> (...)


def mean(scores: Tensor) -> Tensor:
    """The members' mean."""
    return scores.mean(dim=-1)


def worst(scores: Tensor) -> Tensor:
    """The most pessimistic member: worst-case optimisation (Coste et al. 2024)."""
    return scores.amin(dim=-1)


def uncertainty(scores: Tensor, penalty: float = 1.0) -> Tensor:
    """mean - λ variance over the members: uncertainty-weighted optimisation (Coste et al. 2024, section 3)."""
    return scores.mean(dim=-1) - penalty * scores.var(dim=-1, correction=0)  # λ = penalty


AGGREGATES: dict[str, Aggregate] = {"mean": mean, "worst": worst, "uncertainty": uncertainty}


def spread(scores: Tensor) -> Tensor:
    """Standard deviation over the members, (..., H) -> (...): how much they disagree; 0 for a single one."""
    return scores.std(dim=-1, correction=0)


def aggregated(
    members: npt.NDArray[np.float32], aggregate: Aggregate
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Scores (n, H) of H members -> their aggregate (n,) and spread (n,), which is None for a single member."""
    scores = torch.from_numpy(members)
    return aggregate(scores).numpy(), spread(scores).numpy() if scores.shape[1] > 1 else None


def aggregate_rule(name: str, penalty: float | None = None) -> Aggregate:
    """The row `name` of AGGREGATES; `penalty` is λ of `uncertainty`, in 1 / the unit of the scores; None takes 1.

    Raises ValueError for an unknown row, a penalty of another row, and one that is not a number above 0.
    """
    if name not in AGGREGATES:
        raise ValueError(f"unknown aggregate {name!r}; there are: {', '.join(AGGREGATES)}")
    if penalty is None:
        return AGGREGATES[name]
    if name != "uncertainty":
        raise ValueError(f"a penalty belongs to the aggregate uncertainty, not to {name}; leave it out")
    if not (math.isfinite(penalty) and penalty > 0):
        raise ValueError(f"penalty {penalty} is no number above 0")
    return partial(uncertainty, penalty=penalty)


class ScorerEnsemble:
    """Several scorers as one, such as reward models that were trained apart."""

    def __init__(
        self,
        scorers: Sequence[Scorer],
        aggregate: str = "mean",
        name: str = "ensemble",
        penalty: float | None = None,
    ) -> None:
        """Raises ValueError for no scorers, and as `aggregate_rule`."""
        if not scorers:
            raise ValueError("an ensemble needs at least one scorer")
        self.name = name
        self._scorers = tuple(scorers)
        self._aggregate = aggregate_rule(aggregate, penalty)

    def no_room(self, prompt: Messages, answer_tokens: int) -> str | None:
        """As `LimitedScorer.no_room`, of the first member that has no room."""
        limited = (scorer for scorer in self._scorers if isinstance(scorer, LimitedScorer))
        found = ((scorer.name, scorer.no_room(prompt, answer_tokens)) for scorer in limited)
        return next((f"{name}: {why}" for name, why in found if why is not None), None)

    def member_scores(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Scores of every member: (n, H) float32.

        Raises what the members raise, RowError for a member's score that is not finite (the worst of several would hide
        it), and ValueError for a member that does not give one score for each response.
        """
        columns = []
        for scorer in self._scorers:
            scores = np.asarray(scorer.score(prompts, responses), dtype=np.float32)
            if scores.shape != (len(responses),):
                raise ValueError(f"{scorer.name} gave scores of shape {scores.shape} for {len(responses)} responses")
            wrong = np.flatnonzero(~np.isfinite(scores))
            if len(wrong):
                raise RowError(int(wrong[0]), f"the score of {scorer.name} is {scores[wrong[0]]}; it must be finite")
            columns.append(scores)
        return np.stack(columns, axis=1)

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Aggregated scores of `n` responses: (n,) float32."""
        return self._aggregate(torch.from_numpy(self.member_scores(prompts, responses))).numpy()

    def spread(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """How much the members disagree on each response: (n,) float32 standard deviations."""
        return spread(torch.from_numpy(self.member_scores(prompts, responses))).numpy()

    def score_with_spread(
        self, prompts: Sequence[Messages], responses: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """`score` and `spread`, with every member asked once; the spread of a single member is None."""
        return aggregated(self.member_scores(prompts, responses), self._aggregate)
