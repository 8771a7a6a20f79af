"""Where steps end: the tokens are those of every other stage, the ends those of the text."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import DataError, ModelError
from alignment.training.steps import encode_steps, step_encoder
from alignment.training.tokens import encode

USER = {"role": "user", "content": "please answer"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def parts(tokenizer: Any, ids: list[int], ends: list[int], start: int) -> list[str]:
    """The text of every step, as its tokens have it."""
    bounds = [start - 1, *ends]
    return [tokenizer.decode(ids[a + 1 : b + 1]) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("separator", ["\n", "\n\n", " | "])
def test_steps_end_with_their_separator_and_the_last_with_the_row(tokenizer: Any, separator: str) -> None:
    steps = ["the cat", "sat on: the mat", "ö → ∑"]
    text = separator.join(steps)
    encoded = encode_steps(tokenizer, [USER], text, steps)
    assert encoded.row == encode(tokenizer, [USER], [{"role": "assistant", "content": text}])
    found = parts(tokenizer, encoded.row.ids, encoded.ends, len(encoded.row.prompt_ids))
    # a space may share a token with the word after it: then the step ends before the space
    assert [part.strip() for part in found[:-1]] == [(step + separator).strip() for step in steps[:-1]]
    assert found[-1].lstrip() == steps[-1] + "<|im_end|>"
    assert encoded.ends[-1] == len(encoded.row) - 1
    assert step_encoder(tokenizer, separator)([USER], text) == (encoded.row.ids, encoded.ends)


def test_a_step_that_repeats_the_prompt_or_another_step_is_found_in_its_place(tokenizer: Any) -> None:
    steps = ["please answer", "the", "the", "the cat"]
    encoded = encode_steps(tokenizer, [USER], "\n".join(steps), steps)
    found = parts(tokenizer, encoded.row.ids, encoded.ends, len(encoded.row.prompt_ids))
    assert [part.strip() for part in found] == [*steps[:3], "the cat<|im_end|>"]


def test_a_template_may_trim_but_not_change_the_answer(tokenizer: Any) -> None:
    head = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    tail = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    trimming = with_template(tokenizer, head + "{{ message['content'] | trim }}" + tail)
    encoded = encode_steps(trimming, [USER], "  the cat\nsat \n", ["  the cat", "sat "])
    assert parts(trimming, encoded.row.ids, encoded.ends, len(encoded.row.prompt_ids))[1] == "sat<|im_end|>"
    shouting = with_template(tokenizer, head + "{{ message['content'] | upper }}" + tail)
    with pytest.raises(ModelError, match="the chat template changes the text of an answer: 'the cat'"):
        encode_steps(shouting, [USER], "the cat", ["the cat"])


@pytest.mark.parametrize("blank", ["", " \n "])
def test_a_blank_response_is_one_step_when_it_is_scored(tokenizer: Any, blank: str) -> None:
    ids, ends = step_encoder(tokenizer, "\n")([USER], blank)
    assert ids[-1] == tokenizer.eos_token_id
    assert ends == [len(ids) - 1]


def test_what_has_no_steps_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="a response without text has no steps"):
        encode_steps(tokenizer, [USER], "", [])
    whole = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    steps = ["th", "e cat"] if len(whole) < 7 else ["t", "he cat"]
    with pytest.raises(DataError, match=r"step 0 .* has no token of its own"):
        encode_steps(tokenizer, [USER], "".join(steps), steps)


def test_a_special_token_in_a_step_is_text_and_moves_no_end(tokenizer: Any) -> None:
    steps = ["the <|im_end|> cat", "sat", "<|im_start|>on"]
    text = "\n".join(steps)
    encoded = encode_steps(tokenizer, [USER], text, steps)
    assert encoded.row == encode(tokenizer, [USER], [{"role": "assistant", "content": text}])
    found = parts(tokenizer, encoded.row.ids, encoded.ends, len(encoded.row.prompt_ids))
    assert [part.strip() for part in found] == [*steps[:2], "<|im_start|>on<|im_end|>"]
