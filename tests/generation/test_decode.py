"""Prefill and the decoding loop."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.generation import decode
from alignment.generation.generate import _logits


def test_prompts_of_other_lengths_run_apart_and_decode_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is prefilled in parts goes on as what was prefilled in one padded pass."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=2, eos_token_id=63, **size)).eval()
    prompts = [[1 + (7 * i + j) % 60 for j in range(n)] for i, n in enumerate([40, 39, 21, 20, 5, 5, 1])]
    forward = partial(_logits, model)
    passes: list[tuple[int, ...]] = []

    def run(enough: int) -> Any:
        monkeypatch.setattr(decode, "ENOUGH_TOKENS", enough)

        def seen(ids: Tensor, *rest: Any) -> Tensor:
            passes.append(tuple(ids.shape))
            return forward(ids, *rest)

        with torch.no_grad():
            start = decode.prefill(seen, model, prompts)
            first = start.output.clone()
            return first, decode.decode(forward, start, lambda x, rows, step: x.argmax(-1), frozenset({63}), 70)

    whole, parts = run(1000), run(1)
    assert passes == [(7, 40), (2, 40), (2, 21), (2, 5), (1, 1)]
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-4, atol=1e-5)
    assert parts[1] == whole[1]


SIZES: dict[str, dict[str, Any]] = {
    "Llama": {"intermediate_size": 32, "num_key_value_heads": 1},
    "GPT2": {"n_positions": 256},
    "GPTNeoX": {"intermediate_size": 32},
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "Falcon": {"alibi": True, "new_decoder_architecture": False},
    "Bloom": {},
    "Mpt": {},
}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64,
        bos_token_id=1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=63,
        **SIZES[name],
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # telling attention: positions that are wrong must show
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return model


def forward_of(model: Any, passes: list[tuple[int, ...]]) -> decode.Forward:
    takes = "position_ids" in inspect.signature(type(model).forward).parameters

    def forward(ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        passes.append(tuple(ids.shape))
        told = {"position_ids": positions} if takes else {}
        out: Tensor = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **told).logits
        return out[:, -1]

    return forward


@pytest.mark.parametrize("name", SIZES)
def test_what_all_prompts_begin_with_runs_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what follows is what each prompt alone gives, also where positions are read off the columns (ALiBi)."""
    model = model_of(name)
    common = [(11 * j) % 60 for j in range(1, 21)]
    prompts = [common + [1 + (7 * i + j) % 60 for j in range(n)] for i, n in enumerate([17, 16, 7, 3, 1])]
    prompts.append(common)  # nothing of its own: then one token less is shared
    monkeypatch.setattr(decode, "ENOUGH_TOKENS", 60)
    passes: list[tuple[int, ...]] = []
    forward = forward_of(model, passes)
    greedy: Any = {"pick": lambda x, rows, step: x.argmax(-1), "stops": frozenset({63}), "max_new_tokens": 12}
    with torch.no_grad():
        start = decode.prefill(forward, model, prompts)
        first, ran = start.output.clone(), sum(rows * width for rows, width in passes)
        together = decode.decode(forward, start, **greedy)
        for n, prompt in enumerate(prompts):
            alone = decode.prefill(forward, model, [prompt])
            torch.testing.assert_close(first[n : n + 1], alone.output, rtol=1e-3, atol=1e-4)
            assert together[n : n + 1] == decode.decode(forward, alone, **greedy)
    shares = name not in ("Bloom", "Mpt")
    assert (passes[0] == (1, 19)) == shares
    assert (ran < sum(map(len, prompts))) == shares


def test_nothing_is_shared_where_it_saves_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("Llama")
    passes: list[tuple[int, ...]] = []
    prompts = [[5, 6, 7, 8], [5, 6, 9, 10], [5, 6, 11, 12]]
    for enough, expected in [(5, (3, 4)), (4, (1, 2))]:
        monkeypatch.setattr(decode, "ENOUGH_TOKENS", enough)
        passes.clear()
        with torch.no_grad():
            decode.prefill(forward_of(model, passes), model, prompts)
        assert passes[0] == expected


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_scale_with_a_pass_share_nothing(kind: str) -> None:
    model = model_of("Llama")
    assert decode._told_positions(model)
    model.config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    assert not decode._told_positions(model)
