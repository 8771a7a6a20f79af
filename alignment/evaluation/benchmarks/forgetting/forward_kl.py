"""Forward KL(π0 ‖ π) per token of the origin model π0 from each other model π: how far training has moved away.

    KL = E over x drawn from π0 of [log π0(x) - log π(x)], summed and divided by the tokens of all x.

π0 continues the first words of fixed texts, several times each, at temperature 1; each π scores the same token ids. The
average is unbiased, needs log-likelihoods alone, and may come out a little below 0 where the KL is small. A
continuation that is cut at `max_new_tokens` counts up to there. (RLHF's penalty is the reverse KL(π ‖ π0), on π's
samples.) Texts and no chat template, so that a model before training can be π0. Intervals draw whole texts.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.forgetting.bits_per_byte import TextItem
from alignment.evaluation.benchmarks.items import ItemBenchmark
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import ratio_interval
from alignment.evaluation.stored.rows import Row
from alignment.evaluation.stored.stored import first_problem

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class ForwardKl(ItemBenchmark):
    """forward_kl of every model but the origin, in nats per token.

    `data`: rows with id and text. `prompt_words`: how many of a text begin it; `continuations` of each text, of at most
    `max_new_tokens` tokens.
    """

    data: str | tuple[str, ...] = "bundled:probes/texts.jsonl"
    prompt_words: Positive = 16
    continuations: Positive = 4
    max_new_tokens: Positive = 32

    name = "forward_kl"
    suite = "forgetting"
    version = 1
    same = ("prompt", "n_tokens", "logprob_origin")

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[TextItem]:
        items = []
        for row in rows:
            try:
                items.append(TextItem.model_validate(row.values))
            except ValidationError as error:
                raise DataError(f"{row.where}: {first_problem(error)}; a row has id and text") from None
            if not items[-1].text.strip():
                raise DataError(f"{row.where}: an empty text; mend or remove the row")
        return items

    def item_id(self, item: TextItem) -> str:
        return item.id

    def subjects(self, context: EvalContext) -> Sequence[str]:
        return list(context.models) if len(context.models) > 1 else []

    def skipped(self, context: EvalContext) -> str:
        return "it needs a model besides the origin"

    def settings(self, context: EvalContext) -> dict[str, Any]:
        names = ("prompt_words", "continuations", "max_new_tokens")
        return {name: getattr(self, name) for name in names}

    def inputs(self, context: EvalContext) -> Any:
        made_of = super().inputs(context)
        # under the names that stored predictions are found by
        made_of["words"], made_of["tokens"] = made_of.pop("prompt_words"), made_of.pop("max_new_tokens")
        return {**made_of, "origin": context.models[context.forgetting_reference()]}

    def prepare(self, context: EvalContext) -> None:
        """Has the origin write its continuations, where they are not stored: no other model is in memory yet."""
        super().prepare(context)
        if self.subjects(context):
            self._written(context)

    def _written(self, context: EvalContext) -> list[Sample]:
        """The origin's samples, made once, which the other models score."""
        from alignment.evaluation.predictions import Stored

        origin = context.forgetting_reference()
        place = f"{self.name} of {origin}"
        if place not in context.items:
            stored = Stored(context, self, origin, context.models[origin], self.inputs(context))
            rows = stored.read()
            if rows is None:
                rows = stored.make(context.load(origin))
                gc.collect()  # modules hold reference cycles; the next model is to have the memory
            context.items[place] = rows
        return context.items[place]

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        assert model is not None
        if subject == context.forgetting_reference():
            return self._write(context, *model)
        written = self._written(context)
        if written[0]["vocabulary"] != vocabulary(model[1], written[0]["vocabulary"][0]):
            context.say(f"{self.name}: {subject}: another vocabulary than the origin's; unscored")
            return [_kept(row, None) for row in written]
        logprobs = self._logprobs(context, model[0], written)
        return [_kept(row, logprob) for row, logprob in zip(written, logprobs, strict=True)]

    def _write(self, context: EvalContext, model: Any, tokenizer: Any) -> list[Sample]:
        from hashlib import sha256

        from alignment.evaluation.own_samples import own_samples

        items: list[TextItem] = self.chosen(context)
        words = [" ".join(item.text.split()[: self.prompt_words]) for item in items]
        prompts = tokenizer(words).input_ids
        several = [(i, number) for i in range(len(items)) for number in range(self.continuations)]
        codes = [int.from_bytes(sha256(item.id.encode()).digest()[:4]) for item in items]
        written = own_samples(
            model,
            tokenizer,
            [prompts[i] for i, _ in several],
            [(context.seed, codes[i], number) for i, number in several],
            max_new_tokens=self.max_new_tokens,
            bf16=context.settings.bf16,
        )
        known = vocabulary(tokenizer, len(tokenizer))
        rows = [
            {
                "id": f"{items[i].id}/{number}",
                "prompt": items[i].id,
                "n_tokens": len(ids),
                "context": prompts[i],
                "tokens": ids,
                "vocabulary": known,
            }
            for (i, number), ids in zip(several, written, strict=True)
        ]
        logprobs = self._logprobs(context, model, rows)
        return [{**row, "logprob_origin": one, "logprob": one} for row, one in zip(rows, logprobs, strict=True)]

    def _logprobs(self, context: EvalContext, model: Any, rows: Sequence[Sample]) -> list[float]:
        from alignment.evaluation.token_scores import TokenRow, token_scores

        asked = [TokenRow((*row["context"], *row["tokens"]), len(row["context"])) for row in rows]
        return [one.logprob for one in token_scores(model, asked, bf16=context.settings.bf16)]

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        items = {row["id"]: ItemValue(_log_ratio(row), row["prompt"], row["n_tokens"]) for row in rows}
        return [Measure(self.name, items, "nats/token", higher_is_better=False)]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        origin = context.forgetting_reference()
        results = []
        for subject, rows in samples.items():
            if subject == origin:  # 0 by definition
                continue
            known = [(row, ratio) for row in rows if (ratio := _log_ratio(row)) is not None]
            kl = ratio_interval(
                [ratio for _, ratio in known],
                [row["n_tokens"] for row, _ in known],
                [row["prompt"] for row, _ in known],
                seed=context.seed,
            )
            told = f"KL({origin} || {subject}) per token of {self.continuations} continuations of each text by {origin}"
            more: dict[str, Any] = {
                "unit": "nats/token",
                "higher_is_better": False,
                "compared_to": origin,
                "primary": True,
                "label": f"forward KL from {origin}",
                "method": f"{told}; {kl.method}",
            }
            results.append(self.result(context, subject, self.name, kl, len(rows) - len(known), **more))
        return results


def vocabulary(tokenizer: Any, size: int) -> list[Any]:
    """[size, digest of the first `size` tokens]: a tokenizer that tokens were added to still has the origin's."""
    from alignment.atomic import json_digest

    if len(tokenizer) < size:
        return [len(tokenizer), ""]
    return [size, json_digest({"tokens": tokenizer.convert_ids_to_tokens(list(range(size)))})]


def _kept(row: Sample, logprob: float | None) -> Sample:
    kept = {key: row[key] for key in ("id", "prompt", "n_tokens", "logprob_origin")}
    return {**kept, "logprob": logprob}


def _log_ratio(row: Sample) -> float | None:
    """log π0(x) - log π(x), or None where π has no likelihood."""
    return None if row["logprob"] is None else float(row["logprob_origin"] - row["logprob"])
