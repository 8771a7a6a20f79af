"""Continuations drawn from a model's own distribution, by the arithmetic that token_scores.py scores them with.

generation/generate.py decodes with bf16 weights, which is faster but another distribution by a little: what is to be
unbiased under the scores has to be drawn as it is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignment.errors import ModelError
from reward.context import context_length

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SIZE = 64


def own_samples(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    bf16: bool | None = None,
) -> list[list[int]]:
    """One continuation of each prompt (token ids, none empty) at temperature 1, its end token included.

    Args:
        model: a causal language model, or a PEFT model with adapters inside the layers.
        tokenizer: names the end token.
        prompts: N rows of token ids.
        keys: N keys; the draws of row n depend on keys[n] alone.
        max_new_tokens: where a continuation that has not ended is cut.
        bf16: run the trunk under bf16 autocast; None follows the hardware.

    Raises:
        ModelError: no end token, a prompt that leaves no room for its continuation, or a model whose logits
            `check_head` finds to be more than `head_logits`.
    """
    import torch

    from alignment.generation.decode import decode, prefill, stop_ids
    from alignment.generation.draws import row_uniforms, sample_tokens
    from alignment.generation.head import check_head, evaluating, head_logits, unwrap_peft
    from alignment.runtime import autocast_bf16

    longest = max(map(len, prompts), default=0) + max_new_tokens
    limit = context_length(model)
    if limit is not None and longest > limit:
        raise ModelError(f"a prompt and its continuation need {longest} tokens, the model has {limit}; shorten them")
    stops = stop_ids(model, tokenizer)
    causal = unwrap_peft(model)
    device = causal.get_input_embeddings().weight.device

    def forward(ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        ran = causal.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return head_logits(causal, ran.last_hidden_state[:, -1], exact=True)

    found: list[list[int]] = []
    enabled = autocast_bf16(str(device)) if bf16 is None else bf16
    with evaluating(model), torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        check_head(model, exact=True)
        for first in range(0, len(prompts), BATCH_SIZE):
            batch = prompts[first : first + BATCH_SIZE]
            drawn = row_uniforms(keys[first : first + BATCH_SIZE], max_new_tokens).to(device)

            def pick(logits: Tensor, rows: list[int], step: int, drawn: Tensor = drawn) -> Tensor:
                return sample_tokens(logits, drawn[rows, step])

            found += [ids for ids, _ in decode(forward, prefill(forward, model, batch), pick, stops, max_new_tokens)]
    return found
