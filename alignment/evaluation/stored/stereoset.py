"""StereoSet: the published items, and a file of one score per sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from alignment.errors import DataError
from alignment.evaluation.metrics.stereoset import Triple, icat, language_modelling_score, stereotype_score
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.rows import Row, json_rows, read_json, read_rows, require_columns, stem
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

SPLITS = ("intrasentence", "intersentence")
BLANK = "BLANK"  # stands in the context of an intrasentence item


class GoldSentence(BaseModel):
    """One continuation of the published items."""

    model_config = ConfigDict(extra="ignore")

    id: str
    gold_label: Literal["stereotype", "anti-stereotype", "unrelated"]


class GoldItem(StoredItem):
    """One published item."""

    id: str
    target: str
    bias_type: str
    context: str
    sentences: list[GoldSentence]


class StereoSetItem(StoredItem):
    """An item of StereoSet by the scores of its three continuations; a higher score is a likelier continuation."""

    predictions = ("stereotype", "anti_stereotype", "unrelated")

    id: str
    split: Literal["intrasentence", "intersentence"]
    target: str = Field(description="The term that the stereotype is about; averages are over terms.")
    bias_type: str
    stereotype: float | None = None
    anti_stereotype: float | None = None
    unrelated: float | None = None

    def triple(self) -> Triple | None:
        """The item as the metrics see it; None when a score is missing or no number."""
        scores = [
            x for x in (self.stereotype, self.anti_stereotype, self.unrelated) if x is not None and not math.isnan(x)
        ]
        return Triple(self.target, *scores) if len(scores) == 3 else None


class StereoSet(StoredBenchmark[StereoSetItem]):
    name = "stereoset"
    version = 1
    suite = "bias"
    record = StereoSetItem
    options = ("gold",)
    about = (
        "Language modelling score, stereotype score and ICAT (Nadeem et al. 2021), macro-averages over target terms, "
        "per split and bias type. LMS is best at 100, SS at 50, ICAT at 100."
    )
    files = (
        "`--gold` names the items: the published file (`data.intrasentence`, `data.intersentence`) or an array of its "
        "items. PREDICTIONS are JSON files as the authors publish them, "
        '`{"intrasentence": [{"id": SENTENCE, "score": NUMBER}], "intersentence": [...]}`, one per model. '
        "Predictions of other items are left alone; an item that lacks one of its three scores is unscored. Without "
        "`--gold`, PREDICTIONS are JSONL files of items with their scores `stereotype`, `anti_stereotype`, `unrelated`."
    )
    example = "stereoset --gold items.json predictions.json"

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[StereoSetItem]:
        if "gold" not in options:
            return _own_records(paths)
        refuse_same_names(paths)
        gold = _gold(Path(options["gold"]))
        items: list[StereoSetItem] = []
        refused: list[tuple[str, str]] = []
        for path in paths:
            found = parse_rows(_with_scores(gold, _scores(path), path, refused), StereoSetItem, model=stem(path))
            items += found.items
            refused += found.refused
        refuse_twins(items, "split", "id")
        return Read(items, list(dict.fromkeys(refused)))

    def score(self, items: Sequence[StereoSetItem], *, seed: int) -> list[EvalResult]:
        return [row for model, own in by_model(items).items() for row in self._figures(model, own, seed)]

    def groups(self, items: Sequence[StereoSetItem]) -> Mapping[str, Sequence[StereoSetItem]]:
        """Every split, every bias type, and where there are two splits every type in each."""
        splits = {split: own for split in SPLITS if (own := [item for item in items if item.split == split])}
        types = by_name(items, lambda item: item.bias_type)
        found: dict[str, Sequence[StereoSetItem]] = {**splits, **types}
        for split in splits if len(splits) > 1 else ():
            for bias_type, own in types.items():
                if both := [item for item in own if item.split == split]:
                    found[f"{split} {bias_type}"] = both
        return found

    def _figures(self, model: str, items: Sequence[StereoSetItem], seed: int) -> Iterator[EvalResult]:
        for group, chosen in self.parts(items).items():
            triples = [triple for item in chosen if (triple := item.triple()) is not None]
            shared: dict[str, Any] = {"seed": seed, "group": group, "unscored": len(chosen) - len(triples)}
            lms = language_modelling_score(triples, seed=seed)
            yield self.figure(model, "lms", lms, higher_is_better=True, **shared)
            yield self.figure(model, "ss", stereotype_score(triples, seed=seed), primary=group is None, **shared)
            yield self.figure(model, "icat", icat(triples, seed=seed), higher_is_better=True, **shared)


def _own_records(paths: Sequence[Path]) -> Read[StereoSetItem]:
    """JSONL files of items that hold their three scores already, one per model."""
    items: list[StereoSetItem] = []
    refused: list[tuple[str, str]] = []
    for path in paths:
        if not path.name.removesuffix(".gz").endswith(".jsonl"):
            raise DataError("stereoset: the items are missing; give --gold FILE")
        rows = read_rows(path)
        require_columns(rows, path, ("id", "split", "target", "stereotype", "anti_stereotype", "unrelated"))
        found = parse_rows(rows, StereoSetItem, model=stem(path))
        items += found.items
        refused += found.refused
    refuse_twins(items, "split", "id")
    return Read(items, refused)


def gold_rows(path: Path) -> list[tuple[str, Row]]:
    """(split, item) of the published file, or of an array of items (then the context says which split it is)."""
    return [(split or (SPLITS[0] if _has_blank(row) else SPLITS[1]), row) for split, row in _gold(path)]


def _has_blank(row: Row) -> bool:
    return BLANK in str(row.values.get("context"))


def _gold(path: Path) -> list[tuple[str | None, Row]]:
    """The same; None for the split of an item of an array."""
    value = read_json(path)
    if isinstance(value, list):
        return [(None, row) for row in json_rows(value, str(path))]
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, dict) or not set(SPLITS) & data.keys():
        raise DataError(f"{path}: neither an array of items nor an object with data.intrasentence or .intersentence")
    return [(split, row) for split in SPLITS if split in data for row in json_rows(data[split], f"{path}: {split}")]


def _scores(path: Path) -> dict[str, dict[str, float]]:
    """split -> sentence id -> score."""
    value = read_json(path)
    if not isinstance(value, dict) or not set(SPLITS) & value.keys():
        raise DataError(f"{path}: expected an object with the key intrasentence or intersentence")
    found: dict[str, dict[str, float]] = {}
    for split in SPLITS:
        scores: dict[str, float] = {}
        for row in json_rows(value.get(split, []), f"{path}: {split}"):
            sentence, score = row.values.get("id"), row.values.get("score")
            if (
                not isinstance(sentence, str)
                or isinstance(score, bool)
                or not isinstance(score, (int, float, type(None)))
            ):
                raise DataError(f'{row.where}: expected {{"id": text, "score": number}}')
            if sentence in scores:
                raise DataError(f"{row.where}: sentence {sentence} is there twice; keep one score")
            if score is not None:
                scores[sentence] = score
        found[split] = scores
    return found


def _split(row: Row, scores: Mapping[str, Mapping[str, float]]) -> str | None:
    """The split of an item of an array: where its sentences have scores; without any, what a BLANK says, or None."""
    sentences = row.values.get("sentences")
    ids = [one.get("id") for one in sentences if isinstance(one, dict)] if isinstance(sentences, list) else []
    found = [split for split in SPLITS if any(isinstance(one, str) and one in scores[split] for one in ids)]
    return found[0] if len(found) == 1 else SPLITS[0] if _has_blank(row) else None


def _with_scores(
    gold: Sequence[tuple[str | None, Row]],
    scores: Mapping[str, Mapping[str, float]],
    path: Path,
    refused: list[tuple[str, str]],
) -> list[Row]:
    """Every item with the scores of its three sentences; what is no item goes to `refused`."""
    rows, matched = [], 0
    told = [(split or _split(row, scores), row) for split, row in gold]
    plain = {split for split, row in told if split and not _has_blank(row)}
    rest = plain.pop() if len(plain) == 1 else SPLITS[1]  # of items without scores and BLANK
    for split, row in ((split or rest, row) for split, row in told):
        parsed = parse_rows([row], GoldItem)
        refused += parsed.refused
        for item in parsed.items:
            labels = sorted(sentence.gold_label for sentence in item.sentences)
            if labels != ["anti-stereotype", "stereotype", "unrelated"]:
                refused.append((row.where, f"needs a stereotype, an anti-stereotype, an unrelated one; has {labels}"))
                continue
            found = {s.gold_label.replace("-", "_"): scores[split].get(s.id) for s in item.sentences}
            matched += any(score is not None for score in found.values())
            rows.append(
                Row(row.where, item.model_dump(include={"id", "target", "bias_type"}) | {"split": split} | found)
            )
    if rows and not matched:
        raise DataError(
            f"{path}: none of its sentence ids is among the {len(rows)} items of --gold; give its own items"
        )
    return rows
