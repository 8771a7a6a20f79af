"""Shared = padded for any tree of rows, and what a model that shares prefixes leaves, refuses and runs as before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import assert_same, decoder, padded, tree_rows

from alignment.errors import DataError, ModelError
from alignment.training.logprobs import token_logprobs
from alignment.training.prefix_sharing import share_prefixes, shares_prefixes, unique_tokens

LLAMA = decoder("llama")
SHARED = share_prefixes(copy.deepcopy(LLAMA))


@given(st.integers(0, 10**6), st.sampled_from(["right", "left"]), st.sampled_from([0, 4096]))
@settings(max_examples=25, deadline=None)
def test_any_tree_of_rows_gives_the_padded_result(seed: int, side: str, call_cost: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignment.training.prefix_tree.CALL_COST", call_cost)
        assert_same(SHARED, LLAMA, tree_rows(seed), side)


def test_log_probabilities_and_their_gradients_are_the_padded_ones(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    shared = share_prefixes(copy.deepcopy(plain))
    ids, mask = padded(tree_rows(7))
    batch = {"input_ids": ids, "attention_mask": mask, "completion_mask": mask.bool()}
    values = []
    for model in (plain, shared):
        logps = token_logprobs(model, batch)
        logps.square().sum().backward()
        values.append((logps.detach(), model.get_input_embeddings().weight.grad))
    torch.testing.assert_close(values[1][0], values[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[1][1], values[0][1], rtol=1e-4, atol=1e-4)


def test_generation_runs_as_before() -> None:
    ids, mask = padded(tree_rows(8), "left")
    wanted = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = copy.deepcopy(LLAMA).eval().generate(ids, attention_mask=mask, **wanted)
    assert torch.equal(copy.deepcopy(SHARED).eval().generate(ids, attention_mask=mask, **wanted), plain)


def test_hidden_states_of_all_layers_and_packed_rows_run_as_before() -> None:
    ids, mask = padded(tree_rows(9))
    with torch.no_grad():
        plain = LLAMA(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        shared = SHARED(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        assert len(shared) == len(plain) == 3
        torch.testing.assert_close(shared[-1], plain[-1])
        packed, positions = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0, 1, 2, 0, 1]])
        torch.testing.assert_close(
            SHARED(input_ids=packed, position_ids=positions).logits,
            LLAMA(input_ids=packed, position_ids=positions).logits,
        )


def test_other_values_of_every_token_run_as_before() -> None:
    plain = decoder("gpt2")
    shared = share_prefixes(copy.deepcopy(plain))
    ids, mask = padded(tree_rows(14))
    kinds = torch.randint(0, 64, ids.shape, generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "use_cache": False}
    expected, found = (model.base_model(**given).last_hidden_state[mask.bool()] for model in (plain, shared))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ran: list[int] = []
    shared.base_model.wte.register_forward_hook(lambda module, args, output: ran.append(args[0].numel()))
    count = torch.tensor(7)  # one value of the whole batch, as the Trainer gives: says nothing of a token
    shared.base_model(input_ids=ids, attention_mask=mask, use_cache=False, num_items_in_batch=count)
    assert ran == [unique_tokens(ids, mask)]
    shared.base_model(**given)
    assert ran[1:] == [ids.numel(), ids.numel()]  # the tokens and their kinds


def test_a_deep_copy_shares_on_its_own_weights() -> None:
    model = share_prefixes(decoder("llama"))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    ids, mask = padded(tree_rows(10))
    assert model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.abs().max() > 0
    assert other.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.abs().max() == 0


def test_a_saved_model_knows_nothing_of_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    SHARED.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not shares_prefixes(loaded)
    assert loaded.config._attn_implementation == "sdpa"


def test_what_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"gpt_neox models are not tested.*supported: .*llama.*share_prefixes: false"):
        share_prefixes(decoder("gpt_neox"))


def test_a_sliding_window_is_refused_once_a_row_outgrows_it() -> None:
    plain = decoder("mistral", sliding_window=16)
    shared = share_prefixes(copy.deepcopy(plain))
    assert_same(shared, plain, [row[:16] for row in tree_rows(11)])
    with pytest.raises(ModelError, match=r"a row of 17 tokens outgrows the sliding window \(16\)"):
        shared.base_model(input_ids=torch.arange(17)[None] + 3, attention_mask=torch.ones(1, 17), use_cache=False)


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 4.0}),
        ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 8.0}),
    ],
)
def test_positions_that_scale_with_the_longest_row_are_refused_once_one_is_long(
    family: str, rope: dict[str, Any]
) -> None:
    """Each part of a bounded batch would scale them in its own way."""
    rope |= {"rope_theta": 10000.0, "original_max_position_embeddings": 16}
    own = {"original_max_position_embeddings": 16} if family == "phi3" else {}  # its own counts more than the rope's
    plain = decoder(family, rope_parameters=rope, **own)
    shared = share_prefixes(copy.deepcopy(plain), max_tokens_per_forward=20)
    assert_same(shared, plain, [row[:16] for row in tree_rows(11)])
    with pytest.raises(ModelError, match=rf"a row of 17 tokens is longer than the 16 .*{rope['rope_type']} positions"):
        shared.base_model(input_ids=torch.arange(17)[None] + 3, attention_mask=torch.ones(1, 17), use_cache=False)


def test_rows_padded_on_the_left_count_their_positions_from_their_first_token() -> None:
    """Also where GPT-2 itself, told no positions, would count the padding."""
    plain = decoder("gpt2")
    shared = share_prefixes(copy.deepcopy(plain))
    ids, mask = padded(tree_rows(11), "left")
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    expected, untold = (
        plain.base_model(input_ids=ids, attention_mask=mask, use_cache=False, **given).last_hidden_state[mask.bool()]
        for given in ({"position_ids": positions}, {})
    )
    found = shared.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (untold - expected).abs().max() > 1e-2 * expected.abs().max()


def test_masks_that_cannot_be_are_named() -> None:
    ids, mask = padded([[5, 6, 7], [8, 9, 10]])
    mask[1, 1] = 0
    with pytest.raises(DataError, match="row 1 of the batch: its attention mask has holes"):
        SHARED.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    mask[1] = 0
    with pytest.raises(DataError, match="row 1 of the batch has no tokens"):
        SHARED.base_model(input_ids=ids, attention_mask=mask, use_cache=False)


def test_a_model_that_loses_the_forest_is_refused() -> None:
    model = share_prefixes(decoder("llama"))
    for layer in model.base_model.layers:
        whole = layer.self_attn.forward

        def deaf(*args: Any, whole: Any = whole, tree_mask: Any = None, **kwargs: Any) -> Any:
            return whole(*args, **kwargs)

        layer.self_attn.forward = deaf
    ids, mask = padded(tree_rows(12))
    with pytest.raises(ModelError, match="LlamaAttention does not receive what its model was called with"):
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same() -> None:
    """The GPU's block mask, run by FlexAttention's plain implementation, which has a forward pass on the CPU."""
    import numpy as np
    from torch.nn.attention.flex_attention import flex_attention

    from alignment.training.prefix_tree import build_trees
    from alignment.training.tree_attention import TreeMask, attend_by_blocks, tree_block_mask

    device = torch.device("cpu")
    (tree,) = build_trees([np.array(row) for row in tree_rows(13)])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(tree), 16, generator=generator) for heads in (4, 2, 2))
    expected = attend_by_blocks(query, key, value, TreeMask(tree, device))
    for padding in (0, 7):
        padded_states = (torch.nn.functional.pad(states, (0, 0, 0, padding)) for states in (query, key, value))
        found = flex_attention(*padded_states, block_mask=tree_block_mask(tree, padding, device), enable_gqa=True)
        torch.testing.assert_close(found[:, :, : len(tree)], expected, rtol=1e-5, atol=1e-6)


def test_attention_dropout_on_a_gpu_is_refused_by_name() -> None:
    import numpy as np

    from alignment.training.prefix_tree import build_trees
    from alignment.training.tree_attention import TreeMask, tree_attention, tree_block_mask

    device = torch.device("cpu")
    (tree,) = build_trees([np.array([3, 4, 5]), np.array([3, 4, 6])])
    tree_mask = TreeMask(tree, device)
    tree_mask.block_mask = tree_block_mask(tree, 0, device)
    states = torch.zeros(1, 2, len(tree), 16)
    with pytest.raises(ModelError, match=r"drops out attention \(0\.1\), .* share_prefixes: false"):
        tree_attention(torch.nn.Module(), states, states, states, None, dropout=0.1, tree_mask=tree_mask)
