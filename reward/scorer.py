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
