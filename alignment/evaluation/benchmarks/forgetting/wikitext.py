"""wikitext-2 by document, as lm-eval 0.4.13's wikitext: word and byte perplexity, and bits per byte.

A document is detokenised as lm-eval does it and scored with rolling windows. Its words and bytes are counted before:
words as what white space parts, the (empty) ones at both ends included, as lm-eval counts them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.items import StoredBenchmarkRun
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.data import ENDINGS, HubData, as_sources, local_files
from alignment.evaluation.metrics.perplexity import perplexity
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import ratio_interval
from alignment.evaluation.stored.rows import Row, read_rows, read_text

TEXT = (".txt", ".tokens", ".raw")  # whole files of wikitext, as its authors gave them out
UNKNOWN = "<unk>"
NOT_RAW = "tokenised text with <unk>: not comparable with wikitext-2-raw"

# lm_eval/tasks/wikitext/preprocess_wikitext.py, in its order, but for the rule for "/' [0-9]/", which no text has
_JOINED = (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")
_BEHIND = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
_INSIDE = (
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
)
_LAST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


@dataclass(frozen=True)
class Page:
    id: str
    text: str


@dataclass(frozen=True)
class Wikitext(StoredBenchmarkRun):
    """word_perplexity, byte_perplexity and bits_per_byte, and the paired change of the last from the origin model.

    `data`: a file of wikitext (.txt, .tokens, .raw), cut at its top headings, or rows with `page`. `window`: tokens
    that are read at a time (None: the model's context). Documents are drawn for the intervals.
    """

    window: Annotated[int, Field(ge=1)] | None = None

    name = "wikitext"
    suite = "forgetting"
    version = 1
    same = ("words", "bytes")
    hub = HubData(
        "EleutherAI/wikitext_document_level", "647234772b9554e208af6c826f23b99e3cac88c8", "test", "wikitext-2-raw-v1"
    )

    def stored(self) -> str:
        return "perplexity"

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"window": self.window}

    def rows(self, context: EvalContext) -> tuple[list[Row], bool]:
        if not self.data:
            return super().rows(context)
        found = []
        for path in local_files(as_sources(self.data), (*ENDINGS, *TEXT)):
            if path.name.endswith(TEXT):
                pages = documents(read_text(path))
                found += [Row(f"{path}: document {n}", {"page": page}) for n, page in enumerate(pages, 1)]
            else:
                found += read_rows(path)
        return found, True

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[Page]:
        for row in rows:
            page = row.values.get("page")
            if not (isinstance(page, str) and page.strip()):
                raise DataError(f"{row.where}: `page` must be the text of a document; mend or remove the row")
        return [Page(str(number), row.values["page"]) for number, row in enumerate(rows, 1)]

    def item_id(self, item: Page) -> str:
        return item.id

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.evaluation.rolling import rolling_logprob

        assert model is not None
        pages: list[Page] = self.chosen(context)
        texts = [detokenised(page.text) for page in pages]
        found = rolling_logprob(*model, texts, window=self.window, bf16=context.settings.bf16)
        return [
            {
                "id": page.id,
                "logprob": None if one is None else one.logprob,
                "words": len(re.split(r"\s+", page.text)),
                "bytes": len(page.text.encode()),
                "tokens": None if one is None else one.n_tokens,
                "unknown": page.text.count(UNKNOWN),
            }
            for page, one in zip(pages, found, strict=True)
        ]

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        bits = {r["id"]: None if r["logprob"] is None else -r["logprob"] / math.log(2) for r in rows}
        items = {row["id"]: ItemValue(bits[row["id"]], row["id"], row["bytes"]) for row in rows}
        return [Measure("bits_per_byte", items, "bits/byte", higher_is_better=False)]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        reference = context.forgetting_reference()
        results = super().score(context, samples)
        for subject, rows in samples.items():
            here = _scored(rows)
            logprobs, sizes = [r["logprob"] for r in here.values()], [r["bytes"] for r in here.values()]
            level = perplexity(logprobs, sizes, seed=context.seed, per="byte")
            more: dict[str, Any] = {"unit": "perplexity", "higher_is_better": False}
            results.append(self.result(context, subject, "byte_perplexity", level, len(rows) - len(here), **more))
            if subject != reference and reference in samples:
                results.append(self._change(context, subject, here, _scored(samples[reference]), len(rows)))
        marked = {subject for subject, rows in samples.items() if any(row["unknown"] for row in rows)}
        return [
            result.model_copy(update={"method": f"{result.method}; {NOT_RAW}"}) if result.model in marked else result
            for result in results
        ]

    def _change(
        self, context: EvalContext, subject: str, here: Mapping[str, Sample], before: Mapping[str, Sample], n: int
    ) -> EvalResult:
        both = [item for item in here if item in before]
        bits = [(before[item]["logprob"] - here[item]["logprob"]) / math.log(2) for item in both]
        change = ratio_interval(bits, [here[item]["bytes"] for item in both], seed=context.seed)
        more: dict[str, Any] = {
            "unit": "bits/byte",
            "higher_is_better": False,
            "compared_to": context.forgetting_reference(),
            "label": "change in bits per byte of wikitext",
            "method": f"paired {change.method}",
        }
        return self.result(context, subject, "bits_per_byte_difference", change, n - len(both), **more)


def documents(text: str) -> list[str]:
    """The documents of a wikitext file, each with its heading ` = Title = `; ` = = Section = = ` begins none."""
    pages: list[list[str]] = [[]]
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            pages.append([])
        pages[-1].append(line)
    return [page for page in map("\n".join, pages) if page.strip()]


def detokenised(text: str) -> str:
    """The text as it would be printed, by lm-eval's rules."""
    text = text.replace("s '", "s'")
    for old, new in (*_JOINED, *_BEHIND):
        text = text.replace(old, new)
    for pattern, new in _INSIDE:
        text = re.sub(pattern, new, text)
    for old, new in _LAST:
        text = text.replace(old, new)
    return text


def _scored(rows: Sequence[Sample]) -> dict[str, Sample]:
    """Document -> sample, of those that have a likelihood."""
    return {row["id"]: row for row in rows if row["logprob"] is not None}
