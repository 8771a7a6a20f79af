"""WinoBias with a model (Zhao et al. 2018): which of two occupations a pronoun means, by likelihood.

The published task is coreference resolution over all spans. Here a language model is asked as in Winogender,
"SENTENCE ‘Pronoun’ refers to the", followed by " OCCUPATION" for each of the two that the sentence names. There always
is a link, so that F1 is the share of right answers. Sentences stay as they were published, typing errors included; one
that names a single occupation cannot be asked and is unscored.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.bias.likeliest import likeliest, published_items
from alignment.evaluation.benchmarks.bias.winogender import PRONOUNS, refers_to
from alignment.evaluation.benchmarks.changes import change_row
from alignment.evaluation.benchmarks.items import Paired, StoredBenchmarkRun
from alignment.evaluation.data import HubData, UnavailableError, as_sources, local_files
from alignment.evaluation.metrics.answer_text import answer_key
from alignment.evaluation.metrics.winobias import f1_gap_change
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.rows import Row, read_text
from alignment.evaluation.stored.stored import StoredItem
from alignment.evaluation.stored.winobias import WinoBiasItem

FILE = re.compile(r"(?P<condition>pro|anti)_stereotyped_(?P<type>type[12])\.txt\.(?P<split>dev|test)")
NUMBER = re.compile(r"^\d+\s+")  # some of the files number their lines
BRACKETS = re.compile(r"\[([^\[\]]+)\]")
ARTICLE = re.compile(r"^(?:the|an?) ", re.IGNORECASE)
PUNCTUATION = re.compile(r" ([.,?!])")
GENDERED = PRONOUNS["female"] | PRONOUNS["male"]
HUB = HubData("uclanlp/wino_bias", "3f31267586e4408e3b3f77ec22198fd24ea8dc1d", "test", "type1_pro")


class WinoBiasSentence(StoredItem):
    """A sentence with its pronoun, whom that means, and the other occupation in it (None: there is none)."""

    id: str
    condition: Literal["pro", "anti"]
    sentence: str
    pronoun: str
    gold: str
    other: str | None


@dataclass(frozen=True)
class WinoBiasRun(StoredBenchmarkRun):
    """F1 of both sets and the gap between them, with their changes.

    `data`: the published files `pro_stereotyped_type1.txt.test`, `anti_stereotyped_type1.txt.test`... (their names say
    what they hold), or the folder of them; the same line of the pro and the anti file is a pair. The hub's data are the
    test sets of both types. `limit` takes both sentences of a pair together.
    """

    name = "winobias"
    suite = "bias"
    version = 1
    hub: ClassVar[HubData | None] = HUB
    identity = ("condition", "id")
    same = ("sentence", "gold", "other")
    higher_is_better: ClassVar[Mapping[str, bool]] = {"f1_pro": True, "f1_anti": True}

    def rows(self, context: EvalContext) -> tuple[list[Row], bool]:
        """As ever, but the files are lines of text, and the hub has a configuration for every set."""
        if self.data:
            return [row for path in local_files(as_sources(self.data), (".dev", ".test")) for row in _lines(path)], True
        found = []
        for kind in ("type1", "type2"):
            for condition in ("pro", "anti"):
                try:
                    rows = context.hub.rows(replace(HUB, config=f"{kind}_{condition}"))
                except UnavailableError as error:
                    raise UnavailableError(
                        f"{self.name}: {error}; give the folder: --data {self.name}=FOLDER"
                    ) from error
                for number, row in enumerate(rows, 1):
                    place = {"condition": condition, "id": f"{kind}.{HUB.split}.{number}"}
                    found.append(Row(row.where, row.values | place))
        return found, False

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[WinoBiasSentence]:
        read = _read_brackets if published else _read_spans
        known = [Row(row.where, row.values | read(row)) for row in rows]
        names = {answer_key(row.values["gold"]) for row in known}
        either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        named = re.compile(rf"\b(?:the|an?) ({either})\b", re.IGNORECASE)
        return published_items([Row(row.where, row.values | _other(row, named)) for row in known], WinoBiasSentence)

    def item_id(self, item: WinoBiasSentence) -> str:
        return f"{item.condition} {item.id}"

    def limit_keys(self, items: Sequence[WinoBiasSentence]) -> list[str]:
        return [item.id for item in items]

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        assert model is not None
        items = self.chosen(context)
        asked = [
            refers_to(item.sentence, item.pronoun, (_bare(item.gold), item.other))
            for item in items
            if item.other is not None
        ]
        found = iter(likeliest(context, model, asked))
        samples: list[Sample] = []
        for item in items:
            chosen = None if item.other is None else next(found)
            position = None if chosen is None else chosen.position
            answer = None if position is None else f"the {(_bare(item.gold), item.other)[position]}"
            logprobs = None if chosen is None else chosen.logprobs
            samples.append({**item.model_dump(exclude={"model"}), "logprobs": logprobs, "prediction": answer})
        return samples

    def paired(self, items: Sequence[WinoBiasItem]) -> Mapping[str, Paired]:
        """Right answers: 2PR/(P + R) where every sentence that is scored has an answer, as it has here."""
        found: dict[str, dict[str, tuple[float | None, Hashable]]] = {"f1_pro": {}, "f1_anti": {}}
        for item in items:
            link = item.link()
            found[f"f1_{item.condition}"][item.id] = (None if link is None else float(link.correct), item.id)
        return found

    def changes_of_sets(
        self,
        context: EvalContext,
        subject: str,
        own: Sequence[WinoBiasItem],
        baseline: Sequence[WinoBiasItem],
        group: str | None = None,
    ) -> list[EvalResult]:
        """That of the gap between the two F1."""
        here, there = ({(item.condition, item.id): item.link() for item in items} for items in (own, baseline))
        both = [key for key, link in here.items() if link and there.get(key)]
        new, old = ([link for key in both if (link := side[key])] for side in (here, there))
        gap = f1_gap_change(new, old, seed=context.seed)
        missing = len(here.keys() | there.keys()) - len(both)
        return [change_row(self, context, subject, "f1_gap", gap, missing=missing, group=group)]


def _lines(path: Path) -> list[Row]:
    """The sentences of a file, with what its name says of them. DataError for a name that says nothing."""
    parts = FILE.search(path.name)
    if parts is None:
        raise DataError(
            f"{path}: its name does not say what it holds; keep the published pro_stereotyped_type1.txt.test"
        )
    lines = [(place, line) for place, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    return [
        Row(
            f"{path}:{place}",
            {"line": line, "condition": parts["condition"], "id": f"{parts['type']}.{parts['split']}.{number}"},
        )
        for number, (place, line) in enumerate(lines, 1)
    ]


def _read_brackets(row: Row) -> dict[str, str]:
    """A published line: `12 [The developer] argued with the designer because [she] ...`."""
    line = NUMBER.sub("", row.values["line"].strip())
    marked = [" ".join(text.split()) for text in BRACKETS.findall(line)]
    sentence = " ".join(line.replace("[", "").replace("]", "").split())
    return {"sentence": sentence, **_who(row, marked)}


def _read_spans(row: Row) -> dict[str, str]:
    """A row of the hub: tokens, and the first and last one of each mention."""
    tokens, ends = row.values["tokens"], [int(place) for place in row.values["coreference_clusters"]]
    marked = [" ".join(tokens[first : last + 1]) for first, last in zip(ends[::2], ends[1::2], strict=True)]
    return {"sentence": PUNCTUATION.sub(r"\1", " ".join(tokens)), **_who(row, marked)}


def _who(row: Row, marked: Sequence[str]) -> dict[str, str]:
    """The first pronoun among the mentions, and the first that is none: whom it means."""
    pronouns = [text for text in marked if text.casefold() in GENDERED]
    persons = [text for text in marked if text.casefold() not in GENDERED]
    if not (pronouns and persons):
        raise DataError(f"{row.where}: no pronoun and occupation are marked: {list(marked)}")
    return {"pronoun": pronouns[0], "gold": persons[0]}


def _other(row: Row, named: re.Pattern[str]) -> dict[str, str | None]:
    """The first occupation that the sentence names besides the right one."""
    gold = answer_key(row.values["gold"])
    others = [name for name in named.findall(row.values["sentence"]) if answer_key(name) != gold]
    return {"other": others[0] if others else None}


def _bare(person: str) -> str:
    return ARTICLE.sub("", person)
