"""Process rewards: a score for every step of a response, read at the step's last token.

The head's output at a step is the logit of "this step is right" (Lightman et al. 2023). Adding a way to make one score
of the steps is one function and one row of STEP_SCORES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from reward.context import context_length
from reward.model import check_texts, float_head, marker, no_room, position_rewards, run_rows
from reward.scorer import Messages

# (prompt, response) -> token ids of the whole row, and the index in them of every step's last token
EncodeSteps = Callable[[Messages, str], tuple[Sequence[int], Sequence[int]]]


def step_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every step (Lightman et al. 2023; Uesato et al. 2022).

        loss_s = - y_s log σ(z_s) - (1 - y_s) log σ(-z_s)

    Args:
        logits: (P, S); padding may hold any finite value.
        labels: (P, S) in 0..1, the share of annotators who call the step right; NaN where nobody said and for padding.

    Returns:
        (P, S) losses in nats, 0 where there is no label.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num(nan=0.0), reduction="none")
    return losses.masked_fill(labels.isnan(), 0.0)


def product(logits: Tensor) -> Tensor:
    """The probability that every step is right, Π_s σ(z_s): (S,) -> (). It falls with every further step."""
    return functional.logsigmoid(logits).sum().exp()


def minimum(logits: Tensor) -> Tensor:
    """The probability that the weakest step is right, min_s σ(z_s): (S,) -> ()."""
    return logits.amin().sigmoid()


STEP_SCORES: dict[str, Callable[[Tensor], Tensor]] = {"product": product, "min": minimum}


class ProcessRewardModel:
    """A process reward model as a Scorer: text comes in, and one score in 0..1 per response goes out."""

    def __init__(
        self,
        model: Any,
        encode: EncodeSteps,
        name: str = "reward",
        batch_size: int = 16,
        max_length: int | None = None,
        autocast: torch.dtype | None = None,
        aggregate: str | None = None,
    ) -> None:
        """Wraps `model`; the score head is cast to float32 in place.

        Args:
            model: AutoModelForSequenceClassification with one label, or a PeftModel of it.
            encode: (prompt messages, response text) -> token ids and the last token of every step, by the rule the
                model was trained with.
            name: the scorer's name in results.
            batch_size: rows per forward pass.
            max_length: longest row in tokens; None takes the model's own limit, if it has one.
            autocast: run the trunk under autocast in this dtype; the head stays float32.
            aggregate: a row of STEP_SCORES; None takes what the model was trained for, or the product.

        Raises:
            ValueError: no reward model, or an unknown aggregate.
        """
        float_head(model)
        rule = aggregate or marker(model).get("aggregate", "product")
        if rule not in STEP_SCORES:
            raise ValueError(f"unknown step score {rule!r}; there are: {', '.join(STEP_SCORES)}")
        self.model = model
        self.name = name
        self._encode = encode
        self._batch_size = batch_size
        self._max_length = max_length or context_length(model)
        self._autocast = autocast
        self._score = STEP_SCORES[rule]

    def no_room(self, prompt: Messages, answer_tokens: int) -> str | None:
        """As `LimitedScorer.no_room`."""
        limit = self._max_length
        return None if limit is None else no_room(self._encode(prompt, "a")[0], answer_tokens, limit)

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Scores of `n` responses to `n` prompts: (n,) float32 in 0..1, in the order given.

        Raises ValueError when there is nothing to score, when the lengths differ, or when a row is too long.
        """
        scores = [float(self._score(logits)) for logits in self._logits(prompts, responses)]
        return np.asarray(scores, dtype=np.float32)

    def step_scores(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """The probability that each step is right: n arrays (S,) float32, S steps each. Raises as `score` does."""
        return [logits.sigmoid().numpy() for logits in self._logits(prompts, responses)]

    def _logits(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[Tensor]:
        check_texts(prompts, responses)
        encoded = [self._encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]

        def run(batch: dict[str, Tensor], chosen: list[int]) -> list[Tensor]:
            counts = [len(encoded[index][1]) for index in chosen]
            device = batch["input_ids"].device
            rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)], device=device)
            positions = torch.tensor([end for index in chosen for end in encoded[index][1]], device=device)
            logits = position_rewards(self.model, batch, rows, positions)[:, 0].cpu()
            return list(torch.split(logits, counts))

        ids = [row for row, _ in encoded]
        parts = run_rows(self.model, ids, run, self._batch_size, self._max_length, self._autocast)
        found = {index: logits for chosen, part in parts for index, logits in zip(chosen, part, strict=True)}
        return [found[index] for index in range(len(encoded))]
