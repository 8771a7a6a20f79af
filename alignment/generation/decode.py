"""The decoding loop: a prompt runs once, every row gets its own continuation, rows that end leave the batch.

Decoding is bound by memory traffic: bf16 weights halve it, and a key-value cache that grows in place saves the copy of
the whole cache that a growing one costs at every token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignment.errors import ModelError
from alignment.generation.kv_cache import growing_cache, grows_in_place, join_caches, keep_rows, spread_cache
from alignment.generation.turn_end import end_tokens

BATCH_SIZE = 64
# Prompts of other lengths run apart once so many tokens ran together that a pass is worth its overhead.
ENOUGH_TOKENS = 256
ENOUGH_ON_GPU = 8192
_DROP_SHARE = 0.1  # finished rows leave the batch when they are this share of it: every leaving copies the cache

# (ids (N, T), attention mask (N, K), positions (N, T), cache) -> what tokens are picked from, at the last id: (N, ·)
Forward = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
Pick = Callable[[Tensor, list[int], int], Tensor]  # (what `Forward` returned, rows, step) -> token ids (N,)


class Prefilled(NamedTuple):
    """Prompts that ran: U rows, padded on the left."""

    output: Tensor  # (U, ·) at their last tokens
    cache: Any
    mask: Tensor  # (U, T)
    positions: Tensor  # (U, 1) of their last tokens

    def spread(self, rows: Sequence[int]) -> Prefilled:
        """Row i is row rows[i] of this one, with keys and values of its own."""
        places = torch.tensor(rows, device=self.mask.device)
        cache = spread_cache(self.cache, places)
        return Prefilled(self.output[places], cache, self.mask[places], self.positions[places])


def prefill(forward: Forward, model: Any, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Runs the prompts (token ids, none empty): what all begin with once (a system message, examples), then neighbours
    of about one length together, so that little is padded."""
    device = model.get_input_embeddings().weight.device
    enough = ENOUGH_TOKENS if device.type == "cpu" else ENOUGH_ON_GPU
    if not grows_in_place(model):
        return _prefill(forward, model, prompts, device)
    root = None
    shared = _shared(prompts) if _told_positions(model) else 0
    if shared * (len(prompts) - 1) >= enough:
        root = _prefill(forward, model, [prompts[0][:shared]], device)
    parts, first = [], 0
    for count in _alike([len(prompt) - (shared if root else 0) for prompt in prompts], enough):
        parts.append(_prefill(forward, model, prompts[first : first + count], device, root))
        first += count
    return parts[0] if len(parts) == 1 else _joined(parts)


def _prefill(
    forward: Forward,
    model: Any,
    prompts: Sequence[Sequence[int]],
    device: torch.device,
    root: Prefilled | None = None,
) -> Prefilled:
    """Runs the prompts in one forward pass, behind their common beginning where that ran already."""
    shared = 0 if root is None else root.mask.shape[1]
    rests = [list(prompt[shared:]) for prompt in prompts]
    width = max(len(rest) for rest in rests)
    ids = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=device)
    mask = torch.tensor([[1] * shared + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, shared:]
    cache = growing_cache(model) if root is None else root.spread([0] * len(rests)).cache
    return Prefilled(forward(ids, mask, positions, cache), cache, mask, positions[:, -1:])


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; each keeps one of its own, which its output comes from."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))  # of all, these have least in common
    most = min(len(prompt) for prompt in prompts) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _told_positions(model: Any) -> bool:
    """Whether the model takes each token's position from its caller, who knows of the padding behind a common
    beginning, and they mean the same in every pass."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    told = "position_ids" in inspect.signature(type(model.base_model).forward).parameters
    return told and not kinds & {"dynamic", "longrope"}


def _alike(lengths: Sequence[int], enough: int) -> list[int]:
    """How many of the rows, in their order, to run together: until one is a tenth shorter or longer than the first,
    but never fewer than `enough` tokens at a time."""
    counts = [0]
    first, tokens = lengths[0], 0
    for length in lengths:
        if tokens >= enough and not 0.9 * first <= length <= 1.1 * first:
            counts.append(0)
            first, tokens = length, 0
        counts[-1] += 1
        tokens += length
    return counts


def _joined(parts: Sequence[Prefilled]) -> Prefilled:
    width = max(part.mask.shape[1] for part in parts)
    masks = [torch.nn.functional.pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]
    cache = join_caches([part.cache for part in parts], width)
    positions = torch.cat([part.positions for part in parts])
    return Prefilled(torch.cat([part.output for part in parts]), cache, torch.cat(masks), positions)


def decode(
    forward: Forward, start: Prefilled, pick: Pick, stops: frozenset[int], max_new_tokens: int
) -> list[tuple[list[int], bool]]:
    """(token ids, ended before the limit) of every row of `start`, whose cache is used up.

    The ids of a row that ended hold the end token that ended it.
    """
    output, cache, mask, positions = start
    written: list[list[int]] = [[] for _ in mask]
    ended = [False] * len(mask)
    rows = list(range(len(mask)))  # what the rows of the batch are, as others leave it
    for step in range(max_new_tokens):
        chosen = pick(output, rows, step)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if not ended[row]:
                written[row].append(token)
                ended[row] = token in stops
        staying = [place for place, row in enumerate(rows) if not ended[row]]
        if not staying or step + 1 == max_new_tokens:
            break
        if len(staying) <= (1 - _DROP_SHARE) * len(rows):
            kept = torch.tensor(staying, device=mask.device)
            keep_rows(cache, kept)
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            rows = [rows[place] for place in staying]
        positions = positions + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        output = forward(chosen[:, None], mask, positions, cache)
    return list(zip(written, ended, strict=True))


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """What ends an answer: the tokenizer's EOS, the token that ends a turn of its chat template, and the end tokens of
    the model's generation_config.

    Raises ModelError when there is none.
    """
    ends = frozenset(end_tokens(model, tokenizer))
    if not ends:
        raise ModelError(f"{tokenizer.name_or_path}: its tokenizer has no EOS token, so no answer could end; add one")
    return ends


@contextmanager
def bf16_weights(model: Any, wanted: bool) -> Iterator[None]:
    """The model's fp32 parameters as bf16 inside the block.

    Swapped in place, not copied: whatever wraps a module's forward keeps working. Buffers (rotary frequencies) stay
    fp32, as they do in a model that is loaded in bf16.
    """
    originals = [(p, p.data) for p in model.parameters() if wanted and p.dtype == torch.float32]
    try:
        for parameter, data in originals:
            parameter.data = data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data
