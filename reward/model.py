"""A reward model: a trunk, one head or several, and the reward read at the last real token of each row.

transformers pools a sequence classifier at the last token whose *id* is not the padding id. Where padding and
end-of-sequence share an id, that drops the end of sequence from every row; here the attention mask decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reward.context import context_length
from reward.ensemble import Aggregate, aggregate_rule, aggregated, spread
from reward.scorer import Messages, RowError

Encode = Callable[[Messages, str], Sequence[int]]  # (prompt, response) -> token ids of the whole row
T = TypeVar("T")


MARKER = "reward_model"  # in a model's config: what its heads are; absent for one head and one reward


def marker(model: Any) -> dict[str, Any]:
    """What the config says about the heads: `heads` and `aggregate` of an ensemble, or the rules of a process model.

    And `ties` [loss, parameter], where the loss has a probability of ties.
    """
    return dict(getattr(_classifier(model).config, MARKER, None) or {})


def score_head(model: Any) -> nn.Module:
    """The head that maps hidden states (…, D) to rewards (…, H), through a PEFT wrapper too.

    Raises ValueError when the model has no `score` head in float32, or one with several outputs that its config does
    not call an ensemble.
    """
    classifier = _classifier(model)
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Module) or classifier.config.num_labels != marker(model).get("heads", 1):
        raise ValueError(f"{type(classifier).__name__}: a reward model needs a `score` head with num_labels=1")
    if any(weight.dtype != torch.float32 for weight in head.parameters()):
        # bf16 rewards collide: 512 inputs gave 408 distinct values
        raise ValueError("the score head must be float32; call model.score.float() after loading")
    return head


def position_rewards(model: Any, batch: Mapping[str, Tensor], rows: Tensor, positions: Tensor) -> Tensor:
    """Every head's reward at M tokens of a right-padded batch: (M, H) float32, with gradients.

    Args:
        model: a decoder with a `score` head (AutoModelForSequenceClassification), or a PeftModel of it.
        batch: `input_ids` and `attention_mask`, both (N, T).
        rows, positions: (M,) int64, where to read.
    """
    head = score_head(model)
    hidden = (
        _classifier(model)
        .base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        .last_hidden_state
    )  # (N, T, D)
    pooled = hidden[rows, positions]
    with torch.autocast(pooled.device.type, enabled=False):
        rewards: Tensor = head(pooled.float())
    return rewards


def head_rewards(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Every head's reward of the rows of a right-padded batch, at the last token: (N, H) float32, with gradients."""
    last = batch["attention_mask"].sum(dim=1) - 1  # by length, never by pad id
    return position_rewards(model, batch, torch.arange(len(last), device=last.device), last)


