"""From a reference to a scorer: heads, process models, and the tokenizer they come with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignment.errors import ModelError
from alignment.lora import LoraSettings
from alignment.models import load_reward, model_digest, new_reward_model, quiet, save_model
from alignment.registry import ModelRegistry
from alignment.scorers import reward_model_from
from alignment.training.tokens import text_encoder
from reward.model import RewardModel, sequence_rewards
from reward.steps import ProcessRewardModel

PROMPTS = [[{"role": "user", "content": text}] for text in ("Where did the cat sit?", "please answer", "the dog ran")]
ANSWERS = ["On the mat.", "In one sentence,\nthen another.", "the ball"]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))
    return ModelRegistry(tmp_path / "registry")


def stored(registry: ModelRegistry, folder: Path, marker: Mapping[str, Any]) -> tuple[str, Any]:
    """A reward model moved away from its start, in the registry."""
    base = f"path:{folder}"
    model, tokenizer = new_reward_model(base, registry, seed=1, marker=marker)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    digest = model_digest(base, registry)
    entry = registry.add(
        "rm",
        kind="reward",
        parent=base,
        parent_digest=digest,
        fill=lambda folder: save_model(model, tokenizer, folder),
    )
    return entry.ref, model


def test_one_head_as_ever(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, model = stored(registry, tiny_model_dir, {})
    assert not hasattr(model.config, "reward_model")
    scorer = reward_model_from(ref, registry, name="rm", device="cpu", batch_size=2)
    assert isinstance(scorer, RewardModel)
    assert scorer.name == "rm"
    loaded, tokenizer = load_reward(ref, registry)
    encode = text_encoder(tokenizer)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=scorer._autocast is not None):
        expected = [
            sequence_rewards(
                loaded, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            ).item()
            for ids in (encode(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True))
        ]
    np.testing.assert_allclose(scorer.score(PROMPTS, ANSWERS), expected, atol=0.02)
    assert scorer.spread(PROMPTS, ANSWERS).tolist() == [0.0] * 3


def test_heads_start_apart_and_come_back_as_a_standard_classifier(
    registry: ModelRegistry, tiny_model_dir: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    marker = {"heads": 3, "aggregate": "worst"}
    fresh, _ = new_reward_model(f"path:{tiny_model_dir}", registry, seed=1, marker=marker)
    single, _ = new_reward_model(f"path:{tiny_model_dir}", registry, seed=1)
    neighbour, _ = new_reward_model(f"path:{tiny_model_dir}", registry, seed=2, marker=marker)
    heads = fresh.score.weight
    assert torch.equal(heads[:1], single.score.weight)  # the first head is that of a model with one
    rows = [*heads, *neighbour.score.weight]
    assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])

    ref, _ = stored(registry, tiny_model_dir, marker)
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(registry.path(ref))
    assert plain.config.num_labels == 3
    scorer = reward_model_from(ref, registry, device="cpu")
    assert isinstance(scorer, RewardModel)
    each = scorer.head_scores(PROMPTS, ANSWERS)
    assert each.shape == (3, 3)
    np.testing.assert_array_equal(scorer.score(PROMPTS, ANSWERS), each.min(axis=1))
    np.testing.assert_allclose(scorer.spread(PROMPTS, ANSWERS), each.std(axis=1), rtol=1e-5)
    mean = reward_model_from(ref, registry, device="cpu", aggregate="mean").score(PROMPTS, ANSWERS)
    np.testing.assert_allclose(mean, each.mean(axis=1), rtol=1e-5)
    _, tokenizer = load_reward(ref, registry)
    ids = torch.tensor([text_encoder(tokenizer)(PROMPTS[0], ANSWERS[0])])
    with torch.no_grad():  # anyone's loader gives the same scores, up to the precision of the trunk
        np.testing.assert_allclose(plain.eval()(ids).logits[0].numpy(), each[0], atol=0.02)
    with pytest.raises(ValueError, match="unknown aggregate 'median'"):
        reward_model_from(ref, registry, device="cpu", aggregate="median")


def test_a_classifier_of_several_labels_is_no_ensemble_by_accident(
    registry: ModelRegistry, tiny_model_dir: Path
) -> None:
    ref, model = stored(registry, tiny_model_dir, {"heads": 2})
    del model.config.reward_model
    folder = registry.root / "plain"
    model.save_pretrained(folder)
    load_reward(ref, registry)[1].save_pretrained(folder)
    with pytest.raises(ModelError, match="has 2 labels; a reward model has one"):
        load_reward(f"path:{folder}", registry)


def test_a_process_model_splits_what_it_scores(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, _ = stored(registry, tiny_model_dir, {"separator": "\n", "aggregate": "min"})
    scorer = reward_model_from(ref, registry, device="cpu")
    assert isinstance(scorer, ProcessRewardModel)
    steps = scorer.step_scores(PROMPTS, ANSWERS)
    assert [len(p) for p in steps] == [1, 2, 1]
    np.testing.assert_allclose(scorer.score(PROMPTS, ANSWERS), [p.min() for p in steps], rtol=1e-6)
    product = reward_model_from(ref, registry, device="cpu", aggregate="product").score(PROMPTS, ANSWERS)
    np.testing.assert_allclose(product, [p.prod() for p in steps], rtol=1e-5)


def test_sharing_prefixes_changes_no_score(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, _ = stored(registry, tiny_model_dir, {"heads": 2})
    plain, shared = (reward_model_from(ref, registry, device="cpu", share=share) for share in (False, True))
    same_prompt = PROMPTS[:1] * 3
    np.testing.assert_allclose(shared.score(same_prompt, ANSWERS), plain.score(same_prompt, ANSWERS), atol=0.02)


def test_an_adapter_trains_several_heads(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    model, _ = new_reward_model(
        f"path:{tiny_model_dir}", registry, seed=1, adapter_config=LoraSettings(r=2), marker={"heads": 2}
    )
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    sequence_rewards(model, batch).sum().backward()  # type: ignore[no-untyped-call]
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("score" in name for name in trained)
    assert any("lora_" in name for name in trained)
