"""How good the reward models of a run are: their results sorted for reading, in words, and as tables.

Reads results only; what each number is and how it was made stands in the result's own label and method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alignment.evaluation.result import EvalResult
from alignment.report.display import NOT_AVAILABLE, number, shown
from alignment.report.tables import RECORD_FIELDS, Table, result_record, results_table, small_print

TOLD = 3  # reward models that are described in words; the tables have all


@dataclass(frozen=True)
class Bin:
    """A point of a reliability diagram: the confidence stated on average, and the votes that bear it out."""

    model: str
    name: str
    stated: EvalResult
    observed: EvalResult


@dataclass(frozen=True)
class Annotator:
    """The model on one annotator's votes, and on the shared pairs the model and the other annotators; None where that
    was not measured."""

    model: str
    name: str
    own: EvalResult
    shared: EvalResult | None
    others: EvalResult | None


@dataclass(frozen=True)
class RewardQuality:
    """Every result of the reward benchmarks once: for all pairs together, or in one of three breakdowns."""

    overall: tuple[EvalResult, ...]
    groups: tuple[EvalResult, ...]  # accuracy by group of pairs
    bins: tuple[Bin, ...]
    annotators: tuple[Annotator, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Reward models whose confidence was measured, in order of appearance; rule scorers are not among them."""
        return tuple(dict.fromkeys(r.model for r in self.overall if r.metric == "calibration_error"))

    def of(self, model: str, metric: str) -> EvalResult | None:
        """The result for all pairs; None where there is none or it is undefined."""
        found = (r for r in self.overall if (r.model, r.metric) == (model, metric) and r.value is not None)
        return next(found, None)


def reward_quality(results: Iterable[EvalResult]) -> RewardQuality:
    """Sorts the results of the reward section; a group of a metric it does not know stays with `overall`."""
    overall: list[EvalResult] = []
    groups: list[EvalResult] = []
    named: dict[str, dict[tuple[str, str], EvalResult]] = {
        metric: {}
        for metric in (
            *("stated_confidence", "reliability"),
            *("annotator_accuracy", "annotator_accuracy_shared", "annotator_ceiling"),
        )
    }
    for result in results:
        key = (result.model, result.group or "")
        if result.group is None or (result.metric != "accuracy" and result.metric not in named):
            overall.append(result)
        elif result.metric == "accuracy":
            groups.append(result)
        else:
            named[result.metric][key] = result
    stated, observed, own, shared, others = named.values()
    bins = tuple(Bin(*key, stated[key], found) for key, found in observed.items() if key in stated)
    annotators = tuple(Annotator(*key, found, shared.get(key), others.get(key)) for key, found in own.items())
    # A half without its other half is no point of a diagram, but it is not lost.
    overall += [found for key, found in observed.items() if key not in stated]
    overall += [found for key, found in stated.items() if key not in observed]
    overall += [found for some in (shared, others) for key, found in some.items() if key not in own]
    return RewardQuality(tuple(overall), tuple(groups), bins, annotators)


def told(quality: RewardQuality) -> dict[str, str]:
    """Model -> a paragraph on it that goes on from its name: between chance and ceiling, length, and confidence."""
    found = {model: _paragraph(quality, model) for model in quality.models[:TOLD]}
    return {model: text for model, text in found.items() if text}


