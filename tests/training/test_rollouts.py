"""Rollouts against a loop by hand without cache, batches or shared prompts, and against the update's log-probs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from alignment.errors import DataError, ModelError
from alignment.generation.merged import merged_adapters
from alignment.training import prefix_sharing
from alignment.training.logprobs import scored_states, token_logprobs
from alignment.training.prefix_sharing import share_prefixes
from alignment.training.rollouts import Rollout, rollouts

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

EOS, VOCABULARY = 2, 64
PROMPTS = [[5, 9, 40], [7], [30, 31, 32, 33, 34, 35, 36], [5, 9, 41, 60], [5, 9, 40]]  # the last one is the first
SEEDS = [(12, i) for i in range(len(PROMPTS))]
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "seeds": SEEDS, "bf16": False}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def tiny_llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        eos_token_id=EOS,
    )
    return spread(LlamaForCausalLM(config))


def tiny_gpt2() -> Any:
    """Learned positions, which do not forgive a shift."""
    torch.manual_seed(0)
    return spread(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=128,
                n_embd=32,
                n_layer=2,
                n_head=2,
                eos_token_id=EOS,
                tie_word_embeddings=False,
            )
        )
    )


@torch.no_grad()
def spread(model: Any) -> Any:
    """Weights that make logits of a spread of about 2, and layers that matter."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(5)
    model.get_output_embeddings().weight.mul_(4)
    return model.eval()


def with_lora(model: Any) -> Any:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return adapted.eval()


def make(name: str) -> Any:
    made = tiny_gpt2() if name == "gpt2" else tiny_llama()
    made = with_lora(made) if "lora" in name else made
    return share_prefixes(made) if "shared" in name else made


@pytest.fixture(params=["llama", "gpt2", "lora", "shared lora"])
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture
def llama() -> Any:
    return tiny_llama()


@pytest.fixture
def run_tokens(llama: Any) -> Iterator[list[int]]:
    """How many tokens, padding included, each pass through the trunk of `llama` had."""
    seen: list[int] = []
    hook = llama.get_input_embeddings().register_forward_pre_hook(lambda _module, ids: seen.append(ids[0].numel()))
    yield seen
    hook.remove()


def read(states: Tensor) -> Tensor:
    """A value."""
    assert states.dtype == torch.float32
    return states @ torch.linspace(-1, 1, states.shape[-1])


@torch.no_grad()
def by_hand(model: Any, prompt: Sequence[int], key: Sequence[int], temperature: float, limit: int) -> list[int]:
    """An answer to one prompt: all of it through the whole model for every token."""
    ids, numbers = list(prompt), np.random.default_rng(list(key)).random(limit)
    for number in numbers:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double() / temperature
        mass = logits.softmax(-1).cumsum(-1)
        ids.append(int(torch.searchsorted(mass, number * mass[-1], right=True)))
        if ids[-1] == EOS:
            break
    return ids[len(prompt) :]


def padded(answers: Sequence[Sequence[Rollout]]) -> dict[str, Tensor]:
    """The answers behind their prompts as the update sees them: a batch padded on the right."""
    rows = [(prompt, one.response_ids) for prompt, group in zip(PROMPTS, answers, strict=True) for one in group]
    width = max(len(prompt) + len(ids) for prompt, ids in rows)
    filled = [[*prompt, *ids] + [EOS] * (width - len(prompt) - len(ids)) for prompt, ids in rows]
    place = torch.arange(width)
    ends = torch.tensor([[len(prompt) + len(ids)] for prompt, ids in rows])
    begins = torch.tensor([[len(prompt)] for prompt, _ in rows])
    mask = (place < ends).long()
    return {
        "input_ids": torch.tensor(filled),
        "attention_mask": mask,
        "completion_mask": mask.bool() & (place >= begins),
    }


def flat(answers: Sequence[Sequence[Rollout]], name: str) -> Tensor:
    return torch.tensor([number for group in answers for one in group for number in getattr(one, name)])


@torch.no_grad()
def seen_by_update(model: Any, answers: Sequence[Sequence[Rollout]], temperature: float = 1.0) -> Tensor:
    batch = padded(answers)
    return token_logprobs(model, batch, temperature)[batch["completion_mask"][:, 1:]]


def close(found: list[list[Rollout]], expected: list[list[Rollout]]) -> None:
    """The same answers, and numbers that differ by rounding only."""
    assert [[one.response_ids for one in group] for group in found] == [
        [one.response_ids for one in group] for group in expected
    ]
    for name in ("logps", "values"):
        torch.testing.assert_close(flat(found, name), flat(expected, name), rtol=1e-5, atol=2e-5)


