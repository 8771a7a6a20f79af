"""A model that is trained to end its turn with the template's token stops there, whatever the tokenizer calls EOS."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.exporting import export_model
from alignment.generation.decode import stop_ids
from alignment.generation.generate import generate
from alignment.generation.turn_end import turn_of
from alignment.models import load_policy
from alignment.registry import ModelRegistry
from alignment.training.tokens import encode

OTHER = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|endoftext|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ASKED = [{"role": "user", "content": "the cat"}]


@pytest.fixture
def tiny(tiny_model_dir: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval(), AutoTokenizer.from_pretrained(tiny_model_dir)


def test_where_turns_end_so_does_sampling(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    assert stop_ids(model, tokenizer) == {tokenizer.eos_token_id}
    tokenizer.chat_template = OTHER
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert encode(tokenizer, ASKED, [{"role": "assistant", "content": "sat"}]).completion_ids[-1] == end
    assert stop_ids(model, tokenizer) == {tokenizer.eos_token_id, end}
    always = model.lm_head.register_forward_hook(lambda *ran: ran[-1].index_fill(-1, torch.tensor([end]), 99.0))
    (found,) = generate(model, tokenizer, [ASKED], max_new_tokens=5)
    always.remove()
    assert (found.text, found.n_tokens, found.finished) == ("", 0, True)


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "{{ messages | length }}"])
def test_without_a_turn_the_tokenizers_own_end_is_left(tiny: tuple[Any, Any], template: str | None) -> None:
    model, tokenizer = tiny
    tokenizer.chat_template = template
    assert turn_of(tokenizer) is None
    assert stop_ids(model, tokenizer) == {tokenizer.eos_token_id}
    assert stop_ids(SimpleNamespace(), SimpleNamespace(eos_token_id=7)) == {7}


def test_a_template_that_wants_a_system_message_has_a_turn(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    tokenizer.chat_template = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no') }}{% endif %}" + OTHER
    turn = turn_of(tokenizer)
    assert turn is not None
    assert (turn.head, turn.tail, turn.end) == ("", "<|endoftext|>\n", tokenizer.convert_tokens_to_ids("<|endoftext|>"))


def test_other_programs_read_the_end_of_a_turn_in_the_generation_config(tiny_model_dir: Path, tmp_path: Path) -> None:
    registry, ref = ModelRegistry(tmp_path / "registry"), f"path:{tiny_model_dir}"
    (tmp_path / "other.jinja").write_text(OTHER)
    model, tokenizer = load_policy(ref, registry)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    model, tokenizer = load_policy(ref, registry, chat_template=tmp_path / "other.jinja")
    both = sorted([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")])
    assert model.generation_config.eos_token_id == both
    stored = tmp_path / "stored"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(stored)  # whose own config does not know it
    tokenizer.save_pretrained(stored)
    export_model(f"path:{stored}", registry, tmp_path / "exported", lambda line: None)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "exported").generation_config.eos_token_id == both
