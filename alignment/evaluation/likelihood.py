"""How likely a model finds a text: the one computation behind bias pairs, bits per byte and multiple choice.

The trunk runs under bf16 autocast where the hardware has it; head and log-softmax run in float32, and only for the
positions that predict a scored token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_HEAD_TOKENS = 1024  # positions projected at a time: memory for logits is this times the vocabulary


@dataclass(frozen=True)
class SequenceLogprob:
    """log p(continuation | context) in nats, over this many tokens and UTF-8 bytes of continuation."""

    logprob: float
    n_tokens: int
    n_bytes: int


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    n_context: int  # tokens that are read but not scored
    context: str


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
        batch_tokens: most tokens of a batch, padding included (a longer row runs alone).
        bf16: run the trunk under bf16 autocast; None follows the hardware.

    Returns:
        N results in the order given; None where a row is longer than the model's context.

    Raises:
        ModelError: no BOS and no EOS token, or a model whose logits are more than its head's output.
        ValueError: lists of different lengths or an empty continuation.
    """
    rows = _rows(tokenizer, contexts, continuations)
    limit = getattr(model.config, "max_position_embeddings", None)
    fitting = [i for i, row in enumerate(rows) if limit is None or len(row.ids) <= limit]
    if not fitting:
        return [None] * len(rows)

    import torch

    from alignment.runtime import autocast_bf16

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = causal.get_input_embeddings().weight.device
    found: list[SequenceLogprob | None] = [None] * len(rows)
    was_training = model.training
    model.eval()
    try:
        enabled = autocast_bf16(str(device)) if bf16 is None else bf16
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            _check_head(causal, rows[fitting[0]].ids[:8], device)
            for batch in _batches(rows, fitting, batch_tokens):
                for index, logprob in zip(batch, _run(causal, [rows[i] for i in batch], device), strict=True):
                    row = rows[index]
                    n_bytes = len(continuations[index].encode())
                    found[index] = SequenceLogprob(logprob, len(row.ids) - row.n_context, n_bytes)
    finally:
        model.train(was_training)
    return found


def _rows(tokenizer: Any, contexts: Sequence[str], continuations: Sequence[str]) -> list[_Row]:
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
        rows.append(_Row([*front, *ids], len(front) + shared, context))
    return rows


def _batches(rows: Sequence[_Row], chosen: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Longest rows first, at most `batch_tokens` tokens each with padding.

    Rows of one context follow each other, so that a model that shares prefixes runs the context once.
    """
    widest: dict[str, int] = {}
    for i in chosen:
        widest[rows[i].context] = max(widest.get(rows[i].context, 0), len(rows[i].ids))

    def place(i: int) -> tuple[int, str, int]:
        shared = bool(rows[i].context)
        return (-(widest[rows[i].context] if shared else len(rows[i].ids)), rows[i].context, i)

    batch: list[int] = []
    width = 0
    for i in sorted(chosen, key=place):
        if batch and (len(batch) + 1) * max(width, len(rows[i].ids)) > batch_tokens:
            yield batch
            batch, width = [], 0
        batch.append(i)
        width = max(width, len(rows[i].ids))
    if batch:
        yield batch


def _run(causal: Any, rows: Sequence[_Row], device: Any) -> list[float]:
    """Summed log-probabilities of a batch, accumulated in float64."""
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=device)
    position = torch.arange(width, device=device)
    length = torch.tensor([len(row.ids) for row in rows], device=device)[:, None]
    context = torch.tensor([row.n_context for row in rows], device=device)[:, None]
    hidden = causal.base_model(
        input_ids=ids, attention_mask=(position < length).long(), use_cache=False
    ).last_hidden_state
    scored = ((position >= context) & (position < length))[:, 1:]
    states, targets = hidden[:, :-1][scored], ids[:, 1:][scored]  # the state at t predicts the token at t + 1
    parts = []
    for some, wanted in zip(torch.split(states, _HEAD_TOKENS), torch.split(targets, _HEAD_TOKENS), strict=True):
        logits = _head(causal, some)
        parts.append(logits.gather(-1, wanted[:, None]).squeeze(-1) - logits.logsumexp(-1))
    sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
    sums.index_add_(0, scored.nonzero()[:, 0], torch.cat(parts).double())
    return sums.tolist()


def _head(causal: Any, states: Tensor) -> Tensor:
    """Logits (S, V) of states (S, H) in float32: bf16 logits near 20 are 1/8 apart, too coarse to compare sentences."""
    import torch

    head = causal.get_output_embeddings()
    with torch.autocast(states.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.float()
        return torch.nn.functional.linear(states.float(), head.weight.float(), bias)


def _check_head(causal: Any, ids: list[int], device: Any) -> None:
    """Raises ModelError when the model's logits are not its head's output: scaled, soft-capped..."""
    import torch

    probe = torch.tensor([ids], device=device)
    expected = causal(input_ids=probe, use_cache=False).logits.float()
    found = _head(causal, causal.base_model(input_ids=probe, use_cache=False).last_hidden_state[0])[None]
    tolerance = 0.02 * (1.0 + float(expected.abs().max()))  # bf16 logits under autocast
    if not float((found - expected).abs().max()) <= tolerance:
        raise ModelError(
            f"{type(causal).__name__}: it scales or caps its logits, which likelihood benchmarks do not support; "
            "leave this model out of the suites that need them"
        )
