"""Instruction data: `{"messages": [{"role", "content"}, ...]}`, the last message being the answer to imitate.

One response, no judgement. Earlier assistant messages belong to the prompt; `tools` is optional.
"""

from typing import Any

from alignment.errors import DataError
from alignment.preferences.importers.conversation import messages_of, tools_of
from alignment.preferences.record import PreferenceRecord, Prompt, Response, Source


def parse(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with one response, or DataError with the reason why the row is refused."""
    messages = messages_of(row.get("messages"), "messages")
    if messages[-1].role != "assistant":
        raise DataError("the last message is not the assistant's")
    if not messages[-1].content.strip():
        raise DataError("a response is empty")
    if len(messages) < 2:
        raise DataError("there is no message before the answer")
    return PreferenceRecord(
        prompt=Prompt(messages=messages[:-1], tools=tools_of(row)),
        responses=(Response(messages=messages[-1:]),),
        source=Source(row=line),
        raw=row,
    )
