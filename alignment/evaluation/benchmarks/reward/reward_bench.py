"""RewardBench (Lambert et al. 2024): does a reward model score the better of two responses higher?

Accuracy by subset and section and the mean of the sections, as in metrics/reward_bench.py. A response is scored after
its prompt as one user message; multi-turn prompts are one text in the data too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from alignment.errors import DataError, nearest
from alignment.evaluation.benchmarks.answered import parsed, user
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.benchmarks.reward.scorer_items import ScorerItems, column, fitting_scores
from alignment.evaluation.data import HubData
from alignment.evaluation.metrics.reward_bench import (
    SECTION_OF,
    SECTIONS,
    Credit,
    bench_score,
    bench_weights,
    pair_credit,
    section_score,
)
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import share_interval
from alignment.evaluation.stored.rows import Row


class PairRow(BaseModel):
    """A prompt with a better and a worse response."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str
    subset: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class RewardBench(ScorerItems):
    """score (mean of the sections), accuracy by section and by subset; equal scores count 1/2."""

    name = "reward_bench"
    suite = "reward"
    version = 1

    hub: ClassVar[HubData | None] = HubData(
        "allenai/reward-bench", "168d848cdbbea9764fae4a544dc9ca1e6cca4931", "filtered"
    )

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[PairRow]:
        """Files have the hub's columns. An id is one of its subset: the hub's are not unique across subsets."""
        items = []
        for row in rows:
            subset = column(row, "subset")
            if subset not in SECTION_OF:
                raise DataError(f"{row.where}: unknown subset {subset!r}{nearest(str(subset), SECTION_OF)}")
            texts = {name: column(row, name) for name in ("prompt", "chosen", "rejected")}
            values = {"id": f"{subset}/{column(row, 'id')}", "subset": subset, **texts}
            items += parsed([Row(row.where, values)], PairRow)
        return items

    def item_id(self, item: PairRow) -> str:
        return item.id

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        items: list[PairRow] = self.chosen(context)
        prompts = [user(item.prompt) for item in items for _ in range(2)]
        texts = [text for item in items for text in (item.chosen, item.rejected)]
        scores = fitting_scores(context, self.name, subject, prompts, texts)
        return [
            {"id": item.id, "subset": item.subset, "prompt": item.prompt, "scores": scores[2 * i : 2 * i + 2]}
            for i, item in enumerate(items)
        ]

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        if self.undefined(rows):
            return []
        items = {row["id"]: ItemValue(None, row["prompt"]) for row in rows}
        scored = [row for row in rows if None not in row["scores"]]
        credits = _credits(scored)
        for row, credit, weight in zip(scored, credits, bench_weights(credits), strict=True):
            items[row["id"]] = ItemValue(credit.value * weight, credit.prompt, weight)
        return [Measure("score", items)]

    def undefined(self, rows: Sequence[Sample]) -> Mapping[str, str]:
        """The published score is the mean of all four sections: of fewer it is another number."""
        there = {SECTION_OF[credit.subset] for credit in _credits(rows)}
        missing = [section for section in SECTIONS if section not in there]
        return {"score": f"no scored pair of {', '.join(missing)}: it is of all four sections"} if missing else {}

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        return [row for subject, rows in samples.items() for row in self._levels(context, subject, rows)]

    def _levels(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> list[EvalResult]:
        credits = _credits(rows)
        overall, left = bench_score(credits, seed=context.seed), len(rows) - len(credits)
        label = "mean accuracy of RewardBench's sections"
        shown: dict[str, Any] = {"higher_is_better": True}
        results = [self.result(context, subject, "score", overall, left, **shown, primary=True, label=label)]
        for section, subsets in SECTIONS.items():
            own = [row for row in rows if row["subset"] in subsets]
            level, left = section_score(_credits(own), seed=context.seed), len(own) - len(_credits(own))
            more = {**shown, "group": section, "label": "RewardBench accuracy by section"}
            results.append(self.result(context, subject, "accuracy", level, left, **more))
        for subset in (one for one in SECTION_OF if any(row["subset"] == one for row in rows)):
            own = [row for row in rows if row["subset"] == subset]
            scored = _credits(own)
            level = share_interval([c.value for c in scored], [c.prompt for c in scored], seed=context.seed)
            more = {**shown, "group": f"subset: {subset}", "label": "RewardBench accuracy by subset"}
            results.append(self.result(context, subject, "accuracy", level, len(own) - len(scored), **more))
        return results


def _credits(rows: Sequence[Sample]) -> list[Credit]:
    """Of the pairs that could be scored."""
    scored = [row for row in rows if None not in row["scores"]]
    return [Credit(row["subset"], row["prompt"], pair_credit(*row["scores"])) for row in scored]
