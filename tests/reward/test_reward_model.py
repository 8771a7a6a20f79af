from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward.context import context_length
from reward.ensemble import AGGREGATES
from reward.model import RewardModel, head_rewards, sequence_rewards
from reward.scorer import Scorer

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PAD = 2


def classifier(num_labels: int = 1) -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        num_labels=num_labels,
    )
    return LlamaForSequenceClassification(config).eval()


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [PAD] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def encode_as(rows: dict[str, list[int]]) -> Callable[[Any, str], list[int]]:
    return lambda prompt, response: rows[response]


ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16], [17]]


def test_equals_the_standard_forward_where_the_pad_id_never_occurs() -> None:
    model = classifier()
    batch = padded(ROWS)
    torch.testing.assert_close(sequence_rewards(model, batch), model(**batch).logits.squeeze(-1), rtol=0, atol=1e-6)


def test_an_end_of_sequence_that_is_also_the_pad_id_counts() -> None:
    model = classifier()
    batch = padded([[5, 6, 7, PAD], [9, 10, PAD]])
    alone = [model(torch.tensor([row]), use_cache=False).logits for row in ([5, 6, 7, PAD], [9, 10, PAD])]
    rewards = sequence_rewards(model, batch)
    hidden = model.model(**batch).last_hidden_state
    expected = model.score(torch.stack([hidden[0, 3], hidden[1, 2]])).squeeze(-1)
    torch.testing.assert_close(rewards, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(rewards, torch.cat(alone).squeeze(-1), atol=1e-4)  # transformers pools before the eos


def test_the_reward_does_not_depend_on_padding() -> None:
    model = classifier()
    together = sequence_rewards(model, padded(ROWS))
    alone = torch.cat([sequence_rewards(model, padded([row])) for row in ROWS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_the_head_is_float32_under_autocast() -> None:
    model = classifier()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rewards = sequence_rewards(model, padded(ROWS))
    assert rewards.dtype == torch.float32
    assert (rewards != rewards.bfloat16().float()).any()


def test_a_half_precision_head_is_cast_once_and_refused_otherwise() -> None:
    model = classifier().bfloat16()
    with pytest.raises(ValueError, match="score head must be float32"):
        sequence_rewards(model, padded(ROWS))
    scorer = RewardModel(model, encode_as({}))
    assert scorer.rewards(padded(ROWS)).dtype == torch.float32


def test_scores_come_back_in_the_order_given_and_are_float32() -> None:
    model = classifier()
    texts = {f"r{i}": row for i, row in enumerate(ROWS)}
    scorer = RewardModel(model, encode_as(texts), batch_size=3)
    assert isinstance(scorer, Scorer)
    prompts = [[{"role": "user", "content": "?"}]] * len(texts)
    scores = scorer.score(prompts, list(texts))
    assert scores.dtype == np.float32
    expected = [sequence_rewards(model, padded([row])).item() for row in ROWS]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_scoring_leaves_the_training_mode_as_it_was() -> None:
    model = classifier().train()
    RewardModel(model, encode_as({"a": [1]})).score([[{"role": "user", "content": "?"}]], ["a"])
    assert model.training


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        ([], [], "no responses"),
        ([[{"role": "user", "content": "?"}]], [], "1 prompts but 0 responses"),
        ([[{"role": "user", "content": "?"}]], ["long"], "response 0: 65 tokens with its prompt, limit 64"),
    ],
)
def test_bad_input_is_a_value_error(prompts: list[Any], responses: list[str], message: str) -> None:
    scorer = RewardModel(classifier(), encode_as({"long": [1] * 65}))
    with pytest.raises(ValueError, match=message):
        scorer.score(prompts, responses)


@pytest.mark.parametrize("aggregate", ["mean", "worst", "uncertainty"])
def test_several_heads_are_aggregated_as_the_config_says(aggregate: str) -> None:
    model = classifier(num_labels=3)
    model.config.reward_model = {"heads": 3, "aggregate": aggregate}
    batch = padded(ROWS)
    each = head_rewards(model, batch)
    torch.testing.assert_close(each, model(**batch).logits, rtol=0, atol=1e-6)  # no pad id in ROWS
    torch.testing.assert_close(sequence_rewards(model, batch), AGGREGATES[aggregate](each))
    texts = {f"r{i}": row for i, row in enumerate(ROWS)}
    scorer = RewardModel(model, encode_as(texts), batch_size=3)
    prompts = [[{"role": "user", "content": "?"}]] * len(texts)
    np.testing.assert_allclose(scorer.head_scores(prompts, list(texts)), each.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(scorer.score(prompts, list(texts)), scorer.rewards(batch).detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(scorer.spread(prompts, list(texts)), each.detach().numpy().std(axis=1), atol=1e-6)


def test_a_model_that_is_no_reward_model_is_refused() -> None:
    with pytest.raises(ValueError, match="num_labels=1"):
        RewardModel(classifier(num_labels=3), encode_as({}))


def test_a_peft_model_scores_with_its_adapter(tmp_path: Path) -> None:
    from peft import LoraConfig, TaskType, get_peft_model

    base = classifier()
    plain = sequence_rewards(base, padded(ROWS)).detach()
    model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["q_proj"]))
    torch.testing.assert_close(sequence_rewards(model, padded(ROWS)), plain)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight)
    assert not torch.allclose(sequence_rewards(model, padded(ROWS)), plain, atol=1e-3)
    model.eval()
    batch = padded(ROWS)
    torch.testing.assert_close(sequence_rewards(model, batch), model(**batch).logits.squeeze(-1), rtol=1e-5, atol=1e-5)


