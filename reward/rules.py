"""Rule scorers: cheap, transparent scores of a response, to stand beside a reward model and to keep it honest.

A rule is a pure function (text, response) -> float, higher is better, where `text` is the prompt, or the reference
answer for the rules of NEEDS_REFERENCE. Adding a rule is one function and one row of RULES.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from reward.scorer import Messages

Rule = Callable[[str, str], float]

_ENDING = re.compile(r"""(?:[.!?…。！？]["'”’»)\]*_]*|```)\s*\Z""")
_MARKUP_LINE = re.compile(r"\s*(?:#{1,6}\s|[-*+]\s|\d+[.)]\s|>\s|```|~~~|\|.*\||(?:---+|\*\*\*+|___+)\s*\Z)")
_MARKUP_INLINE = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__|`[^`\n]+`|\[[^\[\]\n]*\]\([^()\n]*\)|</?[a-zA-Z][^<>\n]*>")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def length(text: str, response: str) -> float:
    """Number of characters: the baseline every preference metric is compared with."""
    return float(len(response))


def brevity(text: str, response: str) -> float:
    """Minus the number of characters: shorter is better."""
    return -float(len(response))


def finished(text: str, response: str) -> float:
    """1.0 when the response ends like a finished sentence or code block, else 0.0."""
    return 1.0 if _ENDING.search(response.rstrip()[-16:]) else 0.0


def plain(text: str, response: str) -> float:
    """Share (0..1) of the non-empty lines that hold no Markdown or HTML markup; 1.0 for an empty response."""
    lines = [line for line in response.splitlines() if line.strip()]
    marked = sum(1 for line in lines if _MARKUP_LINE.match(line) or _MARKUP_INLINE.search(line))
    return 1.0 - marked / len(lines) if lines else 1.0


def reference_f1(text: str, response: str) -> float:
    """F1 (0..1) between the bags of words of the reference `text` and the response.

    SQuAD's measure and normalisation (Rajpurkar et al. 2016): lower case, no punctuation, no articles. When either
    side has no words left, it is 1.0 if both have none, else 0.0 (the official script's rule).
    """
    reference, words = _squad_words(text), _squad_words(response)
    if not reference or not words:
        return float(reference == words)
    common = sum((Counter(reference) & Counter(words)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


RULES: dict[str, Rule] = {
    "length": length,
    "brevity": brevity,
    "finished": finished,
    "plain": plain,
    "reference_f1": reference_f1,
}
NEEDS_REFERENCE = frozenset({"reference_f1"})


def prompt_text(prompt: Messages) -> str:
    """A prompt as one text: the bare content of a single message, otherwise `role: content` paragraphs."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


class RuleScorer:
    """A rule as a Scorer."""

    def __init__(self, name: str, references: Mapping[str, str] | None = None) -> None:
        """The rule `name` of RULES.

        Args:
            name: a row of RULES.
            references: `prompt_text(prompt)` -> reference answer; required by the rules of NEEDS_REFERENCE.

        Raises:
            ValueError: an unknown rule, or references missing or given to a rule that reads none.
        """
        if name not in RULES:
            raise ValueError(f"unknown rule {name!r}; there are: {', '.join(RULES)}")
        if (name in NEEDS_REFERENCE) != (references is not None):
            needs = "needs" if name in NEEDS_REFERENCE else "does not read"
            raise ValueError(f"rule {name} {needs} references")
        self.name = name
        self._rule = RULES[name]
        self._references = references

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> npt.NDArray[np.float32]:
        """Scores of `n` responses: (n,) float32, higher is better.

        Raises ValueError when there is nothing to score, the lengths differ, or a prompt has no reference.
        """
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        if not responses:
            raise ValueError("no responses to score")
        texts = [self._text(prompt) for prompt in prompts]
        scores = [self._rule(text, response) for text, response in zip(texts, responses, strict=True)]
        return np.asarray(scores, dtype=np.float32)

    def _text(self, prompt: Messages) -> str:
        text = prompt_text(prompt)
        if self._references is None:
            return text
        if text not in self._references:
            raise ValueError(f"rule {self.name}: no reference for the prompt {text[:60]!r}")
        return self._references[text]