def sequence_rewards(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Rewards of the rows of a right-padded batch: (N,) float32, with gradients; several heads are aggregated."""
    return head_rule(model)(head_rewards(model, batch))


def head_rule(model: Any, aggregate: str | None = None, penalty: float | None = None) -> Aggregate:
    """How the heads become one score: by `aggregate` and `penalty`, and what is None as the config remembers it.

    The penalty that is remembered belongs to the aggregate that is remembered, and goes with no other. Raises
    ValueError as `aggregate_rule`.
    """
    trained_for = marker(model)
    remembered = trained_for.get("aggregate", "mean")
    aggregate = remembered if aggregate is None else aggregate
    if penalty is None and aggregate == remembered:
        penalty = trained_for.get("penalty")
    return aggregate_rule(aggregate, penalty)


def float_head(model: Any) -> None:
    """Casts the score head to float32 in place, and checks it as `score_head` does."""
    head = getattr(_classifier(model), "score", None)
    if isinstance(head, nn.Module):
        head.float()
    score_head(model)


def _classifier(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class RewardModel:
    """A sequence classifier as a Scorer. Text comes in; `encode` holds the tokenizer and its chat template.

    `encode` must be the rule the model was trained with, or the rewards mean nothing. The score head is cast to float32
    in place. Of an ensemble of heads, `score` is the aggregate and `spread` how much they disagree.
    """

    def __init__(
        self,
        model: Any,
        encode: Encode,
        name: str = "reward",
        batch_size: int = 16,
        max_length: int | None = None,
        autocast: torch.dtype | None = None,
        aggregate: str | None = None,
        penalty: float | None = None,
    ) -> None:
        """Wraps `model`.

        Args:
            model: AutoModelForSequenceClassification with one label, or as many as its config has heads; or a
                PeftModel of it.
            encode: (prompt messages, response text) -> token ids of prompt and response.
            name: the scorer's name in results.
            batch_size: rows per forward pass.
            max_length: longest row in tokens; None takes the model's own limit, if it has one.
            autocast: run the trunk under autocast in this dtype; the head stays float32.
            aggregate: a row of AGGREGATES; None takes what the model was trained for.
            penalty: of the aggregate `uncertainty`; None takes what the model was trained with, or 1.

        Raises:
            ValueError: no reward model, a model that rates steps, an unknown aggregate, or a penalty it does not have.
        """
        float_head(model)
        if "separator" in marker(model):
            raise ValueError("this model rates the steps of a response; score with ProcessRewardModel")
        self.model = model
        self.name = name
        self._encode = encode
        self._batch_size = batch_size
        self._max_length = max_length or context_length(model)
        self._autocast = autocast
        self._aggregate = head_rule(model, aggregate, penalty)

    @property
    def heads(self) -> int:
        """How many heads the model has."""
        return int(marker(self.model).get("heads", 1))

    @property
    def ties(self) -> tuple[str, float] | None:
        """The loss with a probability of ties that the model was trained with, and its parameter; None of another."""
        found = marker(self.model).get("ties")
        return None if found is None else (str(found[0]), float(found[1]))

    def no_room(self, prompt: Messages, answer_tokens: int) -> str | None:
        """As `LimitedScorer.no_room`."""
        limit = self._max_length
        return None if limit is None else no_room(self._encode(prompt, "a"), answer_tokens, limit)

    def rewards(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Rewards of a right-padded batch (`input_ids`, `attention_mask`): (N,) float32, with gradients."""
        return self._aggregate(head_rewards(self.model, batch))

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Rewards of `n` responses to `n` prompts: (n,) float32, in the order given.

        Raises ValueError when there is nothing to score, when the lengths differ, or when a row is too long.
        """
        return self._aggregate(torch.from_numpy(self.head_scores(prompts, responses))).numpy()

    def spread(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """How much the heads disagree on each response: (n,) float32 standard deviations. Raises as `score` does."""
        return spread(torch.from_numpy(self.head_scores(prompts, responses))).numpy()

    def score_with_spread(
        self, prompts: Sequence[Messages], responses: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """`score` and `spread` in one pass; the spread of a single head is None. Raises as `score` does."""
        return aggregated(self.head_scores(prompts, responses), self._aggregate)

    def head_scores(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Every head's rewards: (n, H) float32, in the order given. Raises as `score` does."""
        check_texts(prompts, responses)
        rows = [list(self._encode(prompt, response)) for prompt, response in zip(prompts, responses, strict=True)]

        def run(batch: dict[str, Tensor], chosen: Sequence[int]) -> npt.NDArray[np.float32]:
            return head_rewards(self.model, batch).cpu().numpy()

        parts = run_rows(self.model, rows, run, self._batch_size, self._max_length, self._autocast)
        scores = np.empty((len(rows), parts[0][1].shape[1]), dtype=np.float32)
        for chosen, part in parts:
            scores[chosen] = part
        return scores


def no_room(row: Sequence[int], answer_tokens: int, limit: int) -> str | None:
    """`LimitedScorer.no_room`, from the row of the prompt with an answer of one token and the most tokens of a row."""
    length = len(row) - 1 + answer_tokens
    return f"{length} tokens with an answer of {answer_tokens}, limit {limit}" if length > limit else None


def check_texts(prompts: Sequence[Messages], responses: Sequence[str]) -> None:
    """Raises ValueError when there is nothing to score, or not one prompt for each response."""
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
    if not responses:
        raise ValueError("no responses to score")


def run_rows(
    model: Any,
    rows: Sequence[Sequence[int]],
    run: Callable[[dict[str, Tensor], list[int]], T],
    batch_size: int,
    max_length: int | None,
    autocast: torch.dtype | None,
) -> list[tuple[list[int], T]]:
    """`run(batch, indices of its rows)` over right-padded batches of `rows`, without gradients.

    The longest rows run first, and rows that begin alike run together, so that a trunk that shares prefixes runs a
    prompt once. The model is in eval mode meanwhile. Returns the indices and the result of every batch; raises
    RowError for a row longer than `max_length`.
    """
    for index, row in enumerate(rows):
        if max_length is not None and len(row) > max_length:
            why = f"{len(row)} tokens with its prompt, limit {max_length}"
            raise RowError(index, f"{why}; give shorter texts, or take a model with a longer context")
    order = _alike_together(rows)
    device = next(model.parameters()).device
    precision = nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
    done = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision:
            for start in range(0, len(rows), batch_size):
                chosen = order[start : start + batch_size]
                done.append((chosen, run(_padded([rows[index] for index in chosen], device), chosen)))
    finally:
        model.train(was_training)
    return done


def _alike_together(rows: Sequence[Sequence[int]]) -> list[int]:
    """Groups of rows that share more than half of the shorter one, the group with the longest row first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        before = rows[groups[-1][-1]] if groups else []
        half = min(len(before), len(rows[index])) // 2
        if groups and list(before[: half + 1]) == list(rows[index][: half + 1]):
            groups[-1].append(index)
        else:
            groups.append([index])
    groups.sort(key=lambda group: -max(len(rows[i]) for i in group))
    return [index for group in groups for index in group]


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    width = max(len(row) for row in rows)
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
