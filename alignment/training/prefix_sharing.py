"""Shared prefixes: a padded batch goes in, padded hidden states come out, and no token was run twice or for nothing.

`share_prefixes(model)` wraps the forward of the model's trunk. Rows of a batch that begin alike run their common
beginning once, padding is not run at all, and the hidden states are put back where the caller expects them. So losses
and scores read as if every row ran on its own, and their values and gradients are the same.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from alignment.errors import DataError, ModelError
from alignment.training.prefix_tree import Ints, PrefixTree, build_trees
from alignment.training.tree_attention import NAME, TreeMask

# What the equality tests cover. Others may work; a model that is not here is refused, never run in hope.
SUPPORTED = ("cohere", "gemma", "gpt2", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")

# Calls with any of these run as they always did: there is nothing to share, or something to return per row.
# So does one with anything else for each row or token (token_type_ids...): shared tokens have one value, not several.
_UNSHARED = ("past_key_values", "inputs_embeds", "output_hidden_states", "output_attentions")
_OURS = ("position_ids", "use_cache", *_UNSHARED)


def share_prefixes(model: Any, max_tokens_per_forward: int | None = None) -> Any:
    """Makes `model` share prefixes, in place; calling it again only changes the bound.

    Hidden states and gradients are those of the padded batch, up to rounding, with two exceptions: dropout, where it is
    on, is drawn once for a shared token, and padding positions are 0. A call with a cache, embeddings, a 4D mask, other
    values of rows or tokens (token_type_ids), or a wish for all hidden states runs as before.

    Args:
        model: a decoder of transformers with a head, or a PeftModel of one; see SUPPORTED.
        max_tokens_per_forward: a batch of more unique tokens runs in several forward passes; with gradients each is
            recomputed in the backward pass, so that memory is bounded for any loss. A longer row is an error. On a GPU
            FlexAttention pads a pass to a multiple of 256, which may be up to 255 tokens more.

    Returns:
        The same model.

    Raises:
        ModelError: an architecture that is not supported, named.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk = causal.base_model
    _check_supported(causal)
    trunk.max_tokens_per_forward = max_tokens_per_forward
    if not shares_prefixes(model):
        causal.config._attn_implementation = NAME
        trunk.config._attn_implementation = NAME
        trunk.forward = types.MethodType(_forward, trunk)  # a bound method: a deep copy of the model gets its own
    return model


def shares_prefixes(model: Any) -> bool:
    """Whether `share_prefixes` was called on the model."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(vars(causal.base_model).get("forward"), "__func__", None) is _forward


def unique_tokens(input_ids: Tensor, attention_mask: Tensor) -> int:
    """How many tokens of a padded batch (N, T) the trunk has to run when prefixes are shared."""
    return sum(len(tree) for tree in build_trees(_rows(input_ids, attention_mask)))


def _forward(
    trunk: Any, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
) -> BaseModelOutputWithPastAndCrossAttentions:
    """The trunk's forward, with shared prefixes where there may be some."""
    if input_ids is None or not _shareable(trunk, input_ids, attention_mask, kwargs):
        plain: BaseModelOutputWithPastAndCrossAttentions = type(trunk).forward(
            trunk, input_ids=input_ids, attention_mask=attention_mask, **kwargs
        )
        return plain
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    rows = _rows(input_ids, mask)
    check_rows(trunk.config, rows)
    try:
        trees = build_trees(rows, trunk.max_tokens_per_forward)
    except ValueError as error:
        raise DataError(f"{error}; raise it, or shorten the rows with max_length") from error
    rest = {name: value for name, value in kwargs.items() if name not in _OURS}
    run = run_tree if len(trees) == 1 or not torch.is_grad_enabled() else _run_again_in_backward
    states = torch.cat([run(trunk, tree, input_ids.device, rest) for tree in trees])  # (U, H), the trees in order
    source = torch.from_numpy(_sources(trees, len(rows))).to(states.device)
    target = mask.bool().flatten().nonzero().squeeze(1)
    # embedding, not indexing: its gradient adds up the rows that share a token in parallel
    spread = torch.nn.functional.embedding(source, states)
    padded = states.new_zeros(mask.numel(), states.shape[-1]).index_copy(0, target, spread)
    # GPT-2's head asks for cross_attentions, too
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=padded.view(*mask.shape, -1))


