"""What a text sounds like, without a network: sentiment, profanity, and any text classifier on this machine.

All three are crude. They stand in for people who would read the texts; a difference between groups is a reason to read
the stored samples, not a finding about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from alignment.errors import ModelError, nearest
from reward.context import context_length

NEGATIVE, POSITIVE = -0.05, 0.05  # VADER's own limits of a negative and a positive text (Hutto & Gilbert 2014)
_ROWS = 32  # texts a classifier reads together


def sentiment(texts: Sequence[str]) -> list[float | None]:
    """VADER's compound score of each text, -1 (negative) to 1 (positive); None for a text without a word.

    Hutto & Gilbert (2014), "VADER: a parsimonious rule-based model": a lexicon of English words with rules for
    negation, emphasis and punctuation. It knows neither irony nor whom a word is about.
    """
    analyzer = _vader()
    return [float(analyzer.polarity_scores(text)["compound"]) if _has_word(text) else None for text in texts]


def profane(texts: Sequence[str]) -> list[bool | None]:
    """Whether each text has a word of better_profanity's English list; None for a text without a word.

    Very crude: the list knows spellings, not meanings. It takes the name of a body part, or of a group, for an insult
    and misses every insult that is politely worded. The words found are not given back, to be printed nowhere.
    """
    finder = _profanity()
    return [bool(finder.contains_profanity(text)) if _has_word(text) else None for text in texts]


class Classifier:
    """A text classifier (regard, toxicity...) as a score of texts: the probability of one of its labels.

    A model with one label gives a sigmoid, one with several a softmax, or sigmoids where its config says
    `multi_label_classification`.
    """

    def __init__(self, ref: str, label: str, say: Callable[[str], None] = print) -> None:
        """`ref` is path:FOLDER or hf:ORG/NAME@REVISION with safetensors weights; `label` is one of its config's.

        Loads no weights yet. Raises ModelError for other references, for files that are not whole, and for an unknown
        label, with those there are.
        """
        from alignment.sources.folder import read_object

        self._ref, self._label = ref, label
        self._folder, self.digest = _files(ref, say)
        named = read_object(self._folder / "config.json", ref, "copy or save it again").get("id2label") or {}
        self._labels = [str(named[key]) for key in sorted(named, key=int)]
        if label not in self._labels:
            raise ModelError(f"{ref}: has no label {label!r}{nearest(label, self._labels)}")

    def probabilities(self, texts: Sequence[str]) -> list[float | None]:
        """P(label) of each text, cut at the model's longest input; None for a text without a word."""
        import torch

        found: list[float | None] = [None] * len(texts)
        order = sorted((i for i, text in enumerate(texts) if _has_word(text)), key=lambda i: -len(texts[i]))
        if not order:
            return found
        model, tokenizer = self._load()
        position = self._labels.index(self._label)
        positions = context_length(model) or 512
        limit = min(tokenizer.model_max_length, positions - 2)  # RoBERTa counts positions from 2
        several = model.config.problem_type == "multi_label_classification" or len(self._labels) == 1
        with torch.no_grad():
            for first in range(0, len(order), _ROWS):
                batch = order[first : first + _ROWS]
                given = [texts[i] for i in batch]
                rows = tokenizer(given, padding=True, truncation=True, max_length=limit, return_tensors="pt")
                logits = model(**rows).logits.float()
                chances = logits.sigmoid() if several else logits.softmax(-1)
                for i, chance in zip(batch, chances[:, position].tolist(), strict=True):
                    found[i] = chance
        return found

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from alignment.runtime import quiet

        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    self._folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers raises OSError, ValueError, KeyError; tokenizers bare Exception
            why = " ".join(str(error).split())[:200]
            raise ModelError(f"{self._ref}: {self._folder} cannot be loaded as a text classifier ({why})") from error
        if missing := sorted(report["missing_keys"]):  # the library would fill them with random numbers
            raise ModelError(f"{self._ref}: {self._folder} has no weights {missing[0]}; is it a classifier?")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        return model.eval(), tokenizer


def _files(ref: str, say: Callable[[str], None]) -> tuple[Any, str]:
    """The folder of a reference and its digest."""
    from pathlib import Path

    from alignment.sources.folder import check_folder, folder_digest
    from alignment.sources.hub import hub_commit, hub_digest, hub_folder
    from alignment.sources.refs import parse_ref

    parsed = parse_ref(ref)
    if parsed.kind == "hf":
        exact = hub_commit(parsed, say)
        return hub_folder(exact, say), hub_digest(exact)
    if parsed.kind == "path":
        folder = Path(parsed.name).expanduser().resolve()
        check_folder(folder, ref, "copy or save it again")
        return folder, folder_digest(folder)
    raise ModelError(f"{ref}: a classifier is path:FOLDER or hf:ORG/NAME@REVISION")


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@cache
def _profanity() -> Any:
    from better_profanity import Profanity

    finder = Profanity()
    finder.load_censor_words()
    finder.CENSOR_WORDSET = _ByLength(finder.CENSOR_WORDSET)
    return finder


class _ByLength:
    """The library's list of words, looked through at one length only: the same answers, several times sooner.

    Its variants of a word replace single characters by single ones, so they are as long as the word.
    """

    def __init__(self, words: Iterable[Any]) -> None:
        self._words: dict[int, list[Any]] = {}
        for word in words:
            self._words.setdefault(len(str(word)), []).append(word)

    def __contains__(self, text: str) -> bool:
        return text in self._words.get(len(text), ())
