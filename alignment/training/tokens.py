"""From messages to token ids: one rule for every stage, in training and in scoring.

The prompt is rendered with the chat template's generation prompt, the whole conversation without it, and the first
must be a prefix of the second: otherwise the model would train on contexts it never meets when it answers.

A completion ends with the token that ends the template's turn: the first special token that the template itself writes
after an answer (`generation.turn_end`), at which sampling stops too. What follows is cut off and never scored:
SmolLM2's template ends `<|im_end|>\\n`, and that newline is not scored. An answer's own text ends nothing: the string
of a special token in it is read as text, as a model that writes it has to spell it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from jinja2 import TemplateError

from alignment.errors import DataError, ModelError
from alignment.generation.turn_end import Turn, turn_of

Messages = Sequence[Mapping[str, str]]
Truncation = Literal["drop", "keep_start", "error"]


@dataclass(frozen=True)
class Encoded:
    """One prompt and one response as token ids.

    `completion_mask` runs along `completion_ids`: 1 = a token the assistant wrote, 0 = context between its turns.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    completion_mask: list[int]
    truncated: bool = False

    @property
    def ids(self) -> list[int]:
        """The whole row."""
        return self.prompt_ids + self.completion_ids

    @property
    def mask(self) -> list[int]:
        """1 for every scored token of the whole row."""
        return [0] * len(self.prompt_ids) + self.completion_mask

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def encoded_in(row: Mapping[str, Any]) -> list[Encoded]:
    """Every sequence of tokens in an objective's row, whatever its keys are called."""
    values = [v if isinstance(v, list | tuple) else [v] for v in row.values()]
    return [encoded for value in values for encoded in value if isinstance(encoded, Encoded)]


@dataclass
class LengthReport:
    """What `max_length` did to the records of a data set; nothing is dropped or cut without a count here."""

    max_length: int | None
    kept: int = 0
    truncated: list[str] = field(default_factory=list)  # record ids
    dropped: list[str] = field(default_factory=list)  # record ids


@overload
def encode(tokenizer: Any, prompt_messages: Messages, response_messages: Messages) -> Encoded: ...


@overload
def encode(
    tokenizer: Any,
    prompt_messages: Messages,
    response_messages: Messages,
    max_length: int | None,
    truncation: Truncation = "drop",
) -> Encoded | None: ...


def encode(
    tokenizer: Any,
    prompt_messages: Messages,
    response_messages: Messages,
    max_length: int | None = None,
    truncation: Truncation = "drop",
) -> Encoded | None:
    """Token ids of a prompt and a response.

    A response is usually one assistant message. It may be several (assistant, user, assistant): then all that follows
    the prompt is the completion, and only the assistant's own tokens are scored.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        prompt_messages: the conversation up to the response.
        response_messages: begins and ends with an assistant message.
        max_length: most tokens of prompt and completion together; None means no limit.
        truncation: of a longer row, `drop` returns None, `keep_start` cuts the end of the completion (or returns None
            when no scored token is left), `error` raises.

    Raises:
        ModelError: no chat template, or one that does not render the prompt as a prefix of the conversation.
        DataError: messages that are no prompt and response, a response with a special token's string that cannot be
            read as text, or a row too long under `truncation="error"`.
    """
    prompt_ids = _render_prompt(tokenizer, prompt_messages)
    row = _encode_after(tokenizer, prompt_ids, prompt_messages, response_messages)
    return _fit(row, max_length, truncation)


def encode_record(
    tokenizer: Any,
    record_id: str,
    prompt_messages: Messages,
    responses: Sequence[Messages],
    report: LengthReport,
    truncation: Truncation = "drop",
) -> list[Encoded] | None:
    """All responses of one record, or None when one of them is too long: a record is kept whole or not at all.

    `report` holds the limit and counts what happened. Raises as `encode` does; a DataError names the record.
    """
    rows: list[Encoded] = []
    try:
        prompt_ids = _render_prompt(tokenizer, prompt_messages)
        for response in responses:
            whole = _encode_after(tokenizer, prompt_ids, prompt_messages, response)
            row = _fit(whole, report.max_length, truncation)
            if row is None:
                report.dropped.append(record_id)
                return None
            rows.append(row)
    except DataError as error:
        raise DataError(f"record {record_id}: {error}") from error
    report.kept += 1
    if any(row.truncated for row in rows):
        report.truncated.append(record_id)
    return rows


def text_encoder(tokenizer: Any) -> Callable[[Messages, str], list[int]]:
    """The same rule as a function (prompt messages, response text) -> ids of the row, for a reward model."""

    def encode_text(prompt: Messages, response: str) -> list[int]:
        return encode(tokenizer, prompt, [{"role": "assistant", "content": response}]).ids

    return encode_text


