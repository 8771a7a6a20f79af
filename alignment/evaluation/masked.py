"""Pseudo-log-likelihood of sentence pairs under a masked language model (Nangia et al. 2020, "CrowS-Pairs", eq. 1).

score(S) = Σ_u log p(u | S without u) over the tokens u that the two sentences share: one token is masked at a time, and
the tokens that differ are read but never scored, so that how frequent a group's name is does not count. As in the
authors' metric.py the shared tokens are the equal blocks that difflib finds between the token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from alignment.errors import ModelError
from reward.context import context_length


@dataclass(frozen=True)
class _Masked:
    """A sentence with one token masked."""

    sentence: int
    ids: tuple[int, ...]
    position: int
    token: int  # what stood there


def is_masked(model: Any) -> bool:
    """Whether a loaded model predicts masked tokens (BertForMaskedLM...) instead of the next one."""
    return type(model).__name__.endswith("ForMaskedLM")


def require_causal(model: Any) -> None:
    """Raises ModelError for a masked language model."""
    if is_masked(model):
        raise ModelError(
            f"{type(model).__name__}: a masked language model has no likelihood of a text from left to right; "
            "only `crows_pairs: {variant: pseudo}` evaluates one"
        )


def require_masked(model: Any, tokenizer: Any) -> None:
    """Raises ModelError for any other model than a masked one, and for a tokenizer without a mask token."""
    if not is_masked(model):
        raise ModelError(
            f"{type(model).__name__}: no masked language model, which a pseudo-log-likelihood needs; "
            "evaluate this one with `crows_pairs: {variant: causal}`"
        )
    if tokenizer.mask_token_id is None:
        raise ModelError(f"{tokenizer.name_or_path}: its tokenizer has no mask token; take the model's own tokenizer")


def shared_tokens(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (in a, in b) of the tokens that two sequences share, in order."""
    matcher = SequenceMatcher(None, a, b)
    return [(i + k, j + k) for i, j, size in matcher.get_matching_blocks() for k in range(size)]


def pseudo_logprobs(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_tokens: int = 2048
) -> list[tuple[float, float] | None]:
    """Both sentences' pseudo-log-likelihoods over their shared tokens, in nats, in float32 throughout.

    Special tokens are never masked. Sentences without a shared token score 0 both: a tie, as in the authors' code.

    Args:
        model: a masked language model, in eval mode.
        tokenizer: its tokenizer.
        pairs: N pairs of sentences.
        batch_tokens: most tokens of a batch, padding included (a longer sentence runs alone).

    Returns:
        N pairs of scores in the order given; None where a sentence is longer than the model's context.

    Raises:
        ModelError: the model is no masked language model, or the tokenizer has no mask token.
    """
    require_masked(model, tokenizer)
    texts = [text for pair in pairs for text in pair]
    if not texts:
        return []
    read = tokenizer(texts, return_special_tokens_mask=True)
    ids, special = read["input_ids"], read["special_tokens_mask"]
    limit = _longest(model, tokenizer)
    fits = [max(len(ids[2 * n]), len(ids[2 * n + 1])) <= limit for n in range(len(pairs))]
    rows: list[_Masked] = []
    for n in (n for n, fit in enumerate(fits) if fit):
        first, second = 2 * n, 2 * n + 1
        for here, there in shared_tokens(ids[first], ids[second]):
            if not special[first][here]:
                rows += [_masked(tokenizer, at, ids[at], place) for at, place in ((first, here), (second, there))]
    sums = [0.0] * len(texts)
    for row, logprob in zip(rows, _logprobs(model, tokenizer, rows, batch_tokens), strict=True):
        sums[row.sentence] += logprob
    return [(sums[2 * n], sums[2 * n + 1]) if fit else None for n, fit in enumerate(fits)]


def _masked(tokenizer: Any, sentence: int, ids: Sequence[int], position: int) -> _Masked:
    changed = (*ids[:position], tokenizer.mask_token_id, *ids[position + 1 :])
    return _Masked(sentence, changed, position, ids[position])


def _longest(model: Any, tokenizer: Any) -> int:
    """Tokens that fit. A tokenizer of RoBERTa's kind knows better than the config, which counts two places more."""
    places = context_length(model)
    return int(min(tokenizer.model_max_length, places or tokenizer.model_max_length))


def _logprobs(model: Any, tokenizer: Any, rows: Sequence[_Masked], batch_tokens: int) -> list[float]:
    """log p of what every mask stands for, in the order given."""
    import torch

    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    found = [0.0] * len(rows)
    with torch.no_grad():
        for batch in _batches(rows, batch_tokens):
            width = max(len(rows[i].ids) for i in batch)
            ids = torch.tensor([[*rows[i].ids, *[pad] * (width - len(rows[i].ids))] for i in batch], device=device)
            length = torch.tensor([len(rows[i].ids) for i in batch], device=device)[:, None]
            seen = (torch.arange(width, device=device) < length).long()
            logits = model(input_ids=ids, attention_mask=seen).logits
            row = torch.arange(len(batch), device=device)
            at = logits[row, torch.tensor([rows[i].position for i in batch], device=device)].float()
            tokens = torch.tensor([rows[i].token for i in batch], device=device)
            for i, logprob in zip(batch, at.log_softmax(-1)[row, tokens].tolist(), strict=True):
                found[i] = logprob
    return found


def _batches(rows: Sequence[_Masked], batch_tokens: int) -> Iterator[list[int]]:
    """Longest first, at most `batch_tokens` tokens with padding."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i)):
        if batch and (len(batch) + 1) * len(rows[batch[0]].ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
