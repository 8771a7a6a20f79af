"""The field types of the preference schema, and the strict frozen model that all of its parts are."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StringConstraints

from alignment.preferences.identity import canonical_json

Split = Literal["train", "validation", "test"]
Role = Literal["system", "user", "assistant", "tool"]


def unicode_text(text: str) -> str:
    """`text`, or ValueError where UTF-8 cannot hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair at character {error.start}: not valid Unicode") from None
    return text


def plain_json(value: Any) -> Any:
    """`value`, or ValueError where a JSON file cannot hold it (NaN, sets, half surrogate pairs)."""
    try:
        unicode_text(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"must be plain JSON ({error})") from None
    return value


T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]  # takes a list or a tuple, keeps a tuple
Text = Annotated[str, AfterValidator(unicode_text)]
Name = Annotated[str, StringConstraints(min_length=1), AfterValidator(unicode_text)]
Json = Annotated[Any, AfterValidator(plain_json)]
Count = Annotated[int, Field(ge=0)]


class StrictModel(BaseModel):
    """Immutable, no unknown keys, no conversion between types, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Message(StrictModel):
    """One turn of a conversation, in the chat format that templates take."""

    role: Role
    content: Text
