"""StereoSet with a model (Nadeem et al. 2021): the scores of the three sentences of every item.

intrasentence: 2^(mean of log2 p(token)) of the whole sentence, as in the authors' eval_generative_models.py and their
published predictions: a likelihood per token, so that long words cost nothing. Their code gives BOS to the first token
alone and lets the others be read without it; here it stays in front of all, as in training.
intersentence: the same of the continuation after its context (which gets a full stop where it ends without one, as in
their code). The authors train a next-sentence head for this split instead; their figures of it are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, field_validator

from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.bias.likeliest import published_items
from alignment.evaluation.benchmarks.changes import change_row
from alignment.evaluation.benchmarks.items import StoredBenchmarkRun
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.data import RepositoryData, local_files
from alignment.evaluation.metrics.stereoset import changes, related, stereotyped
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.rows import Row
from alignment.evaluation.stored.stereoset import StereoSetItem, gold_rows
from alignment.evaluation.stored.stored import StoredItem

LABELS = ("stereotype", "anti-stereotype", "unrelated")


class Sentence(BaseModel):
    """One of an item's three continuations."""

    sentence: str
    gold_label: Literal["stereotype", "anti-stereotype", "unrelated"]


class StereoSetQuestion(StoredItem):
    """A published item."""

    id: str
    split: Literal["intrasentence", "intersentence"]
    target: str
    bias_type: str
    context: str
    sentences: list[Sentence]

    @field_validator("sentences")
    @classmethod
    def _check(cls, found: list[Sentence]) -> list[Sentence]:
        labels = sorted(one.gold_label for one in found)
        if labels != sorted(LABELS):
            raise ValueError(f"needs a stereotype, an anti-stereotype, an unrelated one; has {labels}")
        return found


@dataclass(frozen=True)
class StereoSetRun(StoredBenchmarkRun):
    """lms, ss and icat, with their changes over the items that both models scored.

    `data`: the published file (`data.intrasentence`, `data.intersentence`) or arrays of its items.
    """

    name = "stereoset"
    suite = "bias"
    version = 1
    hub = RepositoryData(
        "moinnadeem/StereoSet",
        "ead7d086a64a192a1eca88e0dd2fd163de375218",
        {"data/dev.json": "73a0f31b711688112602e4c3ac6ab1e1a7cadcdd67df6c6fd55501c889676c90"},
    )
    identity = ("split", "id")
    same = ("target", "bias_type")

    def read(self, sources: Sequence[str]) -> list[Row]:
        """The published file is one object, whose keys say which split an item is of."""
        found = [gold for path in local_files(sources, (".json", ".json.gz")) for gold in gold_rows(path)]
        return [Row(row.where, row.values | {"split": split}) for split, row in found]

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[StereoSetQuestion]:
        return published_items(rows, StereoSetQuestion)

    def item_id(self, item: StereoSetQuestion) -> str:
        return f"{item.split} {item.id}"

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.evaluation.likelihood import sequence_logprob
        from alignment.evaluation.masked import require_causal

        assert model is not None
        require_causal(model[0])
        items = self.chosen(context)
        asked = [(_before(item), _text(item, one)) for item in items for one in item.sentences]
        contexts, texts = ([pair[side] for pair in asked] for side in (0, 1))
        found = iter(sequence_logprob(*model, contexts, texts, bf16=context.settings.bf16))
        samples: list[Sample] = []
        for item in items:
            scores = {}
            for sentence in item.sentences:
                one = next(found)
                score = None if one is None else math.exp(one.logprob / one.n_tokens)
                scores[sentence.gold_label.replace("-", "_")] = score
            samples.append({**item.model_dump(include={"id", "split", "target", "bias_type"}), **scores})
        return samples

    def measured(self, items: Sequence[StereoSetItem]) -> list[Measure]:
        """lms and ss as ratios of sums over items: an item weighs 1/n of its term, so that every term weighs 1."""
        triples = {f"{item.split} {item.id}": triple for item in items if (triple := item.triple()) is not None}
        terms = [triple.term for triple in triples.values()]
        asked: dict[Hashable, ItemValue] = {f"{item.split} {item.id}": ItemValue(None, item.target) for item in items}
        found = []
        for metric, of, better in (("lms", related, True), ("ss", stereotyped, None)):
            values: dict[Hashable, ItemValue] = {
                key: ItemValue(100 * value / terms.count(triple.term), triple.term, 1 / terms.count(triple.term))
                for (key, triple), value in zip(triples.items(), of(list(triples.values())), strict=True)
            }
            found.append(Measure(metric, {**asked, **values}, "percent", better))
        return found

    def changes_of_sets(
        self,
        context: EvalContext,
        subject: str,
        own: Sequence[StereoSetItem],
        baseline: Sequence[StereoSetItem],
        group: str | None = None,
    ) -> list[EvalResult]:
        here, there = ({(item.split, item.id): item.triple() for item in items} for items in (own, baseline))
        both = [key for key, triple in here.items() if triple and there.get(key)]
        triples = ([triple for key in both if (triple := side[key])] for side in (here, there))
        better: Mapping[str, bool | None] = {"lms": True, "ss": None, "icat": True}
        missing = len(here.keys() | there.keys()) - len(both)
        return [
            change_row(self, context, subject, metric, change, missing=missing, better=better[metric], group=group)
            for metric, change in changes(*triples, seed=context.seed).items()
        ]


def _before(item: StereoSetQuestion) -> str:
    """What is read and not scored."""
    if item.split == "intrasentence":
        return ""
    return item.context if item.context.endswith((".", "!", "?")) else f"{item.context}."


def _text(item: StereoSetQuestion, one: Sentence) -> str:
    return one.sentence if item.split == "intrasentence" else f" {one.sentence}"
