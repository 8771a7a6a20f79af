"""Log-probabilities of completions.

Only the hidden states that predict a scored token meet the language-model head, a chunk at a time (`projection.py`):
logits for prompt and padding positions never exist, and those of the completion never all at once. Everything below is
the trunk's business (`model.base_model.forward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from alignment.generation.head import unwrap_peft
from alignment.training.projection import Beside, collision, entropy, hits, projected


def token_logprobs(
    model: Any, batch: Mapping[str, Tensor], temperature: float = 1.0, chunk_tokens: int = 1024
) -> Tensor:
    """log p(token t+1 | tokens 0..t) for the scored tokens of a padded batch.

    Args:
        model: a decoder with a language-model head, or a PeftModel of one; with `share_prefixes` its rows share.
        batch: `input_ids`, `attention_mask`, `completion_mask`, each (N, T).
        temperature: the logits are divided by it.
        chunk_tokens: tokens projected at a time; memory for logits is chunk_tokens x vocabulary.

    Returns:
        (N, T-1) float32 nats, column t belongs to token t+1, 0 where that token is not scored. The soft-max runs in
        float32 whatever the autocast.
    """
    return _per_token(model, batch, temperature, chunk_tokens)[0]


def token_logprobs_and_entropy(
    model: Any, batch: Mapping[str, Tensor], temperature: float = 1.0, chunk_tokens: int = 1024
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy H = -Σ_v p(v) log p(v) of each distribution a scored token was predicted by.

    Returns:
        Two (N, T-1) float32 tensors in nats, both with gradients, both 0 where the token is not scored.
    """
    logps, found = _per_token(model, batch, temperature, chunk_tokens, entropy, beside_learns=True)
    return logps, found


def token_logprobs_and_hits(
    model: Any, batch: Mapping[str, Tensor], temperature: float = 1.0, chunk_tokens: int = 1024
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and whether each scored token was the most likely one: two (N, T-1) float32 tensors.

    The second is 1 or 0, without gradient.
    """
    logps, found = _per_token(model, batch, temperature, chunk_tokens, hits)
    return logps, found


def token_logprobs_and_collision(
    model: Any, batch: Mapping[str, Tensor], temperature: float = 1.0, chunk_tokens: int = 1024
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and log Σ_v p(v)² of each distribution a scored token was predicted by.

    The second is the log of the probability that two draws are the same token, in nats, without gradient.

    Returns:
        Two (N, T-1) float32 tensors, both 0 where the token is not scored.
    """
    logps, found = _per_token(model, batch, temperature, chunk_tokens, collision)
    return logps, found


def _per_token(
    model: Any,
    batch: Mapping[str, Tensor],
    temperature: float,
    chunk_tokens: int,
    beside: Beside | None = None,
    beside_learns: bool = False,
) -> list[Tensor]:
    """Log-probabilities of the scored tokens and what is said beside them, each (N, T-1)."""
    causal, states, targets, scored = scored_states(model, batch)
    flat = projected(causal, states, targets, temperature, chunk_tokens, beside, beside_learns)
    return [values.new_zeros(scored.shape).masked_scatter(scored, values) for values in flat]


def scored_states(model: Any, batch: Mapping[str, Tensor]) -> tuple[Any, Tensor, Tensor, Tensor]:
    """The transformers model, the hidden states (S, H) that predict the S scored tokens, these tokens (S,), and where
    they are: (N, T-1) bool, row by row."""
    causal = unwrap_peft(model)
    hidden = causal.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state  # (N, T, H)
    scored = batch["completion_mask"][:, 1:].bool()
    # the state at t predicts the token at t+1
    return causal, hidden[:, :-1][scored], batch["input_ids"][:, 1:][scored], scored


def sequence_logprobs(
    model: Any, batch: Mapping[str, Tensor], temperature: float = 1.0, chunk_tokens: int = 1024
) -> Tensor:
    """log p(completion | prompt) of every row: (N,) float32 nats, the sum of `token_logprobs`."""
    return token_logprobs(model, batch, temperature, chunk_tokens).sum(dim=1)