def test_answers_are_those_of_a_loop_by_hand(model: Any, tokenizer: Any) -> None:
    found = rollouts(model, tokenizer, PROMPTS, temperature=0.8, samples=2, **SETTINGS)
    assert len({tuple(one.response_ids) for group in found for one in group}) == 10  # copies are drawn on their own
    for prompt, seed, group in zip(PROMPTS, SEEDS, found, strict=True):
        for sample, one in enumerate(group):
            assert one.response_ids == by_hand(model, prompt, (*seed, sample), 0.8, 12)
            assert one.finished == (one.response_ids[-1] == EOS)
            assert one.text == tokenizer.decode([i for i in one.response_ids if i != EOS], skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_values_are_the_updates(model: Any, tokenizer: Any, temperature: float) -> None:
    found = rollouts(model, tokenizer, PROMPTS, temperature=temperature, samples=3, value=read, **SETTINGS)
    logps, expected = flat(found, "logps"), seen_by_update(model, found, temperature)
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    assert float(((expected - logps).exp() - 1).abs().max()) < 1e-4  # importance ratios
    with torch.no_grad():
        _, states, _, _ = scored_states(model, padded(found))
    torch.testing.assert_close(flat(found, "values"), read(states), rtol=1e-5, atol=2e-5)
    assert not torch.allclose(logps, seen_by_update(model, found, 1.3), atol=1e-2)  # and it would show


def test_without_a_value_there_are_none(llama: Any, tokenizer: Any) -> None:
    assert {one.values for (one,) in rollouts(llama, tokenizer, PROMPTS, **SETTINGS)} == {None}


@pytest.mark.parametrize("size", [1, 7])
def test_batches_change_nothing(model: Any, tokenizer: Any, size: int) -> None:
    settings = {**SETTINGS, "samples": 3, "value": read}
    whole = rollouts(model, tokenizer, PROMPTS, **settings)
    close(rollouts(model, tokenizer, PROMPTS, batch_size=size, **settings), whole)


def test_a_prompt_runs_once(llama: Any, tokenizer: Any, run_tokens: list[int]) -> None:
    for size, prefills in [(None, [4 * 7]), (6, [2 * 7, 1 * 3, 1 * 1]), (2, [7, 4, 3, 1])]:
        # the prompt of 3 tokens is there twice: 6 answers
        run_tokens.clear()
        rollouts(llama, tokenizer, PROMPTS, samples=3, batch_size=size, **{**SETTINGS, "max_new_tokens": 1})
        assert run_tokens == prefills


def test_prompts_that_begin_alike_run_as_a_forest(llama: Any, tokenizer: Any, run_tokens: list[int]) -> None:
    """Every common beginning once and no padding; in parts where memory is bounded. Nothing else changes."""
    settings = {**SETTINGS, "samples": 3, "value": read}
    expected = rollouts(llama, tokenizer, PROMPTS, **settings)
    for bound, prefills in [(None, [1 + 3 + 2 + 7]), (8, [3 + 2 + 1, 7])]:
        share_prefixes(llama, max_tokens_per_forward=bound)
        run_tokens.clear()
        close(rollouts(llama, tokenizer, PROMPTS, **settings), expected)
        assert run_tokens[: len(prefills)] == prefills
        assert run_tokens[len(prefills)] == 3 * len(PROMPTS)  # and now they decode


def test_rows_that_end_leave_the_batch(llama: Any, tokenizer: Any, run_tokens: list[int]) -> None:
    found = rollouts(llama, tokenizer, PROMPTS, samples=6, **{**SETTINGS, "max_new_tokens": 100})
    lengths = [len(one.response_ids) for group in found for one in group]
    decoded = run_tokens[1:]
    assert min(lengths) < max(lengths)
    assert len(decoded) == max(lengths) - 1
    assert sum(lengths) - len(lengths) <= sum(decoded) < 1.12 * (sum(lengths) - len(lengths))


@pytest.mark.parametrize("name", ["llama", "lora", "shared lora"])
def test_bf16_is_near_the_update(name: str, tokenizer: Any) -> None:
    """Within 0.15 nats of fp32 and of autocast at every token, 0.02 on average, where logits spread by 2."""
    made = make(name)
    found = rollouts(made, tokenizer, PROMPTS, samples=4, value=read, **{**SETTINGS, "bf16": True})
    logps, fp32 = flat(found, "logps"), seen_by_update(made, found)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = seen_by_update(made, found)
    for expected in (fp32, autocast):
        off = (logps - expected).abs()
        assert 0 < float(off.max()) < 0.15
        assert float(off.mean()) < 0.02
    if "lora" in name:  # deltas that are left out would show
        with made.disable_adapter():
            assert float((logps - seen_by_update(made, found)).abs().max()) > 0.1


def test_nothing_with_a_cache_goes_through_the_sharing(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rollouts(llama, tokenizer, PROMPTS, value=read, **SETTINGS)
    share_prefixes(llama, max_tokens_per_forward=2)  # no prompt fits

    def fail(*_: Any) -> None:
        raise AssertionError("shared")

    monkeypatch.setattr(prefix_sharing, "build_trees", fail)
    close(rollouts(llama, tokenizer, PROMPTS, value=read, **SETTINGS), expected)
    with pytest.raises(AssertionError, match="shared"):
        seen_by_update(llama, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_come_as_often_as_the_soft_max_says(tokenizer: Any, temperature: float) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=EOS,
        )
    ).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(15)
    n = 5_000
    (found,) = rollouts(
        model,
        tokenizer,
        [[1, 5, 3]],
        max_new_tokens=1,
        temperature=temperature,
        samples=n,
        seeds=[(8,)],
        batch_size=n,
        bf16=False,
    )
    with torch.no_grad():
        shares = (model(input_ids=torch.tensor([[1, 5, 3]])).logits[0, -1] / temperature).softmax(-1)
    assert float(shares.max() / shares.min()) > 5
    drawn = torch.tensor([one.response_ids[0] for one in found]).bincount(minlength=12)
    chi_square = float(((drawn - n * shares) ** 2 / (n * shares)).sum())
    assert chi_square < 24.72  # the 99th percentile at 11 degrees of freedom
    logps = torch.tensor([one.logps[0] for one in found])
    torch.testing.assert_close(logps, shares.log()[[one.response_ids[0] for one in found]], rtol=1e-5, atol=1e-5)


def test_an_answer_may_be_its_end_alone(llama: Any, tokenizer: Any) -> None:
    def end(_module: Any, _args: Any, logits: Tensor) -> Tensor:
        logits[..., EOS] += 1e4
        return logits

    hook = llama.get_output_embeddings().register_forward_hook(end)
    found = rollouts(llama, tokenizer, PROMPTS, value=read, **SETTINGS)
    hook.remove()
    for (one,) in found:
        assert (one.response_ids, one.logps, one.finished, one.text) == ([EOS], [0.0], True, "")
        assert one.values is not None
        assert len(one.values) == 1


@pytest.mark.parametrize("bf16", [True, False])
def test_weights_and_mode_are_as_before(llama: Any, tokenizer: Any, bf16: bool) -> None:
    adapted = with_lora(llama).train()
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in adapted.named_parameters()}
    seen: set[torch.dtype] = set()

    def value(states: Tensor) -> Tensor:
        seen.update(p.dtype for p in adapted.parameters())
        assert not adapted.training
        assert not torch.is_grad_enabled()
        return read(states)

    def fail(states: Tensor) -> Tensor:
        value(states)
        raise RuntimeError("out of memory")

    settings = {**SETTINGS, "bf16": bf16}
    rollouts(adapted, tokenizer, PROMPTS, value=value, **settings)
    for _ in range(2):
        assert adapted.training
        assert torch.is_grad_enabled()
        assert seen == {torch.bfloat16 if bf16 else torch.float32}
        for name, parameter in adapted.named_parameters():
            address, values = before[name]
            assert parameter.data_ptr() == address
            assert torch.equal(parameter, values)
        with pytest.raises(RuntimeError, match="out of memory"):
            rollouts(adapted, tokenizer, PROMPTS, value=fail, **settings)


