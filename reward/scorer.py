"""The one interface for everything that says how good a response is."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Messages = Sequence[Mapping[str, str]]  # [{"role": "user", "content": "..."}, ...]


@runtime_checkable
class Scorer(Protocol):
    """Scores responses to prompts; text crosses this line, never token ids."""

    name: str

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Scores of `n` responses to `n` prompts: float32 of shape (n,), higher is better.

        Raises ValueError when the two lengths differ.
        """
        ...


@runtime_checkable
class SpreadScorer(Scorer, Protocol):
    """A scorer that may have several opinions."""

    def score_with_spread(
        self, prompts: Sequence[Messages], responses: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """What `score` gives and, from the same opinions, how much they disagree.

        Returns (n,) scores and (n,) standard deviations over the members, or None where there is one member only.
        """
        ...


@runtime_checkable
class LimitedScorer(Scorer, Protocol):
    """A scorer that cannot read rows of any length."""

    def no_room(self, prompt: Messages, answer_tokens: int) -> str | None:
        """Why an answer of so many tokens, by this scorer's count, does not fit behind `prompt`; None if it does."""
        ...


class RowError(ValueError):
    """One response cannot be scored. `row`: its index among those given; `reason`: why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"response {row}: {reason}")
        self.row = row
        self.reason = reason
