"""Multiple choice by likelihood."""

from __future__ import annotations

from collections.abc import Sequence


def choice_credit(scores: Sequence[float], answer: int) -> float:
    """1 when the highest score is the answer's, else 0; k choices that share the highest score share the credit, 1/k.

    Taking the first of them would reward the place of the answer.
    """
    best = max(scores)
    return 1 / sum(score == best for score in scores) if scores[answer] == best else 0.0


def per_byte(logprobs: Sequence[float], texts: Sequence[str]) -> list[float]:
    """Log-likelihoods divided by the UTF-8 bytes of the choices, so that short choices have no head start.

    Bytes, not tokens: comparable between tokenizers.
    """
    return [logprob / len(text.encode()) for logprob, text in zip(logprobs, texts, strict=True)]


def changed(credits: Sequence[float], before: Sequence[float]) -> tuple[int, int]:
    """(gained, lost): items that became right or wrong, for McNemar's test; a change of shared credit counts too."""
    moves = list(zip(credits, before, strict=True))
    return sum(new > old for new, old in moves), sum(new < old for new, old in moves)