def test_progress_is_said(llama: Any, tokenizer: Any) -> None:
    lines: list[str] = []
    rollouts(llama, tokenizer, PROMPTS, samples=2, batch_size=4, say=lines.append, **SETTINGS)
    assert [line.split()[0] for line in lines] == ["4/10", "8/10", "10/10"]


def test_refusals(llama: Any, tokenizer: Any) -> None:
    assert rollouts(llama, tokenizer, [], **{**SETTINGS, "seeds": []}) == []
    with pytest.raises(DataError, match=r"prompt 1: its 117 tokens and .* 12 do not fit the model's context of 128"):
        rollouts(llama, tokenizer, [[5], [5] * 117], **{**SETTINGS, "seeds": SEEDS[:2]})
    with pytest.raises(DataError, match="prompt b has no tokens"):
        rollouts(llama, tokenizer, [[5], []], ids=["a", "b"], **{**SETTINGS, "seeds": SEEDS[:2]})
    with pytest.raises(ValueError, match="5 seeds for 4 prompts"):
        rollouts(llama, tokenizer, PROMPTS[:4], **SETTINGS)
    wrong_settings: list[dict[str, Any]] = [
        {"max_new_tokens": 0},
        {"temperature": 0.0},
        {"samples": 0},
        {"batch_size": 0},
    ]
    for wrong in wrong_settings:
        with pytest.raises(ValueError, match="out of range"):
            rollouts(llama, tokenizer, PROMPTS, **{**SETTINGS, **wrong})


def test_a_model_that_diverged_is_an_error(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"^prompt 2: the values of its answer are not finite: .* lower learning rate"):
        rollouts(llama, tokenizer, PROMPTS, value=lambda states: states[:, 0] / 0, **SETTINGS)
    with torch.no_grad():
        llama.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelError, match=r"^prompt c: the log-probabilities of its answer are not finite"):
        rollouts(llama, tokenizer, PROMPTS, ids="abcde", **SETTINGS)


def test_adapters_are_merged_while_sampling_and_gone_afterwards() -> None:
    """Layers run as plain ones, what they compute is the same, and every weight comes back bit for bit."""
    model: Any = with_lora(tiny_llama()).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        expected = model(ids).logits
        with merged_adapters(model):
            assert all(layer.disable_adapters for layer in model.modules() if isinstance(layer, LoraLayer))
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
        with model.disable_adapter():
            plain = model(ids).logits
            with merged_adapters(model):
                torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=0)
    assert not torch.allclose(plain, expected)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trained