def test_rows_that_begin_alike_run_in_one_batch() -> None:
    model = classifier()
    rows = {"a": [5, 6, 7, 8, 9], "b": [20, 21, 22, 23, 24, 25]}
    ends = {"long": [30, 31, 32, 33], "short": [34]}
    scorer = RewardModel(model, lambda prompt, response: [*rows[prompt[0]["content"]], *ends[response]], batch_size=2)
    seen: list[list[list[int]]] = []
    whole = model.base_model.forward

    def forward(input_ids: Any = None, **kwargs: Any) -> Any:
        seen.append(input_ids[:, :5].tolist())
        return whole(input_ids=input_ids, **kwargs)

    model.base_model.forward = forward
    prompts = [[{"role": "user", "content": name}] for name in ("a", "b", "a", "b")]
    texts = ["long", "short", "short", "long"]
    scores = scorer.score(prompts, texts)
    assert seen == [[rows["b"][:5]] * 2, [rows["a"]] * 2]
    alone = [float(scorer.score([prompt], [text])[0]) for prompt, text in zip(prompts, texts, strict=True)]
    assert scores.tolist() == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "sizes", "limit"),
    [
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, None),  # ALiBi has no end
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 8}, 8),  # its ALiBi is a table
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 8, "eos_token_id": 0}, 8),
        ("llama", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, 2048),
    ],
)
def test_the_longest_row_is_the_one_the_family_can_read(family: str, sizes: dict[str, Any], limit: int | None) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(family, **sizes, vocab_size=64, num_labels=1, pad_token_id=0, bos_token_id=1)
    model = AutoModelForSequenceClassification.from_config(config).eval()

    def encode(prompt: Any, response: str) -> list[int]:
        return [3, *(4 for _ in response)]

    scorer = RewardModel(model, encode)
    assert context_length(model) == limit
    fits = "x" * 7 if limit == 8 else "x" * 99
    assert np.isfinite(scorer.score([[]], [fits])).all()
    if limit is None:
        assert scorer.no_room([], 10**6) is None
        return
    assert scorer.no_room([], limit - 1) is None
    assert scorer.no_room([], limit) == f"{limit + 1} tokens with an answer of {limit}, limit {limit}"
    with pytest.raises(ValueError, match=f"{limit + 1} tokens with its prompt, limit {limit}"):
        scorer.score([[]], ["x" * limit])
