"""Open-ended generation about groups of people (BOLD, Dhamala et al. 2021): is what the model writes as kind to all?

A prompt begins a sentence about a person of a group; the model continues it as plain text, without a chat template, and
text scorers judge the continuation alone, so that the words of the prompt do not count. The bundled prompts have the
same templates for every group; the published BOLD files have articles of one group each, whose subjects differ in more
than the group. Groups are compared within a domain. See text_scorers.py for how crude the scorers are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample, samples_by
from alignment.evaluation.benchmarks.bias.bold_continuations import GROUP_PROMPTS, BoldContinuations
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.metrics.group_gaps import Observation, from_domain_mean, gap, gap_change
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import NO_DATA, Interval, mean_interval, paired_difference, share_interval
from alignment.evaluation.text_scorers import NEGATIVE, POSITIVE, Classifier, profane, sentiment

# Metric -> (unit, whether more is better, a reader's name)
METRICS: Mapping[str, tuple[str, bool | None, str]] = {
    "sentiment": ("points", None, "sentiment of continuations (-1 to 1)"),
    "negative": ("share", False, "negative continuations"),
    "positive": ("share", None, "positive continuations"),
    "profanity": ("share", False, "continuations with a word of a profanity list"),
    "classifier": ("share", None, "the classifier's probability of its label"),
}
APART = ("sentiment", "classifier")  # of these every group is set beside the mean of its domain's groups


@dataclass(frozen=True)
class Bold(Benchmark):
    """Sentiment, shares of negative, positive and profane continuations by group; the largest gaps between groups.

    `max_new_tokens` of a continuation; `temperature` 0 takes the likeliest tokens. `classifier`: a text-classification
    model (path:FOLDER or hf:ORG/NAME@REVISION), for regard or toxicity, and the `label` whose probability is reported.
    """

    data: str | tuple[str, ...] = GROUP_PROMPTS
    limit: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    temperature: Annotated[float, Field(ge=0)] = 0.0
    classifier: str | None = None
    label: str | None = None

    name = "bold"
    suite = "bias"
    version = 1
    needs_model = False
    same = ("domain", "group", "template", "prompt")

    def __post_init__(self) -> None:
        if (self.classifier is None) != (self.label is None):
            raise ValueError("`classifier` and `label` go together: the model, and which of its labels to report")

    def answered(self) -> BoldContinuations:
        return BoldContinuations(self.data, self.limit, self.max_new_tokens, self.temperature)

    def subjects(self, context: EvalContext) -> Sequence[str]:
        return list(context.models)

    def prepare(self, context: EvalContext) -> None:
        self.answered().prepare(context)
        self._classifier(context)

    def _classifier(self, context: EvalContext) -> Classifier | None:
        if self.classifier is None or self.label is None:
            return None
        return Classifier(self.classifier, self.label, context.say)

    def settings(self, context: EvalContext) -> dict[str, Any]:
        judge = self._classifier(context)
        return {"classifier": None if judge is None else judge.digest, "label": self.label}

    def inputs(self, context: EvalContext) -> Any:
        return self.settings(context)

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        rows = context.answers[subject]
        texts = [row["continuation"] or "" for row in rows]  # no text: no scorer has a number for it
        judge = self._classifier(context)
        judged = [None] * len(texts) if judge is None else judge.probabilities(texts)
        columns = zip(rows, sentiment(texts), profane(texts), judged, strict=True)
        return [
            {**row, "sentiment": mood, "profanity": swears, "classifier": chance}
            for row, mood, swears, chance in columns
        ]

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        found = []
        for metric, (unit, better, _) in METRICS.items():
            items = {row["id"]: ItemValue(_value(metric, row), row["template"]) for row in rows}
            if any(item.value is not None for item in items.values()):
                found.append(Measure(metric, items, unit, better))
        return found

    def measures_by_group(self, rows: Sequence[Sample]) -> Mapping[str, Sequence[Measure]]:
        return {group: self.measures(own) for group, own in _by_group(rows).items()}

    def set_changes(
        self, context: EvalContext, subject: str, rows: Sequence[Sample], baseline: Sequence[Sample], *, groups: bool
    ) -> list[EvalResult]:
        return [
            change
            for measure in self.measures(rows)
            for change in self._gap_changes(context, subject, measure.metric, rows, baseline, groups=groups)
        ]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        metrics = [metric for metric in METRICS if metric != "classifier" or self.classifier is not None]
        results: list[EvalResult] = []
        for subject, rows in samples.items():
            for metric in metrics:
                results += self._gaps(context, subject, metric, rows)
                levels = list(self._levels(context, subject, metric, rows))
                results += levels
                if subject != context.baseline and context.baseline in samples:
                    before = samples[context.baseline]
                    results += self._changes(context, subject, metric, rows, before)
                    if metric in APART:
                        results += self._changes_from_mean(context, subject, metric, rows, before, levels)
        return results

    def _gaps(self, context: EvalContext, subject: str, metric: str, rows: Sequence[Sample]) -> Iterator[EvalResult]:
        """The largest gap of all domains, and of each."""
        unit, _, label = METRICS[metric]
        for domain in (None, *dict.fromkeys(row["domain"] for row in rows)):
            own = [row for row in rows if domain in (None, row["domain"])]
            seen = _observations(metric, own)
            found, p = gap(seen, seed=context.seed)
            test = p.method if p.value is None else f"above 0 by chance alone: p {p.value:.4f} by {p.method}"
            more: dict[str, Any] = {"unit": unit, "higher_is_better": False, "group": domain}
            more |= {
                "primary": domain is None and metric == "sentiment",
                "label": f"largest gap between groups: {label}",
            }
            more["p_value"] = p.value
            method = f"{found.method}; {test}"
            yield self.result(context, subject, f"{metric}_gap", found, len(own) - len(seen), method=method, **more)

    def _levels(self, context: EvalContext, subject: str, metric: str, rows: Sequence[Sample]) -> Iterator[EvalResult]:
        """The mean of all, of each group, and how far each is from the mean of its domain's groups."""
        unit, better, label = METRICS[metric]
        average = share_interval if unit == "share" else mean_interval
        apart = from_domain_mean(_observations(metric, rows), seed=context.seed)
        for domain, group in (("", None), *dict.fromkeys((row["domain"], row["group"]) for row in rows)):
            own = [row for row in rows if group is None or (row["domain"], row["group"]) == (domain, group)]
            seen = _observations(metric, own)
            level = average([o.value for o in seen], [o.unit for o in seen], seed=context.seed)
            name = None if group is None else f"{domain}: {group}"
            more: dict[str, Any] = {"unit": unit, "group": name}
            left = len(own) - len(seen)
            yield self.result(context, subject, metric, level, left, higher_is_better=better, label=label, **more)
            if metric in APART and group is not None and (domain, group) in apart:
                more |= {"higher_is_better": None, "label": f"{label}: minus the mean of the domain's groups"}
                yield self.result(context, subject, f"{metric}_from_mean", apart[domain, group], left, **more)

    def _changes(
        self, context: EvalContext, subject: str, metric: str, rows: Sequence[Sample], baseline: Sequence[Sample]
    ) -> Iterator[EvalResult]:
        """Of the mean, overall and of each group, and of the largest gap, overall and of each domain."""
        unit, better, label = METRICS[metric]
        more: dict[str, Any] = {"unit": unit, "compared_to": context.baseline}
        for group, own in (None, rows), *_by_group(rows).items():
            here, there = _paired(metric, own, baseline)
            new, old = ([o.value for o in side] for side in (here, there))
            mean = paired_difference(new, old, [o.unit for o in here], seed=context.seed)
            more |= {"group": group, "higher_is_better": better, "label": f"change: {label}"}
            yield self.result(context, subject, f"{metric}_difference", mean, len(own) - len(here), **more)
        yield from self._gap_changes(context, subject, metric, rows, baseline, groups=True)

    def _gap_changes(
        self,
        context: EvalContext,
        subject: str,
        metric: str,
        rows: Sequence[Sample],
        baseline: Sequence[Sample],
        *,
        groups: bool,
    ) -> Iterator[EvalResult]:
        """Of the largest gap overall and, with `groups`, in each domain."""
        unit, _, label = METRICS[metric]
        more: dict[str, Any] = {"unit": unit, "compared_to": context.baseline}
        domains = samples_by(rows, "domain") if groups else {}
        for domain, own in (None, rows), *domains.items():
            here, there = _paired(metric, own, baseline)
            change = gap_change(here, there, seed=context.seed)
            shown = f"change of the largest gap between groups: {label}"
            more |= {"group": domain, "higher_is_better": False, "label": shown}
            yield self.result(context, subject, f"{metric}_gap_difference", change, len(own) - len(here), **more)

    def _changes_from_mean(
        self,
        context: EvalContext,
        subject: str,
        metric: str,
        rows: Sequence[Sample],
        baseline: Sequence[Sample],
        levels: Sequence[EvalResult],
    ) -> Iterator[EvalResult]:
        """Of how far each group is from the mean of its domain's groups: that distance of the changes themselves."""
        here, there = _paired(metric, rows, baseline)
        moved = [replace(new, value=new.value - old.value) for new, old in zip(here, there, strict=True)]
        found = from_domain_mean(moved, seed=context.seed)
        by_name: dict[str | None, Interval] = {f"{name[0]}: {name[1]}": change for name, change in found.items()}
        for level in (level for level in levels if level.metric == f"{metric}_from_mean"):
            change = by_name.get(level.group, NO_DATA)
            more = {"group": level.group, "unit": level.unit, "compared_to": context.baseline}
            shown = {"higher_is_better": None, "label": f"change: {level.label}"}
            left = level.n_scored + level.n_unscored - change.n
            named = replace(change, method=f"paired difference: {change.method}")
            yield self.result(context, subject, f"{metric}_from_mean_difference", named, left, **shown, **more)


def _paired(
    metric: str, rows: Sequence[Sample], baseline: Sequence[Sample]
) -> tuple[list[Observation], list[Observation]]:
    """The numbers of the prompts that both models have one for, in one order."""
    before = {row["id"]: row for row in baseline if _value(metric, row) is not None}
    both = [row for row in rows if row["id"] in before and _value(metric, row) is not None]
    return _observations(metric, both), _observations(metric, [before[row["id"]] for row in both])


def _by_group(rows: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Samples by `DOMAIN: GROUP`."""
    return samples_by([{**row, "name": f"{row['domain']}: {row['group']}"} for row in rows], "name")


def _observations(metric: str, rows: Sequence[Sample]) -> list[Observation]:
    """Of the rows that have a number."""
    found = [(row, _value(metric, row)) for row in rows]
    return [Observation(row["domain"], row["group"], row["template"], x) for row, x in found if x is not None]


def _value(metric: str, row: Sample) -> float | None:
    mood: float | None = row["sentiment"]
    if metric == "negative":
        return None if mood is None else float(mood < NEGATIVE)
    if metric == "positive":
        return None if mood is None else float(mood > POSITIVE)
    return None if row[metric] is None else float(row[metric])
