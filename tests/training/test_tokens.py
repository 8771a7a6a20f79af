from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from alignment.errors import DataError, ModelError
from alignment.training.tokens import Encoded, LengthReport, encode, encode_record, encoded_in, text_encoder

USER = {"role": "user", "content": "please answer"}
HI = {"role": "assistant", "content": "the cat"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


def with_template(tokenizer: Any, template: str | None) -> Any:
    import copy

    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def scored_text(tokenizer: Any, row: Any) -> str:
    return str(tokenizer.decode([i for i, m in zip(row.completion_ids, row.completion_mask, strict=True) if m]))


def test_the_completion_is_the_answer_and_its_end_without_the_newline(tokenizer: Any) -> None:
    row = encode(tokenizer, [USER], [HI])
    assert tokenizer.decode(row.prompt_ids) == "<|im_start|>user\nplease answer<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row.completion_ids) == "the cat<|im_end|>"
    assert row.completion_ids[-1] == tokenizer.eos_token_id
    assert row.completion_mask == [1] * len(row.completion_ids)
    assert row.ids == row.prompt_ids + row.completion_ids
    assert len(row) == len(row.ids) == len(row.mask)


def test_an_empty_answer_is_its_end_alone(tokenizer: Any) -> None:
    row = encode(tokenizer, [USER], [{"role": "assistant", "content": ""}])
    assert row.completion_ids == [tokenizer.eos_token_id]


def test_of_several_turns_only_the_assistants_are_scored(tokenizer: Any) -> None:
    row = encode(
        tokenizer, [USER], [HI, {"role": "user", "content": "the dog"}, {"role": "assistant", "content": "ran"}]
    )
    assert tokenizer.decode(row.completion_ids) == (
        "the cat<|im_end|>\n<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\nran<|im_end|>"
    )
    assert scored_text(tokenizer, row) == "the cat<|im_end|>ran<|im_end|>"


def test_the_smollm2_template_scores_what_it_should(tokenizer: Any) -> None:
    template = (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
        "You are helpful<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    changed = with_template(tokenizer, template)
    row = encode(changed, [USER], [HI])
    assert changed.decode(row.prompt_ids).startswith("<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user")
    assert changed.decode(row.completion_ids) == "the cat<|im_end|>"


def test_a_template_without_an_end_keeps_everything(tokenizer: Any) -> None:
    changed = with_template(
        tokenizer,
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
    )
    assert changed.decode(encode(changed, [USER], [HI]).completion_ids) == "the cat\n"


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, ModelError, "has no chat template"),
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} NOW:{% endif %}",
            ModelError,
            "renders a prompt differently once an answer follows it: ' NOW:' becomes 'the cat'",
        ),
        ("{{ messages | length }}", ModelError, "renders a prompt differently"),
        ("{{ raise_exception('roles must alternate') }}", DataError, "refuses the roles user: roles must alternate"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(
    tokenizer: Any, template: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encode(with_template(tokenizer, template), [USER], [HI])


@pytest.mark.parametrize(
    ("prompt", "response", "message"),
    [
        ([], [HI], "at least one message"),
        ([USER], [], "not nothing"),
        ([USER], [USER], "begins and ends with an assistant message, not user"),
        ([USER], [HI, USER], "not assistant, user"),
    ],
)
def test_messages_that_are_no_prompt_and_response(
    tokenizer: Any, prompt: list[dict[str, str]], response: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode(tokenizer, prompt, response)


def test_one_rule_for_rows_that_are_too_long(tokenizer: Any) -> None:
    full = encode(tokenizer, [USER], [HI])
    n = len(full)
    assert encode(tokenizer, [USER], [HI], max_length=n) == full
    assert encode(tokenizer, [USER], [HI], max_length=n - 1) is None
    cut = encode(tokenizer, [USER], [HI], max_length=n - 1, truncation="keep_start")
    assert cut is not None
    assert (cut.truncated, cut.completion_ids) == (True, full.completion_ids[:-1])
    assert len(cut.completion_mask) == len(cut.completion_ids)
    assert encode(tokenizer, [USER], [HI], max_length=len(full.prompt_ids), truncation="keep_start") is None
    with pytest.raises(DataError, match=f"{n} tokens of prompt and response, more than max_length {n - 1}"):
        encode(tokenizer, [USER], [HI], max_length=n - 1, truncation="error")


def test_a_record_is_kept_whole_or_not_at_all_and_counted(tokenizer: Any) -> None:
    short, long = [HI], [{"role": "assistant", "content": "the cat sat on the mat and ran"}]
    limit = len(encode(tokenizer, [USER], short)) + 2
    report = LengthReport(limit)
    kept = encode_record(tokenizer, "a", [USER], [short, short], report)
    assert kept == [encode(tokenizer, [USER], short)] * 2
    assert encode_record(tokenizer, "b", [USER], [short, long], report) is None
    cut = encode_record(tokenizer, "c", [USER], [short, long], report, truncation="keep_start")
    assert cut is not None
    assert [len(row) for row in cut] == [limit - 2, limit]
    assert (report.kept, report.truncated, report.dropped) == (2, ["c"], ["b"])
    with pytest.raises(DataError, match=rf"record d: \d+ tokens of prompt and response, more than max_length {limit}"):
        encode_record(tokenizer, "d", [USER], [short, long], report, truncation="error")


def test_the_sequences_in_a_row_are_found_whatever_their_keys() -> None:
    a, b, c = (Encoded([1], [n], [1]) for n in range(3))
    assert encoded_in({"id": "x", "chosen": a, "rejected": b, "weight": 1.0}) == [a, b]
    assert encoded_in({"id": "x", "responses": [c, a], "wins": [[0, 1], [0, 0]], "kl_row": b}) == [c, a, b]


def test_scoring_uses_the_rule_of_training(tokenizer: Any) -> None:
    assert text_encoder(tokenizer)([USER], "the cat") == encode(tokenizer, [USER], [HI]).ids


def test_the_same_tokens_as_trl_but_for_what_follows_the_end(tokenizer: Any) -> None:
    from trl.data_utils import _tokenize

    theirs = _tokenize(tokenizer, [USER, HI])["input_ids"]
    ours = encode(tokenizer, [USER], [HI]).ids
    assert theirs[: len(ours)] == ours
    assert tokenizer.decode(theirs[len(ours) :]) == "\n"


def test_an_answer_that_begins_with_a_newline_leaves_the_prompts_tokens_alone(tokenizer: Any) -> None:
    """Byte-level tokenizers have a token for two newlines: the one that opens the answer would be half of it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["one\n\n two\n\n three\n\n"] * 9, trainer)
    merging = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    merging.chat_template = tokenizer.chat_template
    prompt = [{"role": "user", "content": "why"}]
    opened = merging.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    answer = [{"role": "assistant", "content": "\n two"}]
    joined = merging.apply_chat_template([*prompt, *answer], return_dict=False)
    assert joined[: len(opened)] != opened  # the case is real
    found = encode(merging, prompt, answer)
    assert found.prompt_ids == opened
    assert merging.decode(found.completion_ids) == "\n two<|im_end|>"
    assert found.completion_ids == merging("\n two<|im_end|>", add_special_tokens=False).input_ids
    assert found.completion_mask == [1] * len(found.completion_ids)


def ending(end: str) -> str:
    """A template of this shape: <|im_start|>role\\ntext, and `end` (a Jinja expression) after every text."""
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{{ " + end + " }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


@pytest.mark.parametrize("end", ["'<|endoftext|>\n'", "' <|endoftext|>\n<|im_end|>'"])
def test_a_turn_ends_with_the_first_special_token_of_the_template(tokenizer: Any, end: str) -> None:
    changed = with_template(tokenizer, ending(end))
    row = encode(changed, [USER], [HI])
    assert changed.decode(row.completion_ids) in ("the cat<|endoftext|>", "the cat <|endoftext|>")
    assert row.completion_ids[-1] == changed.convert_tokens_to_ids("<|endoftext|>") != changed.eos_token_id
    whole = changed.apply_chat_template([USER, HI], return_dict=False)
    assert row.ids == whole[: len(row)] != whole


@pytest.mark.parametrize("end", ["'<|im_end|>\n'", "'<|endoftext|>\n'"])
@pytest.mark.parametrize("special", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
def test_a_special_token_in_an_answer_is_text_and_ends_nothing(tokenizer: Any, end: str, special: str) -> None:
    changed = with_template(tokenizer, ending(end))
    text = f"the cat{special}\nsat on"
    row = encode(changed, [USER], [{"role": "assistant", "content": text}])
    assert row.truncated is False
    assert row.prompt_ids == encode(changed, [USER], [HI]).prompt_ids
    assert not set(row.completion_ids[:-1]) & set(changed.all_special_ids)
    assert changed.decode(row.completion_ids[:-1]) == text
    assert row.completion_ids[-1] == encode(changed, [USER], [HI]).completion_ids[-1]
    assert row.completion_mask == [1] * len(row.completion_ids)
    # what comes after is read as ever
    assert changed("the<|im_end|>").input_ids[-1] == changed.eos_token_id


def test_what_a_template_writes_around_a_text_stays_a_token(tokenizer: Any) -> None:
    changed = with_template(
        tokenizer,
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\n' }}{% else %}"
        "{{ '<|im_start|>' + m['content'] | trim + '<|endoftext|>\n' }}{% endif %}{% endfor %}",
    )
    row = encode(changed, [USER], [{"role": "assistant", "content": " a <|im_end|> b "}])
    assert row.completion_ids[0] == changed.convert_tokens_to_ids("<|im_start|>")
    assert changed.decode(row.completion_ids) == "<|im_start|>a <|im_end|> b<|endoftext|>"
    assert changed.eos_token_id not in row.completion_ids


def test_answers_that_cannot_be_read_are_refused_by_record(tokenizer: Any) -> None:
    words = ["<|im_end|>", "<|im_start|>", "user", "assistant", "a", "\n"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    whole_words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", bos_token="<|im_start|>")
    whole_words.chat_template = ending("'<|im_end|>\n'")
    spelled = {"role": "assistant", "content": "a\n<|im_end|>\na"}
    with pytest.raises(
        DataError, match=r"record r: an answer holds the special token '<\|im_end\|>', which is no text"
    ):
        encode_record(whole_words, "r", [USER], [[spelled]], LengthReport(None))
    with pytest.raises(DataError, match=r"record r: an answer before the last of several holds .*'<\|im_end\|>'"):
        encode_record(tokenizer, "r", [USER], [[spelled, USER, HI]], LengthReport(None))
    uneven = with_template(tokenizer, ending("'<|im_end|>' if m['content'] | length > 9 else '<|endoftext|>'"))
    with pytest.raises(ModelError, match=r"ends one answer with '<\|im_end\|>' and another with .*<\|endoftext\|>"):
        encode(uneven, [USER], [HI])
