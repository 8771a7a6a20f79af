"""Likelihood of documents longer than a model's context, by windows as lm-eval's loglikelihood_rolling cuts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.errors import ModelError
from alignment.evaluation.token_scores import TokenRow, token_scores
from reward.context import context_length


@dataclass(frozen=True)
class DocumentLogprob:
    """Σ log p over a document in nats, and over how many tokens."""

    logprob: float
    n_tokens: int


def rolling_logprob(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    window: int | None = None,
    batch_tokens: int = 4096,
    bf16: bool | None = None,
) -> list[DocumentLogprob | None]:
    """Log-likelihood of each text, every token scored exactly once, the first one predicted from BOS (or EOS).

    A window reads `window` tokens (None: the model's context) and scores those that no earlier one did; the last one
    reaches back as far, so that its tokens have as much in front of them as there is. None for a text of no tokens.

    Raises:
        ModelError: no BOS and no EOS token, a window longer than the model's context, or a model whose logits
            `check_head` finds to be more than `head_logits`.
        ValueError: a window below 1.
    """
    if window is not None and window < 1:
        raise ValueError(f"window {window}: at least one token must be read")
    limit = context_length(model)
    if window is not None and limit is not None and window > limit:
        raise ModelError(f"window {window} is longer than the model's context of {limit} tokens; make it shorter")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has neither BOS nor EOS to predict a first token from"
        )
    documents = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
    rows: list[TokenRow] = []
    owners: list[int] = []
    for number, ids in enumerate(documents):
        mine = list(_windows((start, *ids), window or limit or len(ids)))
        rows += mine
        owners += [number] * len(mine)
    sums = [0.0] * len(documents)
    for number, score in zip(owners, token_scores(model, rows, batch_tokens=batch_tokens, bf16=bf16), strict=True):
        sums[number] += score.logprob
    return [DocumentLogprob(total, len(ids)) if ids else None for total, ids in zip(sums, documents, strict=True)]


def _windows(ids: Sequence[int], width: int) -> Iterator[TokenRow]:
    """Rows of ids, of which the first is given: `width` tokens are read, and each token is scored in one row."""
    last = len(ids) - 1
    for first in range(0, last, width):
        end = min(first + width, last)
        row = tuple(ids[max(0, end - width) : end + 1])
        yield TokenRow(row, len(row) - (end - first))
