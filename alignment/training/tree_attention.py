"""Attention over a forest of prefixes: every token sees its own row, each shared key is computed once.

On the CPU a block of queries is one call of PyTorch's scaled dot-product attention over the keys of its ancestors and
its own. On a GPU the whole forest is one FlexAttention call whose block mask skips what no token sees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from alignment.errors import ModelError
from alignment.training.prefix_tree import Block, PrefixTree

NAME = "shared_prefixes"  # the attention implementation models run with; without a forest it is SDPA
BUCKET = 256  # on a GPU, forests are padded to a multiple of this: every new length compiles anew


class TreeMask:
    """What the attention of every layer needs to know about one forest, computed once per forward pass."""

    def __init__(self, tree: PrefixTree, device: torch.device, kept: list[tuple[Tensor, Tensor]] | None = None) -> None:
        """Prepares the forest for a device; on a GPU this builds the FlexAttention block mask.

        `kept` takes the keys and values of every layer in turn, (1, key-value heads, U + padding, dim) each.
        """
        self.tree = tree
        self.padding = -len(tree) % BUCKET if device.type == "cuda" else 0
        self.sizes = [block.stop - block.start for block in tree.blocks]
        self._masks: dict[torch.dtype, list[Tensor | None]] = {}
        self.block_mask = tree_block_mask(tree, self.padding, device) if device.type == "cuda" else None
        self.kept = kept

    def additive(self, dtype: torch.dtype, device: torch.device) -> list[Tensor | None]:
        """Per block (queries, keys): 0 or -inf; None for a chain without ancestors, which is plainly causal."""
        if dtype not in self._masks:
            self._masks[dtype] = [self._additive(block, dtype, device) for block in self.tree.blocks]
        return self._masks[dtype]

    def _additive(self, block: Block, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        if block.chain and not block.ancestors:
            return None
        spans = [self.tree.blocks[ancestor] for ancestor in block.ancestors] + [block]
        keys = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        seen = torch.from_numpy(self.tree.sees(slice(block.start, block.stop), keys)).to(device)
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)


def tree_block_mask(tree: PrefixTree, padding: int, device: torch.device) -> Any:
    """The FlexAttention block mask of a forest followed by `padding` tokens, each of which sees only itself."""
    from torch.nn.attention.flex_attention import create_block_mask

    total = len(tree) + padding
    ends = torch.from_numpy(np.concatenate([tree.ends, np.arange(len(tree), total) + 1])).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(sees, None, None, total, total, device=device)


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_mask: TreeMask | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers: with `tree_mask` over a forest, without it SDPA as ever.

    Args:
        query: (1, heads, U, dim) for a forest of U tokens.
        key, value: (1, key-value heads, U, dim).

    Returns:
        (1, U, heads, dim) and no weights.

    Raises:
        ModelError: the model lost the forest on the way to its attention, or drops out attention on a GPU.
    """
    if tree_mask is None:
        if attention_mask is not None and attention_mask.shape == (1, 1, 1, 1) and query.shape[2] > 1:
            raise ModelError(
                f"{type(module).__name__} does not receive what its model was called with, so prefixes cannot be "
                "shared; set share_prefixes: false"
            )
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if tree_mask.kept is not None:
        tree_mask.kept.append((key, value))
    if tree_mask.block_mask is not None:
        if dropout:
            raise ModelError(
                f"{type(module).__name__} drops out attention ({dropout:g}), which shared prefixes cannot do on a GPU; "
                "set it to 0 in the model's config, or share_prefixes: false"
            )
        from transformers.integrations.flex_attention import flex_attention_forward

        found, _ = flex_attention_forward(
            module, query, key, value, tree_mask.block_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return found, None
    return attend_by_blocks(query, key, value, tree_mask, dropout, scaling).transpose(1, 2), None


def attend_by_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree_mask: TreeMask,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Tensor:
    """Attention of a forest, one kernel call per block: (1, heads, U, dim) like `query`."""
    masks = tree_mask.additive(query.dtype, query.device)
    # split, not slices: the gradient of a split is one concatenation
    queries, keys, values = (torch.split(states, tree_mask.sizes, dim=2) for states in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    found = []
    for number, (block, mask) in enumerate(zip(tree_mask.tree.blocks, masks, strict=True)):
        seen = [*block.ancestors, number]
        found.append(
            scaled_dot_product_attention(
                queries[number],
                torch.cat([keys[i] for i in seen], dim=2) if block.ancestors else keys[number],
                torch.cat([values[i] for i in seen], dim=2) if block.ancestors else values[number],
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(found, dim=2)


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
