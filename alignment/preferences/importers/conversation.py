"""What several formats share: lists of `{"role", "content"}` in source rows, and columns of answers."""

from collections.abc import Sequence
from typing import Any, get_args

from alignment.errors import DataError
from alignment.preferences.fields import Role
from alignment.preferences.record import Message

Messages = tuple[Message, ...]


def messages_of(value: Any, key: str) -> Messages:
    """The messages under `key` of a row; DataError for anything that a text message cannot hold."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{key} is not a list of messages")
    return tuple(_message(item, key) for item in value)


def _message(item: Any, key: str) -> Message:
    if not isinstance(item, dict) or "role" not in item or "content" not in item:
        raise DataError(f"{key} has a message without role or content")
    # Null stands for "not set": tables written with one column per key have it everywhere.
    others = sorted(name for name, value in item.items() if value is not None and name not in _KEYS)
    if others:
        raise DataError(f"{key} has a message with {others[0]!r}, which a text message cannot hold")
    if item["role"] not in get_args(Role):
        raise DataError(f"{key} has a message with an unknown role")
    if not isinstance(item["content"], str):
        raise DataError(f"{key} has a message whose content is not a text")
    return Message(role=item["role"], content=item["content"])


_KEYS = {"role", "content"}


def shared_turns(chosen: Messages, rejected: Messages) -> int:
    """How many messages two conversations begin with in common, at least one of each being left over."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if chosen[i] != rejected[i]), most)


def tools_of(row: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The optional `tools` of a row: a list of JSON objects."""
    tools = row.get("tools")
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools is not a list of objects")
    return tools


def answers_of(row: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """The answers in columns of a row, unchanged; DataError unless all are different texts with something in them."""
    answers = [row.get(key) for key in keys]
    texts = [answer for answer in answers if isinstance(answer, str)]
    if len(texts) < len(answers):
        raise DataError("a response is missing or not a text")
    if not all(text.strip() for text in texts):
        raise DataError("a response is empty")
    if len(set(texts)) < len(texts):
        raise DataError("two responses are identical")
    return texts
