"""Shared = padded: hidden states and gradients, for every supported family, any tree of rows and both padding sides."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignment.errors import DataError, ModelError
from alignment.lora import LoraSettings, add_lora
from alignment.training.logprobs import token_logprobs
from alignment.training.prefix_sharing import SUPPORTED, share_prefixes, shares_prefixes, unique_tokens

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1}
GPT2 |= {"eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def decoder(family: str, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = GPT2 if family == "gpt2" else SIZES | ({"head_dim": 8} if family in ("gemma", "qwen3") else {})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **changes)).train()


def tree_rows(seed: int, prompts: int = 3) -> list[list[int]]:
    """Prompts behind one short beginning; their answers branch at once, later, or not at all."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 64) for _ in range(rng.randint(low, high))]

    system, rows = tokens(0, 3), []
    for _ in range(prompts):
        prompt = system + tokens(1, 12)
        for _ in range(rng.randint(1, 4)):
            turn = prompt + [rng.randrange(3, 5) for _ in range(rng.randint(0, 3))]
            rows.append(turn + tokens(0, 9))
    rng.shuffle(rows)
    return rows


def padded(rows: list[list[int]], side: str = "right") -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    pads = [width - len(row) for row in rows]
    left = side == "left"
    ids = [[0] * pad * left + row + [0] * pad * (not left) for row, pad in zip(rows, pads, strict=True)]
    mask = [[0] * pad * left + [1] * len(row) + [0] * pad * (not left) for row, pad in zip(rows, pads, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def hidden_and_gradients(model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states of real tokens, and the gradients of a random function of them."""
    model.zero_grad()
    trunk = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)  # absolute positions count from a row's first token
    hidden = trunk(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    real = mask.bool().unsqueeze(-1)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden * real * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return (hidden.detach() * real), gradients


def assert_same(shared: Any, plain: Any, rows: list[list[int]], side: str = "right", rtol: float = 1e-5) -> None:
    ids, mask = padded(rows, side)
    expected, expected_gradients = hidden_and_gradients(plain, ids, mask)
    found, gradients = hidden_and_gradients(shared, ids, mask)
    assert gradients.keys() == expected_gradients.keys()
    assert gradients
    assert (found - expected).abs().max() <= rtol * expected.abs().max()
    for name, gradient in gradients.items():
        wanted = expected_gradients[name]
        assert (gradient - wanted).abs().max() <= rtol * max(float(wanted.abs().max()), 1e-6), name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", SUPPORTED)
def test_every_supported_family_gives_the_padded_result(family: str, side: str) -> None:
    plain = decoder(family)
    shared = share_prefixes(copy.deepcopy(plain))
    assert_same(shared, plain, tree_rows(1), side)


LLAMA = decoder("llama")
SHARED = share_prefixes(copy.deepcopy(LLAMA))


@given(st.integers(0, 10**6), st.sampled_from(["right", "left"]), st.sampled_from([0, 4096]))
@settings(max_examples=25, deadline=None)
def test_any_tree_of_rows_gives_the_padded_result(seed: int, side: str, call_cost: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignment.training.prefix_tree.CALL_COST", call_cost)
        assert_same(SHARED, LLAMA, tree_rows(seed), side)


def test_multi_turn_rows_share_at_every_depth() -> None:
    talk = list(range(5, 18))
    rows = [talk[:4], talk[:7], talk[:11], talk, [*talk[:7], 20, 21]]
    ids, mask = padded(rows)
    assert unique_tokens(ids, mask) == len(talk) + 2
    assert_same(SHARED, LLAMA, rows)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same(reentrant: bool) -> None:
    shared = copy.deepcopy(SHARED)
    shared.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        shared.enable_input_require_grads()
    assert_same(shared, LLAMA, tree_rows(2))


def test_lora_gives_the_same_before_and_after() -> None:
    torch.manual_seed(3)
    plain = add_lora(copy.deepcopy(LLAMA), LoraSettings(r=2))
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    shared = share_prefixes(copy.deepcopy(plain))
    assert shares_prefixes(shared)
    assert_same(shared, plain, tree_rows(4))


def test_autocast_is_within_the_noise_of_padding() -> None:
    ids, mask = padded(tree_rows(5))
    with torch.no_grad():
        exact = LLAMA.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            noisy = LLAMA.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            shared = SHARED.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    real = mask.bool()
    noise = (noisy.float() - exact)[real].abs().max()
    assert (shared.float() - exact)[real].abs().max() <= 1.5 * noise


@pytest.mark.parametrize("bound", [16, 24, 40])
def test_a_bound_on_tokens_changes_nothing(bound: int) -> None:
    shared = share_prefixes(copy.deepcopy(LLAMA), max_tokens_per_forward=bound)
    rows = [row[:16] for row in tree_rows(6, prompts=6)]
    ids, mask = padded(rows)
    longest = []
    original = type(shared.base_model).forward

    def seen(self: Any, *args: Any, **kwargs: Any) -> Any:
        longest.append(kwargs["input_ids"].numel())
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(shared.base_model), "forward", seen)
        shared.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert len(longest) > 1
    assert max(longest) <= bound
    assert_same(shared, LLAMA, rows)


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
