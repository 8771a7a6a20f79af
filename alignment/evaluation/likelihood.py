"""How likely a model finds a text: the one computation behind bias pairs, bits per byte and multiple choice.

Here texts become tokens; token_scores.py runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignment.errors import ModelError
from alignment.evaluation.token_scores import TokenRow, token_scores
from reward.context import context_length


@dataclass(frozen=True)
class SequenceLogprob:
    """log p(continuation | context) in nats, over this many tokens and UTF-8 bytes of continuation.

    `greedy`: every one of these tokens is the most likely one.
    """

    logprob: float
    n_tokens: int
    n_bytes: int
    greedy: bool


def sequence_logprob(
    model: Any,
    tokenizer: Any,
    contexts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_tokens: int = 4096,
    bf16: bool | None = None,
) -> list[SequenceLogprob | None]:
    """Log-likelihood of each continuation after its context; "" as context scores a text from its first token.

    The first token of a text is predicted from BOS, or from EOS where a tokenizer has no BOS. With a context it is
    put in front only where the tokenizer does so itself. Both texts are tokenised together; when a token spans their
    border it counts as continuation.

    Args:
        model: a causal language model, or a PEFT model with adapters inside the layers.
        tokenizer: its tokenizer; the chat template is not used.
        contexts: N texts, read but not scored.
        continuations: N texts, none of them empty.
        batch_tokens: most tokens of a batch, with padding unless the model shares prefixes (a longer row runs alone).
        bf16: run the trunk under bf16 autocast; None follows the hardware.

    Returns:
        N results in the order given; None where a row is longer than the model's context, or where the tokenizer
        makes no token of a continuation.

    Raises:
        ModelError: no BOS and no EOS token, or a model whose logits `check_head` finds to be more than `head_logits`.
        ValueError: lists of different lengths or an empty continuation.
    """
    rows = _rows(tokenizer, contexts, continuations)
    limit = context_length(model)
    fitting = [
        i for i, row in enumerate(rows) if row.n_context < len(row.ids) and (limit is None or len(row.ids) <= limit)
    ]
    found: list[SequenceLogprob | None] = [None] * len(rows)
    scores = token_scores(model, [rows[i] for i in fitting], batch_tokens=batch_tokens, bf16=bf16)
    for index, score in zip(fitting, scores, strict=True):
        n_tokens = len(rows[index].ids) - rows[index].n_context
        found[index] = SequenceLogprob(score.logprob, n_tokens, len(continuations[index].encode()), score.greedy)
    return found


def _rows(tokenizer: Any, contexts: Sequence[str], continuations: Sequence[str]) -> list[TokenRow]:
    if len(contexts) != len(continuations):
        raise ValueError(f"{len(contexts)} contexts for {len(continuations)} continuations")
    if not contexts:
        return []
    if not all(continuations):
        raise ValueError("an empty continuation has no likelihood")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has neither BOS nor EOS to predict a first token from"
        )
    always = tokenizer("").input_ids[:1] == [start]
    known = sorted(set(contexts))
    alone = dict(zip(known, tokenizer(known, add_special_tokens=False).input_ids, strict=True))
    texts = [context + continuation for context, continuation in zip(contexts, continuations, strict=True)]
    rows = []
    for context, ids in zip(contexts, tokenizer(texts, add_special_tokens=False).input_ids, strict=True):
        pairs = zip(alone[context], ids, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone[context]), len(ids)))
        front = [start] if always or shared == 0 else []
        rows.append(TokenRow((*front, *ids), len(front) + shared))
    return rows
