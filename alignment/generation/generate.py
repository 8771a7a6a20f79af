"""Answers of a model to chat prompts.

Sampling settings that a model's generation_config brings along are not used: a comparison samples every model alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError, ModelError
from reward.context import context_length

if TYPE_CHECKING:
    from torch import Tensor

    from alignment.generation.decode import Pick


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

    An answer ends at the tokenizer's EOS, at what ends a turn of its chat template, or at an end token of the model's
    generation_config. With a temperature, the draws of prompt i come from (seed, i) alone: batch size and neighbours
    change nothing but rounding.

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
    return generate_from_ids(
        model,
        tokenizer,
        [_prompt_ids(tokenizer, prompt) for prompt in prompts],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        bf16=bf16,
        say=say,
    )


def generate_from_ids(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    bf16: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Generation | None]:
    """As `generate`, after prompts that are token ids already, none empty."""
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_p {top_p}: out of range")
    import torch

    from alignment.generation.decode import BATCH_SIZE, bf16_weights, decode, prefill, stop_ids
    from alignment.runtime import autocast_bf16

    stops = stop_ids(model, tokenizer)
    limit = context_length(model)
    fitting = [i for i, row in enumerate(rows) if limit is None or len(row) + max_new_tokens <= limit]
    order = sorted(fitting, key=lambda i: (-len(rows[i]), i))
    found: list[Generation | None] = [None] * len(rows)

    device = model.get_input_embeddings().weight.device
    size = batch_size or BATCH_SIZE
    forward = partial(_logits, model)
    was_training, written, started = model.training, 0, time.monotonic()
    model.eval()
    try:
        with torch.no_grad(), bf16_weights(model, autocast_bf16(str(device)) if bf16 is None else bf16):
            for first in range(0, len(order), size):
                batch = order[first : first + size]
                pick = _picker(batch, max_new_tokens, temperature, top_p, seed)
                start = prefill(forward, model, [rows[i] for i in batch])
                for i, (ids, finished) in zip(batch, decode(forward, start, pick, stops, max_new_tokens), strict=True):
                    kept = ids[:-1] if finished else ids
                    found[i] = Generation(tokenizer.decode(kept, skip_special_tokens=True), len(kept), finished)
                    written += len(kept)
                if say is not None:
                    rate = written / (time.monotonic() - started)
                    say(f"{first + len(batch)}/{len(order)} answers, {written} tokens, {rate:.0f} tokens/s")
    finally:
        model.train(was_training)
    return found


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


def _logits(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Next-token logits (N, V) float32."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()  # type: ignore[no-any-return]


def _picker(batch: Sequence[int], max_new_tokens: int, temperature: float, top_p: float, seed: int) -> Pick:
    if temperature == 0:
        return lambda logits, rows, step: logits.argmax(-1)
    from alignment.generation.draws import row_uniforms, sample_tokens

    drawn = row_uniforms([(seed, i) for i in batch], max_new_tokens)

    def pick(logits: Tensor, rows: list[int], step: int) -> Tensor:
        return sample_tokens(logits / temperature, drawn[rows, step].to(logits.device), top_p)

    return pick
