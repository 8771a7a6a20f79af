from pathlib import Path
from typing import Any

import pytest
import torch
from full_logits import batch_of, from_full_logits, model_of

from alignment.errors import ModelError
from alignment.generation.head import check_head
from alignment.training.logprobs import (
    sequence_logprobs,
    token_logprobs,
    token_logprobs_and_entropy,
    token_logprobs_and_hits,
)

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1024])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_soft_max_of_full_logits_with_gradients(tied: bool, chunk_tokens: int) -> None:
    model, batch = model_of("Llama", tie_word_embeddings=tied), batch_of()
    expected, found = from_full_logits(model, batch, 0.7), token_logprobs(model, batch, 0.7, chunk_tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_entropy_and_hits_are_those_of_the_full_logits() -> None:
    model, batch = model_of("Llama"), batch_of()
    scored = batch["completion_mask"][:, 1:]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1] / 0.7
    expected = torch.distributions.Categorical(logits=logits).entropy() * scored
    logps, entropy = token_logprobs_and_entropy(model, batch, 0.7, chunk_tokens=4)
    torch.testing.assert_close(entropy, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logps, token_logprobs(model, batch, 0.7))
    weight = model.get_output_embeddings().weight
    (ours,) = torch.autograd.grad(entropy.square().sum(), weight)
    (theirs,) = torch.autograd.grad(expected.square().sum(), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    logps, hits = token_logprobs_and_hits(model, batch, 0.7, chunk_tokens=4)
    torch.testing.assert_close(logps, token_logprobs(model, batch, 0.7))
    assert torch.equal(hits, ((logits.argmax(-1) == batch["input_ids"][:, 1:]) & scored).float())


@pytest.mark.parametrize(
    ("name", "changes", "neutral"),
    [
        ("Gemma2", {"final_logit_softcapping": 3.0, "head_dim": 16, "query_pre_attn_scalar": 16}, 1e6),
        ("Cohere", {"logit_scale": 0.25}, 1.0),
        ("Granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0}, 1.0),
        ("Qwen3", {"head_dim": 16}, None),
        ("GPTNeoX", {"num_key_value_heads": None}, None),
    ],
)
def test_honours_what_a_model_does_to_its_logits(name: str, changes: dict[str, Any], neutral: float | None) -> None:
    model, batch = model_of(name, **changes), batch_of()
    expected = from_full_logits(model, batch)
    torch.testing.assert_close(token_logprobs(model, batch), expected, rtol=1e-5, atol=1e-5)
    check_head(model)
    if neutral is not None:  # and the test would notice if it did not
        setattr(model.config, next(iter(changes)), neutral)
        assert not torch.allclose(token_logprobs(model, batch), expected, atol=1e-2)


def test_sequences_are_sums_and_padding_does_not_matter() -> None:
    model, batch = model_of("Llama"), batch_of()
    sums = sequence_logprobs(model, batch)
    assert sums.shape == (4,)
    torch.testing.assert_close(sums, token_logprobs(model, batch).sum(1))
    for n in range(4):
        length = int(batch["attention_mask"][n].sum())
        alone = {name: value[n : n + 1, :length] for name, value in batch.items()}
        torch.testing.assert_close(sequence_logprobs(model, alone), sums[n : n + 1], rtol=1e-5, atol=1e-5)


def test_a_batch_without_scored_tokens_gives_zeros_with_a_gradient() -> None:
    model, batch = model_of("Llama"), batch_of()
    batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    found = token_logprobs(model, batch)
    assert not found.any()
    found.sum().backward()  # type: ignore[no-untyped-call]


def test_logits_of_prompt_and_padding_never_exist() -> None:
    model, batch = model_of("Llama"), batch_of()
    projected: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, inputs, _output: projected.append(len(inputs[0])))
    with torch.no_grad():
        token_logprobs(model, batch, chunk_tokens=4)
    assert sum(projected) == int(batch["completion_mask"].sum())
    assert max(projected) <= 4


def test_autocast_runs_the_trunk_low_and_the_soft_max_high() -> None:
    model, batch = model_of("Llama"), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logprobs(model, batch)
        check_head(model)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_logprobs(model, batch), rtol=0.05, atol=0.3)


def test_an_adapter_is_part_of_the_model(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    batch = batch_of(base.config.vocab_size)
    plain = token_logprobs(base, batch).detach()
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    torch.testing.assert_close(token_logprobs(model, batch), plain)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    torch.testing.assert_close(token_logprobs(model, batch), from_full_logits(model, batch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(token_logprobs(model, batch), plain, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(token_logprobs(model, batch), plain)


def test_prompt_learning_is_refused_by_name(tiny_model_dir: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="PROMPT_TUNING: only adapters inside the layers"):
        token_logprobs(model, batch_of())
