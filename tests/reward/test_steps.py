import math
from typing import Any

import numpy as np
import pytest
import torch

from reward.model import RewardModel, position_rewards
from reward.scorer import Scorer
from reward.steps import STEP_SCORES, ProcessRewardModel, step_loss

PROMPT = [{"role": "user", "content": "?"}]
# response -> token ids of the row, and where its steps end
ROWS = {"short": ([5, 6], [1]), "long": ([7, 8, 9, 10, 11], [1, 2, 4]), "two": ([12, 13, 14], [0, 2])}


def classifier(**marker: Any) -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=2,
        num_labels=1,
    )
    config.reward_model = marker
    return LlamaForSequenceClassification(config).eval()


def scorer(model: Any, **settings: Any) -> ProcessRewardModel:
    return ProcessRewardModel(model, lambda prompt, response: ROWS[response], **settings)


def test_the_loss_by_hand_and_without_labels() -> None:
    logits = torch.tensor([[2.0, -1.0, 9e9]], requires_grad=True)
    losses = step_loss(logits, torch.tensor([[0.75, 0.0, math.nan]]))
    p = 1 / (1 + math.exp(-2.0))
    assert losses[0].tolist() == pytest.approx(
        [-0.75 * math.log(p) - 0.25 * math.log(1 - p), math.log1p(math.exp(-1.0)), 0.0]
    )
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient[0, 2] == 0.0
    assert step_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]])).tolist() == [[1e4, 1e4]]


def test_step_scores_by_hand() -> None:
    logits = torch.tensor([0.0, 1.0, -2.0])
    p = logits.sigmoid().tolist()
    assert STEP_SCORES["product"](logits).item() == pytest.approx(p[0] * p[1] * p[2])
    assert STEP_SCORES["min"](logits).item() == pytest.approx(p[2])
    for rule in STEP_SCORES.values():
        assert rule(logits[:1]).item() == pytest.approx(0.5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_step_is_read_at_its_end_in_the_order_given(batch_size: int) -> None:
    model = classifier()
    process = scorer(model, batch_size=batch_size)
    assert isinstance(process, Scorer)
    names = list(ROWS)
    found = process.step_scores([PROMPT] * 3, names)
    expected = []
    for name in names:
        ids, ends = ROWS[name]
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
            expected.append(model.score(hidden[ends])[:, 0].sigmoid().numpy())
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    scores = process.score([PROMPT] * 3, names)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [np.prod(p) for p in expected], atol=1e-6)
    weakest = scorer(model, aggregate="min").score([PROMPT] * 3, names)
    np.testing.assert_allclose(weakest, [p.min() for p in expected], atol=1e-6)


def test_the_model_remembers_its_rule() -> None:
    model = classifier(separator="\n", aggregate="min")
    np.testing.assert_allclose(
        scorer(model).score([PROMPT], ["long"]), scorer(classifier(), aggregate="min").score([PROMPT], ["long"])
    )
    with pytest.raises(ValueError, match="this model rates the steps of a response; score with ProcessRewardModel"):
        RewardModel(model, lambda prompt, response: [1])
    with pytest.raises(ValueError, match="unknown step score 'mean'; there are: product, min"):
        scorer(model, aggregate="mean")


def test_bad_input_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="1 prompts but 0 responses"):
        scorer(classifier()).score([PROMPT], [])
    with pytest.raises(ValueError, match="response 0: 5 tokens with its prompt, limit 4"):
        scorer(classifier(), max_length=4).score([PROMPT], ["long"])


def test_positions_have_gradients() -> None:
    model = classifier()
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    rewards = position_rewards(model, batch, torch.tensor([0, 0]), torch.tensor([0, 2]))
    assert rewards.shape == (2, 1)
    rewards.sum().backward()  # type: ignore[no-untyped-call]
    assert model.score.weight.grad.abs().sum() > 0
