"""A reward model: a trunk, a scalar head, and the reward read at the last real token of each row.

transformers pools a sequence classifier at the last token whose *id* is not the padding id. Where padding and
end-of-sequence share an id, that drops the end of sequence from every row; here the attention mask decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reward.scorer import Messages

Encode = Callable[[Messages, str], Sequence[int]]  # (prompt, response) -> token ids of the whole row


def score_head(model: Any) -> nn.Module:
    """The head that maps hidden states (…, H) to rewards (…, 1), through a PEFT wrapper too.

    Raises ValueError when the model has no single-output `score` head in float32.
    """
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Module) or classifier.config.num_labels != 1:
        raise ValueError(f"{type(classifier).__name__}: a reward model needs a `score` head with num_labels=1")
    if any(weight.dtype != torch.float32 for weight in head.parameters()):
        # bf16 rewards collide: 512 inputs gave 408 distinct values
        raise ValueError("the score head must be float32; call model.score.float() after loading")
    return head


def sequence_rewards(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Rewards of the rows of a right-padded batch: (N,) float32, with gradients.

    Args:
        model: a decoder with a `score` head (AutoModelForSequenceClassification, num_labels=1), or a PeftModel of it.
        batch: `input_ids` and `attention_mask`, both (N, T).
    """
    head = score_head(model)
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
    mask = batch["attention_mask"]
    hidden = classifier.base_model(
        input_ids=batch["input_ids"], attention_mask=mask, use_cache=False
    ).last_hidden_state  # (N, T, H)
    last = mask.sum(dim=1) - 1  # by length, never by pad id
    pooled = hidden[torch.arange(len(last), device=last.device), last]
    with torch.autocast(pooled.device.type, enabled=False):
        rewards: Tensor = head(pooled.float()).squeeze(-1)
    return rewards


class RewardModel:
    """A sequence classifier as a Scorer. Text comes in; `encode` holds the tokenizer and its chat template.

    `encode` must be the rule the model was trained with, or the rewards mean nothing.
    The score head is cast to float32 in place.
    """

    def __init__(
        self,
        model: Any,
        encode: Encode,
        name: str = "reward",
        batch_size: int = 16,
        max_length: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Wraps `model`.

        Args:
            model: AutoModelForSequenceClassification with num_labels=1, or a PeftModel of it.
            encode: (prompt messages, response text) -> token ids of prompt and response.
            name: the scorer's name in results.
            batch_size: rows per forward pass.
            max_length: longest row in tokens; None takes the model's own limit.
            autocast: run the trunk under autocast in this dtype; the head stays float32.
        """
        self.model = model
        self.name = name
        self._encode = encode
        self._batch_size = batch_size
        self._max_length = max_length or int(model.config.max_position_embeddings)
        self._autocast = autocast
        classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
        if isinstance(getattr(classifier, "score", None), nn.Module):
            classifier.score.float()
        score_head(model)

    def rewards(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Rewards of a right-padded batch (`input_ids`, `attention_mask`): (N,) float32, with gradients."""
        return sequence_rewards(self.model, batch)

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Rewards of `n` responses to `n` prompts: (n,) float32, in the order given.

        Raises ValueError when there is nothing to score, when the lengths differ, or when a row is too long.
        """
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        if not responses:
            raise ValueError("no responses to score")
        rows = [list(self._encode(prompt, response)) for prompt, response in zip(prompts, responses, strict=True)]
        for index, row in enumerate(rows):
            if len(row) > self._max_length:
                raise ValueError(f"response {index}: {len(row)} tokens with its prompt, limit {self._max_length}")
        longest_first = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        scores = np.empty(len(rows), dtype=np.float32)
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(rows), self._batch_size):
                chosen = longest_first[start : start + self._batch_size]
                scores[chosen] = self._score_rows([rows[index] for index in chosen])
        finally:
            self.model.train(was_training)
        return scores

    def _score_rows(self, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        width = max(len(row) for row in rows)
        device = next(self.model.parameters()).device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        precision: AbstractContextManager[Any] = nullcontext()
        if self._autocast is not None:
            precision = torch.autocast(device.type, dtype=self._autocast)
        with torch.no_grad(), precision:
            rewards = self.rewards({"input_ids": ids, "attention_mask": mask})
        return rewards.cpu().numpy()
