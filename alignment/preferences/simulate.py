"""Annotators made of rules, for bundled data and tests: pure, seeded, and never to be mistaken for people.

An annotator's utility of a response is sum_f weight_f * f(prompt, response) + noise * G with standard Gumbel G,
so that without ties its orders follow a Plackett-Luce model with worths exp(utility / noise) (Luce 1959; Yellott
1977). Every feature is scaled by a fixed constant to a range of width one (not by the statistics of a sample, which
would make a response's utility depend on its rivals); a weight is therefore the utility between the worst and the
best a response can do. G is a function of (seed, annotator, record, response): the order of rows or of responses
changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alignment.errors import DataError
from alignment.preferences.identity import canonical_json
from alignment.preferences.record import Annotator, Judgement, Order, PreferenceRecord, judgement_id

LONGEST = 1000  # characters; anything longer counts as this long

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_FINISHED = re.compile(r"[.!?…][\"'”’)\]*]*\s*$")
_MARKUP = re.compile(r"^\s*(?:[-*•+]|\d+[.)])\s|^\s*#{1,6}\s|\*\*|__|```", re.MULTILINE)
_PREAMBLE = re.compile(r"\s*(?:sure|certainly|of course|absolutely|as an ai|i['’]?m|i am)\b", re.IGNORECASE)
_STOP_WORDS = """
    a about all also am an and any are as at be because been before but by can could did do does for from get
    give had has have he her his how i if in into is it its just like make many may me more most much my no
    not of on one or other our out over please say she should so some tell than that the their them then there
    these they this those to up us use very was we were what when where which while who why will with would
    write you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def brevity(prompt: str, response: str) -> float:
    """Minus the length in units of `LONGEST` characters, capped: 0 for nothing, -1 for `LONGEST` or more."""
    return -min(len(response), LONGEST) / LONGEST


def finished(prompt: str, response: str) -> float:
    """1 when the response ends like a sentence, with a closing quote or bracket at most behind it."""
    return float(bool(_FINISHED.search(response)))


def plain(prompt: str, response: str) -> float:
    """1 without list markers, headings, bold text and code fences."""
    return float(not _MARKUP.search(response))


def on_topic(prompt: str, response: str) -> float:
    """Share of the prompt's content words that occur in the response; 1 when the prompt has none to take up."""
    wanted = set(_words(prompt)) - _STOP
    return len(wanted & set(_words(response))) / len(wanted) if wanted else 1.0


def no_preamble(prompt: str, response: str) -> float:
    """1 unless the response begins by talking about itself: "Sure", "Of course", "As an AI", "I'm ..."."""
    return float(not _PREAMBLE.match(response))


def no_repeat(prompt: str, response: str) -> float:
    """Share of the three-word sequences that are distinct; 1 for fewer than four words."""
    words = _words(response)
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) / len(triples) if triples else 1.0


FEATURES: Mapping[str, Callable[[str, str], float]] = {
    "brevity": brevity,
    "finished": finished,
    "plain": plain,
    "on_topic": on_topic,
    "no_preamble": no_preamble,
    "no_repeat": no_repeat,
}


@dataclass(frozen=True, slots=True)
class SimulatedAnnotator:
    """`weights`: feature -> weight. `noise`: scale of the Gumbel noise. `tie_width`: see `tiers`."""

    id: str
    weights: Mapping[str, float]
    noise: float = 0.0
    tie_width: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(FEATURES))
        if unknown:
            raise DataError(f"annotator {self.id}: unknown feature {unknown[0]!r}; known: {', '.join(FEATURES)}")
        if self.noise < 0 or self.tie_width < 0:
            raise DataError(f"annotator {self.id}: noise and tie_width must be >= 0")


def utilities(record: PreferenceRecord, annotator: SimulatedAnnotator) -> list[float]:
    """What the annotator makes of each response of the record, noise included."""
    prompt = "\n".join(message.content for message in record.prompt.messages if message.role == "user")
    values = []
    for response in record.responses:
        text = response.text()
        value = math.fsum(weight * FEATURES[name](prompt, text) for name, weight in sorted(annotator.weights.items()))
        values.append(value + annotator.noise * _gumbel(annotator, record.id, response.id))
    return values


def _gumbel(annotator: SimulatedAnnotator, record: str, response: str) -> float:
    key = canonical_json([annotator.seed, annotator.id, record, response]).encode()
    # 52 bits and a half: exactly representable and strictly inside (0, 1).
    uniform = ((int.from_bytes(hashlib.sha256(key).digest()[:8]) >> 12) + 0.5) / 2**52
    return -math.log(-math.log(uniform))


def tiers(values: Mapping[str, float], tie_width: float) -> tuple[tuple[str, ...], ...]:
    """Response ids by descending value, neighbours closer than `tie_width` in one tier.

    Ties chain: a response joins the tier above by its distance to the *last* of that tier, so the ends of a long
    tier may be further apart than `tie_width`. Equal values always tie.
    """
    ordered = sorted(values, key=lambda response: (-values[response], response))
    found: list[list[str]] = []
    for response in ordered:
        gap = values[found[-1][-1]] - values[response] if found else math.inf
        if gap == 0 or gap < tie_width:
            found[-1].append(response)
        else:
            found.append([response])
    return tuple(tuple(tier) for tier in found)


def judge(record: PreferenceRecord, annotator: SimulatedAnnotator, criterion: str = "overall") -> Judgement:
    """The annotator's order of all responses. DataError for a record with fewer than two."""
    if len(record.responses) < 2:
        raise DataError(f"record {record.id} has fewer than two responses: nothing to compare")
    values = utilities(record, annotator)
    by_id = {response.id: value for response, value in zip(record.responses, values, strict=True)}
    return Judgement(
        id=judgement_id(record.id, annotator.id, f"{criterion}, seed {annotator.seed}"),
        annotator=Annotator(id=annotator.id, kind="rule"),
        orders=(Order(criterion=criterion, tiers=tiers(by_id, annotator.tie_width)),),
    )
