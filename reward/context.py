"""How much a model reads at once: asked here by everyone who lays out rows for one."""

from __future__ import annotations

from typing import Any

# In the order they are asked. transformers maps GPT-2's `n_positions` and its like to the first; the second is MPT's.
NAMES = ("max_position_embeddings", "max_seq_len")


def context_length(model: Any) -> int | None:
    """The most tokens of a row that a model, or the one inside a PeftModel, takes; its answer counts.

    Of a nested config (Gemma 3) it is the text model's. None where positions have no end, as in BLOOM and Mamba.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    named = (getattr(config, name, None) for name in NAMES)
    return next((int(limit) for limit in named if limit is not None), None)
