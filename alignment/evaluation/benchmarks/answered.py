"""Prompts that a model answers in chat, and benchmarks whose numbers are means over the answered items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, Field, ValidationError

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.items import ItemBenchmark
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval, mean_interval, paired_difference, share_interval
from alignment.evaluation.stored.rows import Row
from alignment.evaluation.stored.stored import first_problem

ModelT = TypeVar("ModelT", bound=BaseModel)
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class AnsweredBenchmark(ItemBenchmark):
    """Every item is a conversation to answer, greedily; all answers of a model are one batch.

    `max_new_tokens` of an answer; None: the evaluation's. An item whose prompt does not fit the model's context has no
    answer (null) and is unscored.
    """

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None

    answer_key: ClassVar[str] = "response"  # what a sample calls the answer

    @abstractmethod
    def conversations(self, item: Any) -> list[tuple[Sample, Messages]]:
        """What is asked about an item, and what the sample of each keeps of the item: its "id" at least."""

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {**super().settings(context), "max_new_tokens": self.length(context)}

    def length(self, context: EvalContext) -> int:
        """Most tokens of an answer."""
        return self.max_new_tokens or context.settings.max_new_tokens

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.generation.generate import generate

        assert model is not None
        asked = [pair for item in self.chosen(context) for pair in self.conversations(item)]
        answers = generate(
            *model,
            [messages for _, messages in asked],
            max_new_tokens=self.length(context),
            batch_size=context.settings.batch_size,
            bf16=context.settings.bf16,
            say=lambda line: context.say(f"{self.name}: {subject}: {line}"),
        )
        return [
            {
                **kept,
                self.answer_key: None if answer is None else answer.text,
                "n_tokens": None if answer is None else answer.n_tokens,
                "finished": None if answer is None else answer.finished,
            }
            for (kept, _), answer in zip(asked, answers, strict=True)
        ]

    def cluster(self, sample: Sample) -> Hashable:
        """What a sample shares with others that are no independent evidence beside it."""
        return str(sample["id"])

    def ended(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> EvalResult:
        """How many answers the model ended itself: what a limit cut off may miss what is looked for."""
        answered = [row for row in rows if row["finished"] is not None]
        found = [float(row["finished"]) for row in answered]
        share = share_interval(found, [self.cluster(row) for row in answered], seed=context.seed)
        more = {"higher_is_better": True, "label": f"{self.name}: answers that end before the limit"}
        return self.result(context, subject, "ended_share", share, len(rows) - len(answered), **more)


@dataclass(frozen=True)
class Shown:
    """How a metric is called, and whether its change from the baseline means something."""

    label: str
    primary: bool = False
    paired: bool = True


@dataclass(frozen=True)
class MeasuredBenchmark(AnsweredBenchmark):
    """Levels of every measure, overall and by group, and their paired changes from the baseline."""

    shown: ClassVar[Mapping[str, Shown]]  # of every metric of `measures`

    def groups(self, rows: Sequence[Sample]) -> Mapping[Hashable, str]:
        """Item of a measure -> its group."""
        return {}

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        found = {subject: self._parts(rows) for subject, rows in samples.items()}
        results: list[EvalResult] = []
        for subject, rows in samples.items():
            for metric, parts in found[subject].items():
                results += [self._level(context, subject, part, group) for group, part in parts.items()]
                if subject != context.baseline and context.baseline in samples and self.shown[metric].paired:
                    before = found[context.baseline][metric]
                    nothing = Measure(metric, {})
                    results += [
                        self._change(context, subject, part, before.get(group, nothing), group)
                        for group, part in parts.items()
                    ]
            results.append(self.ended(context, subject, rows))
        return results

    def measures_by_group(self, rows: Sequence[Sample]) -> Mapping[str, Sequence[Measure]]:
        found: dict[str, list[Measure]] = {}
        for parts in self._parts(rows).values():
            for group, part in parts.items():
                if group is not None:
                    found.setdefault(group, []).append(part)
        return found

    def _parts(self, rows: Sequence[Sample]) -> dict[str, dict[str | None, Measure]]:
        """Metric -> all of its items under None, then those of every group."""
        groups = self.groups(rows)
        found: dict[str, dict[str | None, Measure]] = {}
        for measure in self.measures(rows):
            items: dict[str, dict[Hashable, ItemValue]] = {}
            for key, item in measure.items.items():
                if key in groups:
                    items.setdefault(groups[key], {})[key] = item
            parts: dict[str | None, Measure] = {None: measure}
            parts.update((group, replace(measure, items=own)) for group, own in items.items())
            found[measure.metric] = parts
        return found

    def _level(self, context: EvalContext, subject: str, measure: Measure, group: str | None) -> EvalResult:
        shown = self.shown[measure.metric]
        level, unscored = _level(list(measure.items.values()), measure.unit, context.seed)
        more = {"unit": measure.unit, "higher_is_better": measure.higher_is_better, "group": group}
        primary = shown.primary and group is None
        return self.result(
            context, subject, measure.metric, level, unscored, primary=primary, label=shown.label, **more
        )

    def _change(
        self, context: EvalContext, subject: str, measure: Measure, baseline: Measure, group: str | None
    ) -> EvalResult:
        pairs = {
            key: (item, other)
            for key, item in measure.items.items()
            if item.value is not None and (other := baseline.items.get(key)) is not None and other.value is not None
        }
        change = paired_difference(
            [item.value or 0.0 for item, _ in pairs.values()],
            [other.value or 0.0 for _, other in pairs.values()],
            [item.cluster for item, _ in pairs.values()],
            seed=context.seed,
        )
        missing = len(set(measure.items) | set(baseline.items)) - len(pairs)
        more = {"unit": measure.unit, "higher_is_better": measure.higher_is_better, "compared_to": context.baseline}
        label = f"change: {self.shown[measure.metric].label}"
        metric = f"{measure.metric}_difference"
        return self.result(context, subject, metric, change, missing, label=label, group=group, **more)


def _level(items: Sequence[ItemValue], unit: str, seed: int) -> tuple[Interval, int]:
    """The mean with its clustered interval, and how many items have no value."""
    scored = [(item.value, item.cluster) for item in items if item.value is not None]
    values, clusters = [value for value, _ in scored], [cluster for _, cluster in scored]
    average = share_interval if unit == "share" else mean_interval
    return average(values, clusters, seed=seed), len(items) - len(scored)


def user(content: str) -> Messages:
    """A conversation of one message."""
    return [{"role": "user", "content": content}]


def parsed(rows: Sequence[Row], kind: type[ModelT]) -> list[ModelT]:
    """Every row as an item. DataError names the first row that is none, and why."""
    items = []
    for row in rows:
        try:
            items.append(kind.model_validate(row.values))
        except ValidationError as error:
            raise DataError(f"{row.where}: {first_problem(error)}") from None
    return items
