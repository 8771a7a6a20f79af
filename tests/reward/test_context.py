"""The context of a model: what its config says under whatever name, and what its own forward takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reward.context import context_length

LLAMA_LIKE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 8},
    "llama": LLAMA_LIKE | {"max_position_embeddings": 8},
    "gemma3_text": LLAMA_LIKE | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 8},
}
LIMITS = {"bloom": None, "mpt": 8, "gpt2": 8, "llama": 8, "gemma3_text": 8}
STRICT = ("mpt", "gpt2")  # whose positions are a table


def tiny(family: str) -> Any:
    config = AutoConfig.for_model(family, **SIZES[family], vocab_size=64, bos_token_id=1, eos_token_id=2)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", SIZES)
def test_every_family_under_its_own_name(family: str) -> None:
    model = tiny(family)
    assert context_length(model) == LIMITS[family]
    adapted = SimpleNamespace(get_base_model=lambda: model)  # as a PeftModel gives it
    assert context_length(adapted) == LIMITS[family]


@pytest.mark.parametrize("family", STRICT)
def test_the_model_itself_takes_so_many_and_no_more(family: str) -> None:
    model = tiny(family)
    limit = context_length(model)
    assert limit is not None
    with torch.no_grad():
        assert model(torch.full((1, limit), 3)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, limit + 1), 3))


@pytest.mark.parametrize("family", ["gemma3", "llama4", "qwen3_5"])
def test_a_nested_config_has_that_of_its_text(family: str) -> None:
    config = AutoConfig.for_model(family, text_config={"max_position_embeddings": 77})
    assert getattr(config, "max_position_embeddings", None) is None
    assert context_length(SimpleNamespace(config=config)) == 77
