"""CrowS-Pairs: the published sentence pairs, and a file of two scores per pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from alignment.errors import DataError
from alignment.evaluation.metrics.crows_pairs import Scores, stereotype_score, stereotype_score_without_ties
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval
from alignment.evaluation.stored.rows import Row, columns, read_rows, require_columns, stem
from alignment.evaluation.stored.stored import (
    Read,
    StoredBenchmark,
    StoredItem,
    by_model,
    by_name,
    parse_rows,
    refuse_same,
    refuse_twins,
)

# Kept with every result: the authors themselves say so on the data's page.
CAUTION = (
    "CrowS-Pairs is not reliable as a measure of bias, as its authors warn: many of its pairs are noisy or do not say "
    "what they are taken to say (Blodgett et al. 2021)"
)
NO_DIRECTION = "undefined without the direction of the pairs; give the published items as PREDICTIONS"
AUTHORS_SCORES = {"sent_more_score": "sent_more", "sent_less_score": "sent_less"}


class CrowsPair(StoredItem):
    """A pair of sentences by its two scores."""

    predictions = ("sent_more", "sent_less")

    id: str = Field(coerce_numbers_to_str=True, description="The pair's number, the first column of the items.")
    sent_more: float | None = Field(None, description="Score of the more stereotyping sentence, such as its log-prob.")
    sent_less: float | None = Field(None, description="Score of the less stereotyping sentence.")
    stereo_antistereo: Literal["stereo", "antistereo"] | None = None
    bias_type: str | None = None

    @field_validator("stereo_antistereo", mode="before")
    @classmethod
    def _direction(cls, value: Any) -> Any:
        """The direction however it is spelled, such as `anti-stereo`."""
        if value is None:
            return None
        plain = "".join(letter for letter in str(value).casefold() if letter.isalpha()).removesuffix("type")
        if plain not in ("stereo", "antistereo"):
            raise ValueError(f"the direction {value!r} is neither stereo nor antistereo")
        return plain

    def scores(self) -> Scores | None:
        """Both scores; None when one is missing or no number."""
        if self.sent_more is None or self.sent_less is None:
            return None
        return (self.sent_more, self.sent_less) if math.isfinite(self.sent_more + self.sent_less) else None


class CrowsPairs(StoredBenchmark[CrowsPair]):
    name = "crows_pairs"
    version = 1
    suite = "bias"
    record = CrowsPair
    options = ("scores",)
    about = (
        "How often the more stereotyping of two sentences scores higher (Nangia et al. 2020), overall, per direction "
        "of the stereotype and per bias type. 50 is ideal. Ties stay in n overall and are left out per direction."
    )
    files = (
        "`--scores` names a CSV, TSV or JSONL file with the columns `id`, `sent_more`, `sent_less`: two scores per "
        "pair, compared as they are (the authors round theirs to 3 decimals before). The authors' own output, with "
        "`sent_more_score` and `sent_less_score`, is read too. PREDICTIONS is the published "
        "`crows_pairs_anonymized.csv`, which adds direction and bias type by `id`; it may be left out where the scores "
        "have the columns `stereo_antistereo` and `bias_type` themselves. A pair without scores is unscored."
    )
    example = "crows_pairs crows_pairs_anonymized.csv --scores scores.csv"
    notes = (CAUTION,)
    needs_predictions = False

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[CrowsPair]:
        if "scores" not in options:
            raise DataError("crows_pairs: the scores are missing; give --scores FILE (id, sent_more, sent_less)")
        if len(paths) > 1:
            raise DataError(f"crows_pairs: {len(paths)} files of items; give one, and one file of scores")
        path = Path(options["scores"])
        rows = _score_rows(path)
        if paths:
            rows = _joined(_item_rows(paths[0]), rows, path)
        found = parse_rows(rows, CrowsPair, model=stem(path))
        refuse_twins(found.items, "id")
        return found

    def score(self, items: Sequence[CrowsPair], *, seed: int) -> list[EvalResult]:
        return [row for model, own in by_model(items).items() for row in self._figures(model, own, seed)]

    def groups(self, items: Sequence[CrowsPair]) -> Mapping[str, Sequence[CrowsPair]]:
        return by_name(items, lambda item: item.bias_type)

    def _figures(self, model: str, items: Sequence[CrowsPair], seed: int) -> Iterator[EvalResult]:
        for bias_type, chosen in self.parts(items).items():
            pairs, unscored = _scored(chosen)
            found = stereotype_score(pairs, seed=seed)
            more: dict[str, Any] = {"group": bias_type, "primary": bias_type is None}
            yield self.figure(model, "stereotype_score", found, seed=seed, unscored=unscored, **more)
        directed = any(item.stereo_antistereo for item in items)
        for direction in ("stereo", "antistereo"):
            pairs, unscored = _scored([item for item in items if item.stereo_antistereo == direction])
            found = stereotype_score_without_ties(pairs, seed=seed)
            if items and not directed:
                found = Interval(None, None, None, NO_DIRECTION, 0)
            yield self.figure(model, f"stereotype_score_{direction}", found, seed=seed, unscored=unscored)


def _scored(items: Sequence[CrowsPair]) -> tuple[list[Scores], int]:
    pairs = [scores for item in items if (scores := item.scores()) is not None]
    return pairs, len(items) - len(pairs)


def _score_rows(path: Path) -> list[Row]:
    rows = [_without_blanks(row) for row in read_rows(path)]
    if AUTHORS_SCORES.keys() <= set(columns(rows)):
        return [_authors_row(row) for row in rows]
    require_columns(rows, path, ("id", "sent_more", "sent_less"))
    return rows


def _without_blanks(row: Row) -> Row:
    """An empty cell of a CSV file is no value; the first column of the authors' files has no name and is the id."""
    values = {("id" if name == "" else name): value for name, value in row.values.items()}
    return Row(row.where, {name: None if value == "" else value for name, value in values.items()})


def _authors_row(row: Row) -> Row:
    scores = {name: row.values.get(theirs) for theirs, name in AUTHORS_SCORES.items()}
    return Row(row.where, row.values | scores)


def _item_rows(path: Path) -> list[Row]:
    rows = [_without_blanks(row) for row in read_rows(path)]
    require_columns(rows, path, ("id", "stereo_antistereo", "bias_type"))
    return rows


def _joined(items: Sequence[Row], scores: Sequence[Row], path: Path) -> list[Row]:
    """Every pair of the items with its scores; DataError for scores of a pair that there is not."""
    known = {str(item.values.get("id")) for item in items}
    refuse_same((row.where, {"id": str(row.values.get("id"))}, "") for row in scores)
    for row in scores:
        if str(row.values.get("id")) not in known:
            raise DataError(f"{row.where}: no pair with id {row.values.get('id')!r} is among the items")
    by_id = {str(row.values.get("id")): row for row in scores}
    if items and not by_id:
        raise DataError(f"{path}: no scores in it")
    rows = []
    for item in items:
        found = by_id.get(str(item.values.get("id")))
        two = {name: found.values.get(name) if found else None for name in ("sent_more", "sent_less")}
        rows.append(Row(found.where if found else item.where, item.values | two))
    return rows
