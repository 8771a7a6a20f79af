"""Answers of a model to chat prompts.

Decoding is bound by memory traffic: bf16 weights halve it, and a key-value cache that grows in place saves the copy of
the whole cache that a growing one costs at every token. Sampling settings that a model's generation_config brings
along are not used: a comparison samples every model alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    Pick = Callable[[Tensor, list[int], int], Tensor]  # (logits (N, V), rows, step) -> token ids (N,)

BATCH_SIZE = 64
_DROP_SHARE = 0.1  # finished rows leave the batch when they are this share of it: every leaving copies the cache


@dataclass(frozen=True)
class Generation:
    """`n_tokens` counts the text's tokens without the end token; `finished`: the model ended it before the limit."""

    text: str
    n_tokens: int
    finished: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    bf16: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Generation | None]:
    """One answer per prompt, in the order given; None where prompt and answer cannot fit the model's context.

    An answer ends at the tokenizer's EOS or at an end token of the model's generation_config. With a temperature, the
    draws of prompt i come from (seed, i) alone: batch size and neighbours change nothing but rounding.

    Args:
        model: a causal language model; its weights are bf16 while it generates and as before afterwards.
        tokenizer: its tokenizer, with a chat template.
        prompts: N conversations, each ending where the assistant is to speak.
        max_new_tokens: most tokens of an answer, its end token included.
        temperature: 0 takes the most likely token.
        top_p: with a temperature, draw from the smallest set of tokens of this mass (Holtzman et al. 2020).
        seed: of the draws.
        batch_size: prompts decoded together; None takes 64. Longest prompts go first.
        bf16: None follows the hardware (a CPU without bf16 instructions decodes in fp32).
        say: takes progress lines.

    Raises:
        ModelError: no chat template or no end token.
        DataError: a prompt that the chat template refuses.
        ValueError: settings out of range.
    """
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_p {top_p}: out of range")
    stops = _stop_ids(model, tokenizer)
    rows = [_prompt_ids(tokenizer, prompt) for prompt in prompts]
    limit = getattr(model.config, "max_position_embeddings", None)
    fitting = [i for i, row in enumerate(rows) if limit is None or len(row) + max_new_tokens <= limit]
    order = sorted(fitting, key=lambda i: (-len(rows[i]), i))
    found: list[Generation | None] = [None] * len(rows)

    import torch

    from alignment.runtime import autocast_bf16

    device = model.get_input_embeddings().weight.device
    size = batch_size or BATCH_SIZE
    was_training, written, started = model.training, 0, time.monotonic()
    model.eval()
    try:
        with torch.no_grad(), _bf16_weights(model, autocast_bf16(str(device)) if bf16 is None else bf16):
            for first in range(0, len(order), size):
                batch = order[first : first + size]
                pick = _picker(batch, max_new_tokens, temperature, top_p, seed)
                for i, (ids, finished) in zip(
                    batch, _decode(model, [rows[i] for i in batch], pick, stops, max_new_tokens), strict=True
                ):
                    text = tokenizer.decode(ids, skip_special_tokens=True)
                    found[i] = Generation(text, len(ids), finished)
                    written += len(ids)
                if say is not None:
                    rate = written / (time.monotonic() - started)
                    say(f"{first + len(batch)}/{len(order)} answers, {written} tokens, {rate:.0f} tokens/s")
    finally:
        model.train(was_training)
    return found


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])} - {None}
    if not ends:
        raise ModelError(f"{tokenizer.name_or_path}: its tokenizer has no EOS token, so no answer could end; add one")
    return frozenset(ends)


def _prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path} has no chat template; name a Jinja file under the recipe's chat_template"
        )
    try:
        return tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            list(messages), tokenize=True, add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the chat template of {tokenizer.name_or_path} refuses the roles {roles}: {error}") from error


@contextmanager
def _bf16_weights(model: Any, wanted: bool) -> Iterator[None]:
    """The model's fp32 parameters as bf16 inside the block.

    Swapped in place, not copied: whatever wraps a module's forward keeps working. Buffers (rotary frequencies) stay
    fp32, as they do in a model that is loaded in bf16.
    """
    import torch

    originals = [(p, p.data) for p in model.parameters() if wanted and p.dtype == torch.float32]
    try:
        for parameter, data in originals:
            parameter.data = data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def _picker(batch: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int) -> Pick:
    import torch

    if temperature == 0:
        return lambda logits, rows, step: logits.argmax(-1)
    import numpy as np

    drawn = np.stack([np.random.default_rng([seed, i]).random(max_new_tokens) for i in batch])
    uniforms = torch.from_numpy(drawn)

    def pick(logits: Tensor, rows: list[int], step: int) -> Tensor:
        return sample_tokens(logits / temperature, uniforms[rows, step].to(logits.device), top_p)

    return pick


def sample_tokens(logits: Tensor, uniforms: Tensor, top_p: float = 1.0) -> Tensor:
    """Token ids (N,) drawn from softmax(logits) (N, V) by inverting its cumulative sum at `uniforms` (N,) in [0, 1).

    `top_p` keeps the smallest set of most likely tokens whose mass reaches it.
    """
    import torch

    probabilities = logits.double().softmax(-1)
    tokens = None
    if top_p < 1:
        probabilities, tokens = probabilities.sort(-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    mass = probabilities.cumsum(-1)
    aims = uniforms[:, None] * mass[:, -1:]
    # right=True steps over tokens of probability 0; the minimum guards the last one against rounding.
    drawn = torch.searchsorted(mass, aims, right=True)
    drawn = torch.minimum(drawn, (mass < mass[:, -1:]).sum(-1, keepdim=True))
    return (drawn if tokens is None else tokens.gather(-1, drawn)).squeeze(-1)


def _decode(
    model: Any, prompts: Sequence[list[int]], pick: Pick, stops: frozenset[int], max_new_tokens: int
) -> list[tuple[list[int], bool]]:
    """(token ids without the end token, ended before the limit) of one left-padded batch."""
    import torch

    from alignment.evaluation.kv_cache import growing_cache

    device = model.get_input_embeddings().weight.device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    cache = growing_cache(model)
    texts: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    rows = list(range(len(prompts)))  # what the rows of the batch are, as others leave it
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = pick(logits.float(), rows, step)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            ended[row] = ended[row] or token in stops
            if not ended[row]:
                texts[row].append(token)
        staying = [place for place, row in enumerate(rows) if not ended[row]]
        if not staying:
            break
        if len(staying) <= (1 - _DROP_SHARE) * len(rows):
            kept = torch.tensor(staying, device=device)
            cache.batch_select_indices(kept)
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            rows = [rows[place] for place in staying]
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
    return list(zip(texts, ended, strict=True))
