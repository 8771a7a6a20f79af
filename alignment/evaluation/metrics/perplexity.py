"""Perplexity of texts from their summed log-likelihoods (nats), per whatever they are divided by.

Word perplexity = exp(-Σ log p / Σ words), bits per byte = -Σ log p / (ln 2 · Σ bytes), token perplexity with tokens.
Words are those of the text as published, before any detokenising; tokens are the model's own, so that token
perplexities of different tokenizers cannot be compared, while words and bytes are the text's.
Sums of all documents are divided, never the documents' own perplexities averaged; intervals draw whole documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from alignment.evaluation.statistics import Interval, ratio_interval


def perplexity(logprobs: Sequence[float], counts: Sequence[int], *, seed: int, per: str) -> Interval:
    """exp(-Σ logprobs / Σ counts) of N documents; `per` (word, token) names what is counted.

    Undefined when every count is 0, or when it is larger than a floating-point number can be. Raises ValueError as
    `bits_per_byte`.
    """
    nats = _nats(logprobs, counts, seed)
    if nats.value is None:
        return nats
    try:
        value, low, high = (None if x is None else math.exp(x) for x in (nats.value, nats.low, nats.high))
    except OverflowError:
        reason = f"{per} perplexity: too large for a number, exp({nats.value:.0f})"
        return Interval(None, None, None, reason, nats.n)
    return Interval(value, low, high, f"{per} perplexity: exp of the {nats.method}", nats.n)


def bits_per_byte(logprobs: Sequence[float], n_bytes: Sequence[int], *, seed: int) -> Interval:
    """-Σ logprobs / (ln 2 · Σ bytes): comparable between tokenizers.

    Raises:
        ValueError: a log-likelihood above 0 or not finite, a count below 0, lists of different lengths.
    """
    nats = _nats(logprobs, n_bytes, seed)
    value, low, high = (None if x is None else x / math.log(2) for x in (nats.value, nats.low, nats.high))
    return replace(nats, value=value, low=low, high=high)


def _nats(logprobs: Sequence[float], counts: Sequence[int], seed: int) -> Interval:
    if any(logprob > 0 for logprob in logprobs):
        raise ValueError("a log-likelihood is above 0; it must be the summed natural logarithm of probabilities")
    if counts and not any(counts):
        return Interval(None, None, None, "undefined: every count is 0", len(counts))
    return ratio_interval([-logprob for logprob in logprobs], counts, seed=seed)
