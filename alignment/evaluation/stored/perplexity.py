"""Perplexity: log-likelihoods of documents, per word, byte and token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from alignment.evaluation.metrics.perplexity import bits_per_byte, perplexity
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval
from alignment.evaluation.stored.rows import Row, read_rows, require_columns, stem
from alignment.evaluation.stored.stored import (
    Read,
    StoredBenchmark,
    StoredItem,
    by_model,
    parse_rows,
    refuse_same_names,
    refuse_twins,
)


class Document(StoredItem):
    """A document's summed log-likelihood and its size."""

    predictions = ("logprob",)

    id: str
    logprob: float | None = Field(
        None,
        description="Σ log p over the document: natural logarithm (nats), a sum and no mean. None or NaN is unscored.",
    )
    words: int | None = Field(None, ge=0, description="Words of the text as published, before any detokenising.")
    bytes: int | None = Field(None, ge=0, description="UTF-8 bytes of the text.")
    tokens: int | None = Field(None, ge=0, description="Tokens of the model's own tokenizer that were predicted.")

    @model_validator(mode="after")
    def _units(self) -> Document:
        if self.logprob is not None and self.logprob > 0:
            raise ValueError("logprob is above 0; it is the sum of natural logarithms of probabilities")
        if self.words is not None and self.bytes is not None and self.words > self.bytes:
            raise ValueError(f"{self.words} words in {self.bytes} bytes; are the two exchanged?")
        return self

    @property
    def scored(self) -> bool:
        return self.logprob is not None and math.isfinite(self.logprob)


class Perplexity(StoredBenchmark[Document]):
    name = "perplexity"
    version = 2
    suite = "forgetting"
    record = Document
    about = (
        "exp(-Σ log p / Σ words), -Σ log p / (ln 2 · Σ bytes), and per token. Only bits per byte and word perplexity "
        "compare models of different tokenizers."
    )
    files = (
        "JSONL: `{id, logprob, words, bytes, tokens}` a document; one without a count is unscored in that count's "
        "metric alone, and a count that no document has leaves its metric undefined. A count of 0 is one (an empty "
        "paragraph): the log-likelihood is in the sum. Words are counted before detokenising; tokenised wikitext "
        "(`<unk>`) is not the raw one."
    )
    example = "perplexity documents.jsonl"

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[Document]:
        refuse_same_names(paths)
        items: list[Document] = []
        refused: list[tuple[str, str]] = []
        for path in paths:
            rows = [Row(row.where, row.values | {"id": str(row.values.get("id", ""))}) for row in read_rows(path)]
            if not any("logprob" in row.values for row in rows):
                require_columns(rows, path, ["logprob"])  # one row may lack it and is unscored, not all of them
            found = parse_rows(rows, Document, model=stem(path))
            items += found.items
            refused += found.refused
        refuse_twins([item for item in items if item.id], "id")
        return Read(items, refused)

    def score(self, items: Sequence[Document], *, seed: int) -> list[EvalResult]:
        return [result for model, own in by_model(items).items() for result in self._figures(model, own, seed)]

    def _figures(self, model: str, items: Sequence[Document], seed: int) -> Iterator[EvalResult]:
        scored = [item for item in items if item.scored]
        for metric, unit, counts in (
            ("word_perplexity", "words", [item.words for item in scored]),
            ("bits_per_byte", "bytes", [item.bytes for item in scored]),
            ("token_perplexity", "tokens", [item.tokens for item in scored]),
        ):
            known = [(item.logprob or 0.0, n) for item, n in zip(scored, counts, strict=True) if n is not None]
            logprobs, sizes = [logprob for logprob, _ in known], [n for _, n in known]
            if scored and not known:
                interval = Interval(None, None, None, f"undefined: no document has a count of {unit}", 0)
            elif metric == "bits_per_byte":
                interval = bits_per_byte(logprobs, sizes, seed=seed)
            else:
                interval = perplexity(logprobs, sizes, seed=seed, per=unit.removesuffix("s"))
            named = "bits/byte" if metric == "bits_per_byte" else "perplexity"
            shared: dict[str, Any] = {"seed": seed, "unscored": len(items) - len(known), "higher_is_better": False}
            yield self.figure(model, metric, interval, unit=named, primary=metric == "bits_per_byte", **shared)
