"""Where a chat template ends an assistant's turn: the token that training scores last and that sampling stops at."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

PROBE = "7305192846"  # an answer's text that no template trims, turns to capitals or writes by itself
SYSTEM, ASKED = ({"role": role, "content": "Hello."} for role in ("system", "user"))


class Turn(NamedTuple):
    """What a template writes around the text of an answer, the same for every answer."""

    head: str  # between the generation prompt and the text
    tail: str  # after the text, from the first special token on; empty when there is none
    tail_ids: tuple[int, ...]  # the tail's tokens; the first ends the turn
    special: frozenset[str]  # the tokenizer's special tokens as they are written

    @property
    def end(self) -> int | None:
        """The token that ends an answer; None for a template without one."""
        return self.tail_ids[0] if self.tail_ids else None

    def special_in(self, text: str) -> list[str]:
        """The special tokens whose strings stand in a text."""
        return sorted(token for token in self.special if token in text)


def turn_of(tokenizer: Any) -> Turn | None:
    """The turn of a tokenizer's chat template, found with a made-up answer.

    None without a template, and for one that refuses a question and its answer, or drops the answer's text.
    """
    template = getattr(tokenizer, "chat_template", None)
    return _turn(tokenizer, str(template), tokenizer.eos_token) if template else None


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokenizer's EOS, the end of a turn of its template, and the end tokens of the model's generation_config."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    turn = turn_of(tokenizer)
    own = {tokenizer.eos_token_id, None if turn is None else turn.end}
    return (own | set(named if isinstance(named, list | tuple) else [named])) - {None}


def remember_end(model: Any, tokenizer: Any) -> None:
    """Writes the end of a turn, where it is not EOS, into the model's generation_config: other programs that sample
    with the model, or with what is saved of it, know the template's end from nowhere else."""
    turn, config = turn_of(tokenizer), getattr(model, "generation_config", None)
    if turn is not None and turn.end not in (None, tokenizer.eos_token_id) and config is not None:
        config.eos_token_id = sorted(end_tokens(model, tokenizer))


@lru_cache(maxsize=16)
def _turn(tokenizer: Any, template: str, eos: str | None) -> Turn | None:
    """`template` and `eos` are what a tokenizer may be given anew."""
    for before in ([ASKED], [SYSTEM, ASKED]):  # some templates want a system message
        try:
            opened = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template([*before, {"role": "assistant", "content": PROBE}], tokenize=False)
        except TemplateError:
            continue
        return _around(tokenizer, opened, whole)
    return None


def _around(tokenizer: Any, opened: str, whole: str) -> Turn | None:
    place = whole.rfind(PROBE)
    if place < 0:
        return None
    head = whole[len(opened) : place] if whole.startswith(opened) else ""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = frozenset(added | set(tokenizer.all_special_tokens))
    after = whole[place + len(PROBE) :]
    found = [token for token in special if token in after]
    if not found:
        return Turn(head, "", (), special)
    first = min(found, key=lambda token: (after.find(token), -len(token)))  # the longest of those that begin there
    tail = after[after.find(first) :]
    ids = tokenizer(tail, add_special_tokens=False).input_ids
    start = ids.index(tokenizer.convert_tokens_to_ids(first))
    return Turn(head, tail, tuple(ids[start:]), special)