def run_tree(trunk: Any, tree: PrefixTree, device: torch.device, rest: Mapping[str, Any], kept: Any = None) -> Tensor:
    """Hidden states (U, H) of a forest; `kept`, a list, takes keys and values of every layer (see `TreeMask`)."""
    tree_mask = TreeMask(tree, device, kept)
    pad = (0, tree_mask.padding)
    output = type(trunk).forward(
        trunk,
        input_ids=torch.from_numpy(np.pad(tree.tokens, pad)).to(device).unsqueeze(0),
        position_ids=torch.from_numpy(np.pad(tree.positions, pad)).to(device).unsqueeze(0),
        # 4D masks are handed through as they are, so none is built; the attention reads tree_mask
        attention_mask=torch.empty(1, 1, 1, 1, device=device),
        tree_mask=tree_mask,
        use_cache=False,
        **rest,
    )
    return output.last_hidden_state[0, : len(tree)]  # type: ignore[no-any-return]


def _run_again_in_backward(trunk: Any, tree: PrefixTree, device: torch.device, rest: Mapping[str, Any]) -> Tensor:
    return checkpoint(run_tree, trunk, tree, device, rest, use_reentrant=False)  # type: ignore[no-any-return]


def _sources(trees: Sequence[PrefixTree], n_rows: int) -> Ints:
    """For every real token of the batch, row by row, its place among the tokens of all trees."""
    places: list[Ints] = [np.empty(0, np.int64)] * n_rows
    offset = 0
    for tree in trees:
        for row, place in zip(tree.rows, tree.places, strict=True):
            places[row] = offset + place
        offset += len(tree)
    return np.concatenate(places)


def _rows(input_ids: Tensor, attention_mask: Tensor) -> list[Ints]:
    """The real tokens of each row, from a batch padded on either side. Raises DataError for a mask with holes."""
    ids, mask = input_ids.cpu().numpy(), attention_mask.bool().cpu().numpy()
    rows = []
    for index, (row, real) in enumerate(zip(ids, mask, strict=True)):
        where = np.nonzero(real)[0]
        if not len(where):
            raise DataError(f"row {index} of the batch has no tokens")
        if where[-1] - where[0] + 1 != len(where):
            raise DataError(f"row {index} of the batch: its attention mask has holes; pad on the left or on the right")
        rows.append(row[where])
    return rows


def _shareable(trunk: Any, input_ids: Tensor, attention_mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    if any(kwargs.get(name) is not None and kwargs[name] is not False for name in _UNSHARED):
        return False
    if any(isinstance(value, Tensor) and value.ndim for name, value in kwargs.items() if name not in _OURS):
        return False
    use_cache = kwargs.get("use_cache")
    if use_cache or (use_cache is None and trunk.config.use_cache and not torch.is_grad_enabled()):
        return False
    if attention_mask is not None and attention_mask.ndim != 2:
        return False
    positions = kwargs.get("position_ids")
    if positions is None:
        return True
    if attention_mask is None:  # several texts packed into one row, told apart by their positions
        return False
    real = attention_mask.bool()
    counted = (real.long().cumsum(dim=1) - 1).expand_as(input_ids)
    return bool((positions.expand_as(input_ids)[real] == counted[real]).all())


def _check_supported(causal: Any) -> None:
    config = causal.config.get_text_config()
    if config.model_type not in SUPPORTED:
        raise ModelError(
            f"{config.model_type} models are not tested with shared prefixes; supported: {', '.join(SUPPORTED)}; "
            "set share_prefixes: false to run them padded"
        )


def check_rows(config: Any, rows: Sequence[Ints]) -> None:
    """Raises ModelError for rows that a model with these settings would not run each as if it were alone."""
    _check_window(config, rows)
    _check_rope(config, rows)


def _check_window(config: Any, rows: Sequence[Ints]) -> None:
    """A sliding window that no row outgrows is none."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return
    longest = max(len(row) for row in rows)
    if longest > window:
        raise ModelError(
            f"a row of {longest} tokens outgrows the sliding window ({window}) of this {config.model_type} model, "
            "where prefixes cannot be shared; shorten max_length or set share_prefixes: false"
        )


def _check_rope(config: Any, rows: Sequence[Ints]) -> None:
    """Positions that scale with the longest row of a forward pass are the same in all while no row is long."""
    found = getattr(config, "rope_parameters", None) or {}
    for rope in [found, *(value for value in found.values() if isinstance(value, dict))]:  # one, or one a layer type
        kind = rope.get("rope_type")
        if kind not in ("dynamic", "longrope"):
            continue
        short = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        longest = max(len(row) for row in rows)
        if longest > short:
            raise ModelError(
                f"a row of {longest} tokens is longer than the {short} that this {config.model_type} model was first "
                f"trained with: its {kind} positions would change with what runs beside it, so prefixes cannot be "
                "shared; shorten max_length or set share_prefixes: false"
            )
