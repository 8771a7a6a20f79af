"""`lm_eval:TASK`: any text task of EleutherAI's lm-evaluation-harness, asked and marked by the harness itself.

The harness makes the requests, reads the answers and says what a document scores; our models answer, likelihoods with
shared prefixes (evaluation/harness/model.py). Values are those that `lm_eval --tasks TASK` prints for the same model
and precision, with our intervals, and paired changes from the model that training started from. The chat template is
not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from alignment.errors import DataError, RecipeError
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    share_interval,
    statistic_interval,
)

if TYPE_CHECKING:
    from alignment.evaluation.harness.tasks import Loaded

# Units of the harness's metrics by name, whatever a model scores. A name that is not here (mcc, a task's own; bleu,
# chrf, ter and rouge, which it prints out of 100) is in points: nothing is taken for granted of the range.
UNITS = {
    **dict.fromkeys(("acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "accuracy"), "share"),
    **dict.fromkeys(("prompt_level_loose_acc", "prompt_level_strict_acc", "partial_accuracy", "mc1", "mc2"), "share"),
    **dict.fromkeys(("exact_match", "em", "math_verify", "numerical_match", "extraction_rate"), "share"),
    **dict.fromkeys(("f1", "fscore", "precision", "recall", "r@1", "r@2", "mrr"), "share"),
    **dict.fromkeys(("bleu_acc", "rouge1_acc", "rouge2_acc", "rougeL_acc"), "share"),
    **dict.fromkeys(("pct_stereotype", "pct_male_preferred", "pct_female_preferred", "pct_invalid"), "share"),
    **dict.fromkeys(("json_validity", "schema_compliance"), "share"),
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity"), "perplexity"),
    "bits_per_byte": "bits/byte",
}
SLOW = frozenset({"bleu", "chrf", "chrf++", "ter"})  # corpus measures that take seconds each time


@dataclass(frozen=True)
class LmEvalTask(Benchmark):
    """`include_path`: a folder of task files; then its tasks are the only ones, and nothing needs the network.

    `limit`: the first so many documents, as the harness limits. `num_fewshot`: over what the task's file says.
    """

    name: str = "lm_eval:"
    include_path: str | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None

    suite = "forgetting"
    version = 1
    same = ("doc_hash", "target")

    def loaded(self, context: EvalContext) -> Loaded:
        """The task, loaded once per evaluation. RecipeError, UnavailableError, DataError."""
        if self.name not in context.items:
            try:
                from alignment.evaluation.harness.tasks import load
            except ModuleNotFoundError as error:
                if error.name != "lm_eval":
                    raise
                raise RecipeError(
                    f"{self.name}: needs lm-evaluation-harness: pip install 'alignment-framework[lm-eval]'"
                ) from error
            task = load(
                self.name.partition(":")[2],
                include_path=self.include_path,
                num_fewshot=self.num_fewshot,
                limit=self.limit if self.limit is not None else context.settings.items,
                hub=context.hub.allowed,
            )
            context.items[self.name] = [task]
        found: Loaded = context.items[self.name][0]
        return found

    def prepare(self, context: EvalContext) -> None:
        self.loaded(context)

    def settings(self, context: EvalContext) -> dict[str, Any]:
        task = self.loaded(context).task
        return {"num_fewshot": task.get_config("num_fewshot"), "task_version": str(task.VERSION)}

    def inputs(self, context: EvalContext) -> Any:
        task = self.loaded(context)
        return {"task": task.digest, "task_version": str(task.task.VERSION), "bf16": context.settings.bf16}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.evaluation.harness.model import SharedPrefixLM
        from alignment.evaluation.harness.tasks import aggregation, plain, run

        assert model is not None
        task, settings = self.loaded(context), context.settings
        asked = SharedPrefixLM(*model, bf16=settings.bf16, batch_size=settings.batch_size)
        samples: dict[str, Sample] = {}
        for row in run(task, asked):
            sample = samples.setdefault(str(row["doc_id"]), _sample(row, plain))
            for metric in row["metrics"]:
                name = metric if row["filter"] == "none" else f"{metric},{row['filter']}"
                _, is_mean = aggregation(task.task, metric)
                sample["metrics" if is_mean else "items"][name] = plain(row[metric])
                sample["higher_is_better"][name] = task.task.higher_is_better().get(metric)
        rows = list(samples.values())
        self.measures(rows)  # refuses a share that is none before the next model is run
        return rows

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        found = []
        for metric in _names(rows, "metrics"):
            values = self._values(rows, "metrics", metric)
            items = {row["id"]: ItemValue(values.get(row["id"]), row["id"]) for row in rows}
            better = rows[0]["higher_is_better"].get(metric)
            found.append(Measure(metric, items, unit(metric), better))
        return found

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        reference = context.forgetting_reference()
        results = []
        for subject, rows in samples.items():
            before = samples.get(reference) if subject != reference else None
            metrics = [(metric, kind) for kind in ("metrics", "items") for metric in _names(rows, kind)]
            for number, (metric, kind) in enumerate(metrics):
                own = self._values(rows, kind, metric)
                in_unit = unit(metric) if kind == "metrics" else self._corpus_unit(context, metric)
                average = share_interval if in_unit == "share" else mean_interval
                level = (
                    average(list(own.values()), seed=context.seed)
                    if kind == "metrics"
                    else self._corpus(context, metric, own)
                )
                label = f"{self.name.partition(':')[2]} {metric}"
                shared = {"higher_is_better": rows[0]["higher_is_better"].get(metric), "unit": in_unit}
                unscored = len(rows) - len(own)
                primary = number == 0
                results.append(
                    self.result(context, subject, metric, level, unscored, primary=primary, label=label, **shared)
                )
                if before is None:
                    continue
                other = self._values(before, kind, metric)
                both = [item for item in own if item in other]
                if kind == "metrics":
                    new, old = ([values[item] for item in both] for values in (own, other))
                    change = paired_difference(new, old, seed=context.seed)
                else:
                    change = self._corpus(context, metric, *({i: values[i] for i in both} for values in (own, other)))
                more = {"compared_to": reference, "label": f"change in {label}", **shared}
                missing = len(rows) - len(both)
                results.append(self.result(context, subject, f"{metric}_difference", change, missing, **more))
        return results

    def _values(self, rows: Sequence[Sample], kind: str, metric: str) -> dict[str, Any]:
        """Document id -> what it has for a metric, of those that have something. DataError for a share outside 0..1."""
        found = {row["id"]: row[kind].get(metric) for row in rows}
        if kind == "metrics":
            found = {key: _number(value) for key, value in found.items()}
        found = {key: value for key, value in found.items() if value is not None and not _holed(value)}
        for key, value in found.items():
            if kind == "metrics" and unit(metric) == "share" and not 0 <= value <= 1:
                raise DataError(
                    f"{self.name}: {metric}: document {key} scores {value:g}, and a metric of this name is a share in "
                    "0..1; scale it, or name it otherwise, in the task's file"
                )
        return found

    def _corpus_unit(self, context: EvalContext, metric: str) -> str:
        """Of a metric that is no mean: by its name where the harness's own function makes it, not the task's."""
        from alignment.evaluation.harness.tasks import aggregation

        function, _ = aggregation(self.loaded(context).task, metric.partition(",")[0])
        own = getattr(function, "__module__", "") == "lm_eval.api.metrics"
        return unit(metric) if own else "points"

    def _corpus(
        self, context: EvalContext, metric: str, own: Mapping[str, Any], other: Mapping[str, Any] | None = None
    ) -> Interval:
        """What the harness makes of all items, or its change from `other`'s to `own`'s: the same items, resampled."""
        from alignment.evaluation.harness.tasks import aggregation, quietly

        name = metric.partition(",")[0]
        function, _ = aggregation(self.loaded(context).task, name)
        new, old = list(own.values()), list((other or {}).values())

        def statistic(drawn: Any) -> float | None:
            try:
                value = function([new[i] for i in drawn])
                return _number(value if other is None else value - function([old[i] for i in drawn]))
            except Exception as error:  # whatever the task's own code raises
                raise DataError(f"{self.name}: {metric}: its aggregation failed ({error}); correct the task") from error

        title = f"{name} over all items" if other is None else f"paired difference of {name}"
        with quietly():
            if name not in SLOW:
                return statistic_interval(statistic, len(new), seed=context.seed, name=title)
            value = statistic(range(len(new))) if new else None
        return Interval(value, None, None, f"{title}; no interval: resampling it takes too long", len(new))


def _sample(row: Mapping[str, Any], plain: Any) -> Sample:
    """One document: its target, what the model gave for every request, and room for the metrics.

    `metrics` are averaged over documents; `items` are what other aggregations work on.
    """
    return {
        "id": str(row["doc_id"]),
        "doc_hash": row["doc_hash"],
        "target": plain(row["target"]),
        "responses": plain(row["resps"]),
        "metrics": {},
        "items": {},
        "higher_is_better": {},
    }


def _names(rows: Sequence[Sample], kind: str) -> list[str]:
    """Metrics in the order in which documents bring them."""
    return list(dict.fromkeys(metric for row in rows for metric in row[kind]))


def _holed(value: Any) -> bool:
    """Whether an item misses a number, as one with an infinite likelihood does."""
    return isinstance(value, list) and any(one is None or _holed(one) for one in value)


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        return float(value) if value is not None and math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def unit(metric: str) -> str:
    """Of a metric by its name (`exact_match,strict`: with a filter), the same for every model."""
    return UNITS.get(metric.partition(",")[0], "points")
