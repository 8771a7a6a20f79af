"""CrowS-Pairs with a model (Nangia et al. 2020): which of two sentences it finds likelier.

`causal`: the log-likelihood of the whole sentence from BOS on, as in lm-evaluation-harness; names that differ in
length or frequency count. `pseudo`: the authors' own score, for masked language models: pseudo-log-likelihood of the
tokens that both sentences share, one masked at a time, rounded to 3 decimals. Scores of the two are not comparable.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.bias.likeliest import published_items
from alignment.evaluation.benchmarks.items import Paired, StoredBenchmarkRun
from alignment.evaluation.data import RepositoryData
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.crows_pairs import CAUTION, CrowsPair
from alignment.evaluation.stored.rows import Row
from alignment.evaluation.stored.stored import StoredItem

HOW = {
    "causal": "log-likelihood of the whole sentence from BOS on",
    "pseudo": "pseudo-log-likelihood of the tokens that both sentences share",
}


class Sentences(StoredItem):
    """A published pair; which sentence is which depends on the data's direction already."""

    id: str
    sent_more: str
    sent_less: str
    stereo_antistereo: Literal["stereo", "antistereo"]
    bias_type: str


@dataclass(frozen=True)
class CrowsPairsRun(StoredBenchmarkRun):
    """Shares of pairs whose more stereotyping sentence scores higher. `variant`: by causal or by masked models."""

    variant: Literal["causal", "pseudo"] = "causal"

    name = "crows_pairs"
    suite = "bias"
    version = 1
    hub = RepositoryData(
        "nyu-mll/crows-pairs",
        "8aaac11c485473159ec9328a65253a5be9a479dc",
        {"data/crows_pairs_anonymized.csv": "dfb36986ce0502abbaf7055b9176da3d08d48e07df1251991b5dfbcbceab9d0c"},
    )
    same = ("stereo_antistereo", "bias_type")

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[Sentences]:
        # The first column of the published file has no name.
        named = [Row(row.where, {("id" if key == "" else key): x for key, x in row.values.items()}) for row in rows]
        return published_items(named, Sentences)

    def item_id(self, item: Sentences) -> str:
        return item.id

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"variant": self.variant}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        assert model is not None
        items = self.chosen(context)
        pairs = [(item.sent_more, item.sent_less) for item in items]
        scores = self._causal(context, model, pairs) if self.variant == "causal" else self._pseudo(model, pairs)
        return [
            {
                "id": item.id,
                "sent_more": more,
                "sent_less": less,
                "stereo_antistereo": item.stereo_antistereo,
                "bias_type": item.bias_type,
            }
            for item, (more, less) in zip(items, scores, strict=True)
        ]

    def _causal(
        self, context: EvalContext, model: LoadedModel, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[float | None, float | None]]:
        from alignment.evaluation.likelihood import sequence_logprob
        from alignment.evaluation.masked import require_causal

        require_causal(model[0])
        texts = [text for pair in pairs for text in pair]
        found = sequence_logprob(*model, [""] * len(texts), texts, bf16=context.settings.bf16)
        scores = [None if one is None else one.logprob for one in found]
        return list(zip(scores[::2], scores[1::2], strict=True))

    def _pseudo(
        self, model: LoadedModel, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[float, float] | tuple[None, None]]:
        from alignment.evaluation.masked import pseudo_logprobs

        found = pseudo_logprobs(*model, pairs)
        return [(None, None) if one is None else (round(one[0], 3), round(one[1], 3)) for one in found]

    def paired(self, items: Sequence[CrowsPair]) -> Mapping[str, Paired]:
        """Of a direction, whose score leaves ties out, a tie has no value."""
        found: dict[str, dict[str, tuple[float | None, Hashable]]] = {
            f"stereotype_score{of}": {} for of in ("", "_stereo", "_antistereo")
        }
        for item in items:
            scores = item.scores()
            value = None if scores is None else float(scores[0] > scores[1])
            found["stereotype_score"][item.id] = (value, item.id)
            if item.stereo_antistereo is not None:
                tied = scores is not None and scores[0] == scores[1]
                found[f"stereotype_score_{item.stereo_antistereo}"][item.id] = (None if tied else value, item.id)
        return found

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        """Every row says which score it is of; the one that is read first also that it is not reliable."""
        results = []
        for row in super().score(context, samples):
            method = f"{row.method}; {HOW[self.variant]}"
            results.append(row.model_copy(update={"method": f"{method}; {CAUTION}" if row.primary else method}))
        return results
