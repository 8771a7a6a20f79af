"""Where the steps of a response end in its token ids: the same tokens as everywhere, and one rule for all of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.errors import DataError, ModelError
from alignment.preferences.steps import split_steps
from alignment.training.tokens import Encoded, Messages, encode


@dataclass(frozen=True)
class EncodedSteps:
    """A prompt and a response as token ids. `ends`: the index in `row.ids` of every step's last token."""

    row: Encoded
    ends: list[int]


def encode_steps(tokenizer: Any, prompt: Messages, text: str, steps: Sequence[str]) -> EncodedSteps:
    """Token ids of a prompt and a response `text`, in which `steps` follow each other.

    A step's last token is the last one that ends before the next step begins, so separators belong to the step before
    them; the last step ends with the row, its end-of-sequence token included.

    Raises:
        ModelError: as `encode` does, and for a tokenizer that does not say where its tokens are in the text.
        DataError: no steps, or a step without a token of its own.
    """
    if not steps:
        raise DataError("a response without text has no steps")
    conversation = [*prompt, {"role": "assistant", "content": text}]
    row = encode(tokenizer, prompt, conversation[len(prompt) :])
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not say where its tokens are in the text; process rewards need a fast "
            "tokenizer (tokenizer.json)"
        )
    opened = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    token_ends = _token_ends(tokenizer, row, rendered, len(opened))
    next_starts = _starts(rendered, len(opened), steps)[1:]
    first = len(row.prompt_ids)
    ends = [first + bisect_right(token_ends, start) - 1 for start in next_starts] + [len(row) - 1]
    before = first - 1
    for number, end in enumerate(ends):
        if end <= before:
            raise DataError(f"step {number} ({steps[number][:40]!r}) has no token of its own; use another separator")
        before = end
    return EncodedSteps(row, ends)


def _token_ends(tokenizer: Any, row: Encoded, rendered: str, opened: int) -> list[int]:
    """Where in the rendered text every token of the completion ends but the last; `opened`: where its text begins.

    The completion may have been tokenised apart from the prompt, and special tokens in it as text (see `tokens`).
    """
    wanted = row.completion_ids[:-1]
    for start, split in ((0, False), (opened, False), (opened, True)):
        found = tokenizer(
            rendered[start:], add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=split
        )
        first = 0 if start else len(row.prompt_ids)
        if found["input_ids"][first : first + len(wanted)] == wanted:
            return [start + end for _, end in found["offset_mapping"][first : first + len(wanted)]]
    raise ModelError(f"{type(tokenizer).__name__}: the chat template's text and its tokens differ")


def step_encoder(tokenizer: Any, separator: str) -> Callable[[Messages, str], tuple[list[int], list[int]]]:
    """The same rule as a function (prompt messages, response text) -> ids and step ends, for a process reward model.

    Whatever a policy answers gets a score: a blank response is one step.
    """

    def encode_text(prompt: Messages, response: str) -> tuple[list[int], list[int]]:
        encoded = encode_steps(tokenizer, prompt, response, split_steps(response, separator) or [response])
        return encoded.row.ids, encoded.ends

    return encode_text


def _starts(rendered: str, position: int, steps: Sequence[str]) -> list[int]:
    """Where each step begins; a template may trim the text around the answer, but not change it."""
    starts = []
    for step in steps:
        found = rendered.find(step.strip(), position)
        if found < 0:
            raise ModelError(f"the chat template changes the text of an answer: {step.strip()[:40]!r} is not in it")
        starts.append(found)
        position = found + len(step.strip())
    return starts
