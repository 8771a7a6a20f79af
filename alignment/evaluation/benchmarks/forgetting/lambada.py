"""LAMBADA (Paperno et al. 2016), OpenAI's variant, as lm-eval 0.4.13's lambada_openai: the last word of a passage.

acc: the model's most likely tokens are exactly those of the last word. perplexity: exp(-mean log p(last word)), per
word and not per token. Words are parted at spaces; the space belongs to the last word. No chat template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.items import ItemBenchmark
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.data import HubData
from alignment.evaluation.metrics.perplexity import perplexity
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import mcnemar, paired_difference, share_interval, statistic_interval
from alignment.evaluation.stored.rows import Row

if TYPE_CHECKING:
    from alignment.evaluation.statistics import Indices, Interval


@dataclass(frozen=True)
class Passage:
    id: str
    context: str
    target: str  # " " and the last word


@dataclass(frozen=True)
class Lambada(ItemBenchmark):
    """acc, perplexity and their paired changes from the model that training started from. `data`: rows with `text`."""

    name = "lambada"
    suite = "forgetting"
    version = 1
    same = ("target",)
    hub = HubData("EleutherAI/lambada_openai", "900124bf3b8235c6daf21033af9948b3f07346c4", "test", "default")

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[Passage]:
        items = []
        for number, row in enumerate(rows, 1):
            text = row.values.get("text")
            context, space, word = text.rpartition(" ") if isinstance(text, str) else ("", "", "")
            if not (context.strip() and word):
                raise DataError(f"{row.where}: `text` must be a passage that ends with its last word; mend the row")
            items.append(Passage(str(number), context, space + word))
        return items

    def item_id(self, item: Passage) -> str:
        return item.id

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.evaluation.likelihood import sequence_logprob

        assert model is not None
        items: list[Passage] = self.chosen(context)
        contexts, targets = [item.context for item in items], [item.target for item in items]
        found = sequence_logprob(*model, contexts, targets, bf16=context.settings.bf16)
        return [
            {
                "id": item.id,
                "target": item.target,
                "logprob": None if one is None else one.logprob,
                "greedy": None if one is None else one.greedy,
            }
            for item, one in zip(items, found, strict=True)
        ]

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        """Right last words; the perplexity is no mean."""
        right = {r["id"]: ItemValue(None if r["greedy"] is None else float(r["greedy"]), r["id"]) for r in rows}
        return [Measure("acc", right)]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        reference = context.forgetting_reference()
        results = []
        for subject, rows in samples.items():
            here = _scored(rows)
            missing = len(rows) - len(here)
            level = share_interval([float(row["greedy"]) for row in here.values()], seed=context.seed)
            more: dict[str, Any] = {"higher_is_better": True, "primary": True, "label": "LAMBADA accuracy"}
            results.append(self.result(context, subject, "acc", level, missing, **more))
            logprobs = [row["logprob"] for row in here.values()]
            level = perplexity(logprobs, [1] * len(logprobs), seed=context.seed, per="last word")
            more = {"higher_is_better": False, "unit": "perplexity", "label": "LAMBADA perplexity of the last word"}
            results.append(self.result(context, subject, "perplexity", level, missing, **more))
            if subject != reference and reference in samples:
                results += self._changes(context, subject, here, _scored(samples[reference]), len(rows))
        return results

    def _changes(
        self, context: EvalContext, subject: str, here: Mapping[str, Sample], before: Mapping[str, Sample], n: int
    ) -> list[EvalResult]:
        both = [item for item in here if item in before]
        new, old = ([float(side[item]["greedy"]) for item in both] for side in (here, before))
        right = paired_difference(new, old, seed=context.seed)
        test = mcnemar(new, old)
        p = test.p.method if test.p.value is None else f"{test.p.method}, p = {test.p.value:.3g}"
        nats = perplexity_change([here[i]["logprob"] for i in both], [before[i]["logprob"] for i in both], context.seed)
        shown: dict[str, Any] = {"compared_to": context.forgetting_reference()}
        more = {**shown, "higher_is_better": True, "label": "change in LAMBADA accuracy"}
        method = f"{right.method}; gained {test.gained}, lost {test.lost}, {p}"
        worse = {**shown, "unit": "perplexity", "label": "change in LAMBADA perplexity of the last word"}
        return [
            self.result(context, subject, "acc_difference", right, n - len(both), method=method, **more),
            self.result(
                context, subject, "perplexity_difference", nats, n - len(both), higher_is_better=False, **worse
            ),
        ]


def perplexity_change(logprobs: Sequence[float], before: Sequence[float], seed: int) -> Interval:
    """exp(-mean logprobs) - exp(-mean before) over the same items, which are drawn in pairs."""
    import numpy as np

    new, old = np.asarray(logprobs, float), np.asarray(before, float)

    def change(drawn: Indices) -> float | None:
        try:
            return math.exp(-new[drawn].mean()) - math.exp(-old[drawn].mean())
        except OverflowError:
            return None

    return statistic_interval(change, len(new), seed=seed, name="paired difference of perplexities")


def _scored(rows: Sequence[Sample]) -> dict[str, Sample]:
    """Item id -> sample, of the passages that have a likelihood."""
    return {row["id"]: row for row in rows if row["logprob"] is not None}
