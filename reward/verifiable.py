"""Rules whose verdict anyone can check: a right final answer, a required form. For rewards without a reward model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]  # the pattern's tree; `re` itself does not show it
from typing import Any

MARK = "####"  # before the final answer, as in GSM8K
_NUMBER = re.compile(
    r"((?<![0-9A-Za-z)\]])[-\u2212\u2013])?"  # a sign, not the minus of 16-3
    r"(?:[$€£]\s?([-\u2212\u2013])?)?"
    r"([0-9]+(?:[.,][0-9]+|\s?/\s?[0-9]+|\x20[0-9]+/[0-9]+|,?\x200[0-9]{2}(?![0-9]))*"  # 1,018.5, 1/2, 1 1/2, 1 018
    r"(?:[eE][-+]?[0-9]{1,2}(?![0-9A-Za-z]))?"  # 2e3
    r"|(?<![\w.])\.[0-9]+|\\?[dt]?frac\{[^{}]*\}\{[^{}]*\})"
)
# Of what _NUMBER finds, what has one reading.
_PLAIN = re.compile(r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_MINUS_APART = re.compile(r"[ \t]*[-\u2212\u2013] (?=[$€£]?[0-9.])")  # `#### - 5`; on the next line it is a list
_BEFORE_NUMBER = " \t\r\n*_`\\([{"  # Markdown and LaTeX around an answer


def gsm8k(text: str, response: str) -> float:
    """1.0 when the final number of the response is the one of the reference `text`, else 0.0 (Cobbe et al. 2021).

    See `final_number`; 18 = 18.00 = $18. A response without a number gets 0.0.

    Raises:
        ValueError: the reference has no final number: neither `#### 18`, nor is it a number and nothing else.
    """
    gold = final_number(text) if MARK in text or _NUMBER.fullmatch(text.strip()) else None
    if gold is None:
        raise ValueError(f"the reference {text[-40:]!r} has no final number; it must end like `#### 18`")
    return 1.0 if final_number(response) == gold else 0.0


def final_number(text: str) -> Decimal | None:
    """The number a solution ends in, or None.

    With a `####`, it is the number right behind the last one that any follows, or else the last number after that one;
    without, the last number of the text. Commas between thousands, currency signs, units, Markdown and a full stop
    around a number do not count. Where the solution ends in 1/2, in 2,3 or in 18, 000 it has no final number: a
    fraction is not its denominator, and figures that can be read in two ways are not read in one.
    """
    found, (before, *behind) = None, text.split(MARK)
    for tail in reversed(behind):
        tail = _MINUS_APART.sub("-", tail, count=1) if _MINUS_APART.match(tail) else tail
        found = _NUMBER.match(tail.lstrip(_BEFORE_NUMBER)) or _last(tail)
        if found is not None:
            break
    if not behind:
        found = _last(before)
    if found is None or not _PLAIN.fullmatch(found[3]):
        return None
    number = Decimal(found[3].replace(",", ""))
    return -number if found[1] or found[2] else number


def _last(text: str) -> re.Match[str] | None:
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 (the last one stays)
        pass
    return found


def full_match(text: str, response: str, *, pattern: str) -> float:
    """1.0 when the regular expression `pattern` matches the whole response, else 0.0.

    Python's `re`: `.` does not match a line end unless the pattern begins with (?s). A match cannot be given a time
    limit, and a pattern that can divide a text in many ways takes exponential time on some responses. The common case,
    a repeat inside another as in (a+)+, is refused; other slow patterns, as in (a|a)* or .*.*.*b, are not recognised.

    Raises:
        ValueError: no regular expression, or one with such a repeat.
    """
    return 1.0 if _compiled(pattern).fullmatch(response) else 0.0


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise ValueError(f"pattern must be a text, not {pattern!r}")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if _nested_repeat(_parser.parse(pattern)):
        raise ValueError(
            f"pattern {pattern!r} repeats a repeat, which can take exponential time; make the inner one possessive, as "
            "in (a++)+, or write it without"
        )
    return compiled


def _nested_repeat(tree: Iterable[Any], inside: bool = False) -> bool:
    """Whether a repeat of open or varying length stands inside another that can give back what it took."""
    for code, arguments in tree:
        if code in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            low, high, body = arguments
            if (inside and high > max(low, 1)) or _nested_repeat(body, inside or high > 1):
                return True
        elif code in (_constants.POSSESSIVE_REPEAT, _constants.ATOMIC_GROUP):
            body = arguments if code == _constants.ATOMIC_GROUP else arguments[2]
            if _nested_repeat(body):
                return True
        elif code == _constants.BRANCH:
            if any(_nested_repeat(branch, inside) for branch in arguments[1]):
                return True
        elif code in (_constants.SUBPATTERN, _constants.ASSERT, _constants.ASSERT_NOT):
            if _nested_repeat(arguments[-1], inside):
                return True
        elif code == _constants.GROUPREF_EXISTS and any(_nested_repeat(part or (), inside) for part in arguments[1:]):
            return True
    return False
