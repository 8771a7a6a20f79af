"""TruthfulQA, multiple choice: log-likelihoods of true and false answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from alignment.evaluation.metrics.truthful import mc1, mc2
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import share_interval
from alignment.evaluation.stored.rows import Row, read_rows, stem
from alignment.evaluation.stored.stored import (
    Read,
    StoredBenchmark,
    StoredItem,
    by_model,
    by_name,
    parse_rows,
    refuse_same_names,
    refuse_twins,
)


class TruthfulQAItem(StoredItem):
    """The summed log-likelihoods (nats) of a question's answers; a null or NaN among them is unscored."""

    id: str
    category: str | None = None
    true: list[float | None] = Field(min_length=1, description="Of the true answers, the best one first.")
    false: list[float | None] = Field(min_length=1, description="Of the false answers.")

    @model_validator(mode="after")
    def _units(self) -> TruthfulQAItem:
        if any(x is not None and x > 0 for x in (*self.true, *self.false)):
            raise ValueError("a log-likelihood is above 0; it is the sum of natural logarithms of probabilities")
        return self

    def answers(self) -> tuple[list[float], list[float]] | None:
        """(true, false), or None when one has no log-likelihood."""
        true, false = ([x for x in side if x is not None and math.isfinite(x)] for side in (self.true, self.false))
        return (true, false) if len(true) == len(self.true) and len(false) == len(self.false) else None


class TruthfulQA(StoredBenchmark[TruthfulQAItem]):
    name = "truthfulqa"
    version = 1
    suite = "factuality"
    record = TruthfulQAItem
    about = (
        "MC1: how often the best true answer is likelier than every false one. MC2: the probability of the true "
        "answers among all, p = exp(summed log-likelihood) (Lin et al. 2022)."
    )
    files = "JSONL: `{id, category, true: [...], false: [...]}`, summed log-likelihoods in nats, the best answer first."
    example = "truthfulqa answers.jsonl"

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[TruthfulQAItem]:
        refuse_same_names(paths)
        items: list[TruthfulQAItem] = []
        refused: list[tuple[str, str]] = []
        for path in paths:
            rows = [Row(row.where, row.values | {"id": str(row.values.get("id", ""))}) for row in read_rows(path)]
            found = parse_rows(rows, TruthfulQAItem, model=stem(path))
            items += found.items
            refused += found.refused
        refuse_twins([item for item in items if item.id], "id")
        return Read(items, refused)

    def score(self, items: Sequence[TruthfulQAItem], *, seed: int) -> list[EvalResult]:
        results: list[EvalResult] = []
        for model, own in by_model(items).items():
            for category, chosen in self.parts(own).items():
                results += self._figures(model, chosen, category, seed)
        return results

    def groups(self, items: Sequence[TruthfulQAItem]) -> Mapping[str, Sequence[TruthfulQAItem]]:
        """Categories by name, where there are several."""
        found = by_name(items, lambda item: item.category)
        return dict(sorted(found.items())) if len(found) > 1 else {}

    def _figures(
        self, model: str, items: Sequence[TruthfulQAItem], group: str | None, seed: int
    ) -> Iterator[EvalResult]:
        scored = [answers for item in items if (answers := item.answers()) is not None]
        shared: dict[str, Any] = {"seed": seed, "unscored": len(items) - len(scored), "group": group}
        first = share_interval([mc1([true[0], *false], 0) for true, false in scored], seed=seed)
        yield self.figure(model, "mc1", first, higher_is_better=True, **shared)
        second = share_interval([mc2(true, false) for true, false in scored], seed=seed)
        yield self.figure(model, "mc2", second, higher_is_better=True, primary=group is None, **shared)
