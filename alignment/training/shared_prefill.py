"""Prompts that run as a forest before an answer is sampled: what they have in common once, without padding.

Keys and values of the forest's tokens are dealt out to a cache with a row for every prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.generation.decode import Prefilled
from alignment.generation.kv_cache import filled_cache
from alignment.training.prefix_sharing import check_rows, run_tree
from alignment.training.prefix_tree import build_trees

TOKENS_PER_PASS = 8192  # without gradients a pass holds one layer's activations, and all keys and values


def shared_prefill(causal: Any, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """What `decode.prefill` gives for the prompts, of a model that shares prefixes.

    Args:
        causal: a model of transformers after `share_prefixes`, whose layers all keep a plain cache.
        prompts: N non-empty sequences of token ids.
    """
    trunk, device = causal.base_model, causal.get_input_embeddings().weight.device
    rows = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    check_rows(trunk.config, rows)
    lengths = [len(row) for row in rows]
    bound = max(*lengths, trunk.max_tokens_per_forward or TOKENS_PER_PASS)
    last: list[Tensor] = [torch.empty(0)] * len(rows)
    held: list[list[tuple[Tensor, Tensor]]] = [[]] * len(rows)  # of a row, per layer
    for tree in build_trees(rows, bound):
        layers: list[tuple[Tensor, Tensor]] = []
        states = run_tree(trunk, tree, device, {}, kept=layers)
        for row, place in zip(tree.rows, tree.places, strict=True):
            where = torch.from_numpy(place).to(device)
            last[row] = states[where[-1]]
            held[row] = [(keys[:, :, where], values[:, :, where]) for keys, values in layers]
    width = max(lengths)
    cache = filled_cache(causal, zip(*held, strict=True), width)
    count = torch.tensor(lengths, device=device)[:, None]
    mask = (torch.arange(width, device=device) >= width - count).long()
    return Prefilled(torch.stack(last), cache, mask, count - 1)