def _encode_after(
    tokenizer: Any, prompt_ids: list[int], prompt_messages: Messages, response_messages: Messages
) -> Encoded:
    roles = [message["role"] for message in response_messages]
    if not roles or roles[0] != "assistant" or roles[-1] != "assistant":
        raise DataError(f"a response begins and ends with an assistant message, not {', '.join(roles) or 'nothing'}")
    row, mask = list(prompt_ids), [0] * len(prompt_ids)
    for turn, role in enumerate(roles):
        if role != "assistant":
            continue
        before = [*prompt_messages, *response_messages[:turn]]
        opened = prompt_ids if turn == 0 else _render(tokenizer, before, generation_prompt=True)
        _must_start_with(tokenizer, opened, row)
        answer = _answer(tokenizer, opened, before, response_messages[turn], last=turn == len(roles) - 1)
        mask += [0] * (len(opened) - len(row)) + [1] * len(answer)
        row = opened + answer
    return Encoded(prompt_ids, row[len(prompt_ids) :], mask[len(prompt_ids) :])


def _fit(row: Encoded, max_length: int | None, truncation: Truncation) -> Encoded | None:
    if max_length is None or len(row) <= max_length:
        return row
    if truncation == "error":
        raise DataError(f"{len(row)} tokens of prompt and response, more than max_length {max_length}")
    room = max_length - len(row.prompt_ids)
    if truncation == "drop" or room <= 0 or not any(row.completion_mask[:room]):
        return None
    return Encoded(row.prompt_ids, row.completion_ids[:room], row.completion_mask[:room], truncated=True)


def _render_prompt(tokenizer: Any, messages: Messages) -> list[int]:
    if not messages:
        raise DataError("a prompt needs at least one message")
    return _render(tokenizer, messages, generation_prompt=True)


def _render(tokenizer: Any, messages: Messages, *, generation_prompt: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise ModelError(f"{_name(tokenizer)} has no chat template; name a Jinja file under the recipe's chat_template")
    try:
        return tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            list(messages), tokenize=True, add_generation_prompt=generation_prompt, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise DataError(f"the chat template of {_name(tokenizer)} refuses the roles {roles}: {error}") from error


def _answer(tokenizer: Any, opened: list[int], before: Messages, answer: Mapping[str, Any], *, last: bool) -> list[int]:
    """What an answer adds to the ids of the conversation before it, up to the token that ends its turn.

    A tokenizer may merge the newline that opens an answer with one that the answer begins with. A model that samples is
    given the opening alone, so here too the opening keeps its own tokens, and the rest of the text is tokenised apart.
    """
    after = [*before, answer]
    rest = _render(tokenizer, after, generation_prompt=False)
    turn = turn_of(tokenizer)
    spelled = [] if turn is None else turn.special_in(answer["content"])
    if spelled and not last:  # the turns after it are rendered with it, where it would be the token
        raise DataError(f"an answer before the last of several holds the special token {spelled[0]!r}; take it out")
    if spelled or rest[: len(opened)] != opened:
        start = tokenizer.apply_chat_template(list(before), tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(after, tokenize=False)
        if not whole.startswith(start):
            _must_start_with(tokenizer, rest, opened)
        rest = [*opened, *_apart(tokenizer, turn, whole[len(start) :], spelled)]
    if turn is None:
        raise ModelError(
            f"the chat template of {_name(tokenizer)} refuses a plain question and its answer, or changes the answer's "
            "text; give another one (recipe key chat_template)"
        )
    cut = len(rest) - len(turn.tail_ids)
    if tuple(rest[cut:]) != turn.tail_ids:
        raise ModelError(
            f"the chat template of {_name(tokenizer)} ends one answer with {turn.tail!r} and another with "
            f"{tokenizer.decode(rest[-4:])!r}; use a template that ends all alike (recipe key chat_template)"
        )
    return rest[len(opened) : cut + 1]


def _apart(tokenizer: Any, turn: Turn | None, text: str, spelled: Sequence[str]) -> list[int]:
    """Ids of what a template writes after the generation prompt, the special tokens `spelled` in an answer as text."""
    if turn is None or not spelled or not text.endswith(turn.tail):
        return tokenizer(text, add_special_tokens=False).input_ids  # type: ignore[no-any-return]
    head = tokenizer(turn.head, add_special_tokens=False).input_ids if turn.head else []
    said = text[len(turn.head) : len(text) - len(turn.tail)]
    ids = tokenizer(said, add_special_tokens=False, split_special_tokens=True).input_ids
    kept = {tokenizer.convert_tokens_to_ids(token) for token in spelled} - {tokenizer.unk_token_id}
    if kept & set(ids):
        raise DataError(f"an answer holds the special token {spelled[0]!r}, which is no text here; take it out")
    return [*head, *ids, *turn.tail_ids]


def _must_start_with(tokenizer: Any, whole: list[int], start: list[int]) -> None:
    if whole[: len(start)] == start:
        return
    same = next((i for i, (a, b) in enumerate(zip(whole, start, strict=False)) if a != b), min(len(whole), len(start)))
    raise ModelError(
        f"the chat template of {_name(tokenizer)} renders a prompt differently once an answer follows it: "
        f"{tokenizer.decode(start[same : same + 8])!r} becomes {tokenizer.decode(whole[same : same + 8])!r} at token "
        f"{same}; use a template that only appends (recipe key chat_template)"
    )


def _name(tokenizer: Any) -> str:
    return str(tokenizer.name_or_path) or type(tokenizer).__name__