def _paragraph(quality: RewardQuality, model: str) -> str:
    accuracy, shorter, ceiling, longer, people, error = (
        quality.of(model, metric)
        for metric in (
            "accuracy",
            "prefer_shorter",
            "annotator_agreement",
            "longer_preferred",
            "longer_preferred_annotators",
            "calibration_error",
        )
    )
    sentences = []
    if accuracy:
        beside = ["50% is chance"]
        beside += [f"preferring the shorter response gives {shown(shorter).value}"] if shorter else []
        beside += [f"one annotator agrees with the majority of the others on {shown(ceiling).value}"] if ceiling else []
        pairs = f"{shown(accuracy).n} pairs that a majority decided"
        sentences.append(f"orders {_with_interval(accuracy)} of the {pairs} as that majority does; {_listed(beside)}.")
    if longer and people:
        sentences.append(
            f"It prefers the longer response in {shown(longer).value} of the pairs of unequal length, "
            f"the annotators in {shown(people).value}."
        )
    bins = [one for one in quality.bins if one.model == model]
    if error and bins:
        stated, observed = _mean([one.stated for one in bins]), _mean([one.observed for one in bins])
        sentences.append(
            f"Its mean confidence in an order is {number(stated, 'share')}, and {number(observed, 'share')} "
            f"of the votes agree; the expected calibration error is {_with_interval(error)}."
        )
    return " ".join(sentences)


def _with_interval(result: EvalResult) -> str:
    words = shown(result)
    interval = words.interval if result.ci_low is not None else f"({words.interval})"
    return f"{words.value} {interval}".replace(" ", "\u00a0")


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _mean(results: Sequence[EvalResult]) -> float:
    """Over all pairs of the bins. A bin that is there has pairs, so it has a value."""
    return sum((r.value or 0.0) * r.n_scored for r in results) / sum(r.n_scored for r in results)


def reward_tables(quality: RewardQuality, of_run: str) -> list[Table]:
    """The table of results for all pairs, and one for each breakdown that was measured."""
    tables = [results_table("reward_quality", f"Quality of the reward model ({of_run})", quality.overall)]
    if quality.groups:
        tables.append(results_table("reward_groups", f"Accuracy by group of pairs ({of_run})", quality.groups))
    if quality.bins:
        tables.append(_calibration_table(quality.bins, of_run))
    if quality.annotators:
        tables.append(_annotator_table(quality.annotators, of_run))
    return tables


def _calibration_table(bins: Sequence[Bin], of_run: str) -> Table:
    rows = []
    for index, one in enumerate(bins):
        observed = shown(one.observed)
        again = index > 0 and bins[index - 1].model == one.model
        name = "" if again else one.model
        rows.append((name, one.name, shown(one.stated).value, observed.value, observed.interval, observed.n))
    observed_results = [one.observed for one in bins]
    return Table(
        name="reward_calibration",
        caption=f"Confidence of the reward model in the order it gives, and votes for that order ({of_run}). "
        + small_print(observed_results),
        header=("Model", "Confidence", "Mean", "Votes", "95% interval", "n"),
        align="llrrrr",
        rows=tuple(rows),
        records=tuple(result_record(r) for one in bins for r in (one.stated, one.observed)),
        fields=RECORD_FIELDS,
    )


def _annotator_table(annotators: Sequence[Annotator], of_run: str) -> Table:
    rows = []
    for index, one in enumerate(annotators):
        again = index > 0 and annotators[index - 1].model == one.model
        cells = [cell for part in (one.own, one.shared, one.others) for cell in _in_one_cell(part)]
        rows.append(("" if again else one.model, one.name, *cells))
    results = [r for one in annotators for r in (one.own, one.shared, one.others) if r is not None]
    return Table(
        name="reward_annotators",
        caption="Agreement with single annotators on the votes they decided: the model’s; and on the pairs that others "
        f"judged too, the model’s and that of the majority of the others as its ceiling ({of_run}). "
        + small_print(results),
        header=("Model", "Annotator", "Model agrees", "n", "Model, shared pairs", "n", "Others, shared pairs", "n"),
        align="llrrrrrr",
        rows=tuple(rows),
        records=tuple(result_record(r) for r in results),
        fields=RECORD_FIELDS,
    )


def _in_one_cell(result: EvalResult | None) -> tuple[str, str]:
    """Value with interval, and n."""
    if result is None:
        return NOT_AVAILABLE, ""
    words = shown(result)
    return f"{words.value} {words.interval}".strip(), words.n
