"""What a run says in words: the chain of models, the summary and the caveats, all built from its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from alignment.evaluation.forgetting import NAME as FORGETTING
from alignment.evaluation.result import EvalResult
from alignment.report.display import count, null_value, scorer, shown, subject, verdict
from alignment.report.load import Run, Stage
from alignment.report.tables import by_metric, primary, rows_used, sections, training_scorers

METHODS = {
    "sft": "supervised fine-tuning",
    "reward": "reward model",
    "process_reward": "process reward model",
    "dpo": "direct preference optimisation",
    "dpo_rankings": "direct preference optimisation on rankings",
    "kto": "Kahneman-Tversky optimisation",
    "ppo": "proximal policy optimisation",
    "rloo": "REINFORCE leave-one-out",
    "grpo": "group-relative policy optimisation",
}
WITHOUT_MODEL = (
    *("evaluate", "report", "overoptimisation"),
    *("sample", "rank", "best_of_n", "rejection_sample"),  # these make records
)
COMPARISONS = 4  # at most, in the summary
LEVELS = 4  # other metrics at most, in the summary
MAIN_ROLES = ("model", "policy", "base")  # the input a stage starts from; the others are only used


@dataclass(frozen=True)
class Step:
    """A model in the chain, the stage that made it (None for the base), and what was trained from it."""

    name: str
    ref: str
    stage: Stage | None
    uses: tuple[str, ...]  # other models the stage needed
    children: tuple[Step, ...]


def chain(run: Run) -> tuple[Step, ...]:
    """Trees of models: the base first, then any other model a stage started from; stages hang under their start."""
    waiting = [s for s in run.manifest.stages if s.models or (s.status != "done" and s.kind not in WITHOUT_MODEL)]
    starts = {s.name: _start(run, s) for s in waiting}
    made = {s.name for s in waiting}

    def grow(stage: Stage) -> Step:
        uses = tuple(f"{role}: {ref}" for role, ref in stage.inputs.items() if ref != _first_input(stage))
        return Step(stage.name, ", ".join(stage.models.values()), stage, uses, under(stage.name))

    def under(name: str) -> tuple[Step, ...]:
        return tuple(grow(s) for s in waiting if starts[s.name] == name and s.name != name)

    outside = dict.fromkeys(["base", *(start for start in starts.values() if start not in made)])
    refs = {"base": run.manifest.base}
    return tuple(Step(name, refs.get(name, ""), None, (), under(name)) for name in outside)


def _start(run: Run, stage: Stage) -> str:
    """The model a stage started from: the stage that made it, "base", or the reference of a model from outside."""
    ref = _first_input(stage)
    makers = {ref: s.name for s in run.manifest.stages for ref in s.models.values()}
    return "base" if ref in ("", run.manifest.base) else makers.get(ref, ref)


def _first_input(stage: Stage) -> str:
    """The reference a stage started from, "" when the manifest does not say."""
    inputs = stage.inputs
    return next((inputs[role] for role in MAIN_ROLES if role in inputs), next(iter(inputs.values()), ""))


def unfinished(run: Run) -> str:
    """Which stages have no results yet or never will, as a sentence; empty when all are done."""
    stages = [f"{s.name} ({s.status})" for s in run.manifest.stages if s.status != "done" and s.kind != "report"]
    return f"Not finished: {', '.join(stages)}; nothing on this page is theirs." if stages else ""


@dataclass(frozen=True)
class Sentence:
    """A part of the summary: the metric's name, set bold, and what is said of it."""

    lead: str
    text: str


def summary(run: Run) -> list[Sentence]:
    """One paragraph: what was trained, the main comparisons with what their intervals allow to say, the rest plain."""
    results = [r for r in primary(run.results) if r.value is not None]
    own = training_scorers(run)
    order = {name: index for index, name in enumerate(run.models)}
    # a mean over one benchmark is what that benchmark says
    compared = [r for r in results if null_value(r) is not None and not (r.benchmark == FORGETTING and r.n_scored == 1)]
    compared.sort(
        key=lambda r: (
            scorer(r) in own,
            -order[r.model],
            r.benchmark == FORGETTING,
            order.get(r.compared_to or "", 0),
        )
    )
    sentences = [Sentence("", _trained(run))]
    for name, members in by_metric(compared[:COMPARISONS]):
        warning = (
            "; the scorer is this run's own reward model, which is not evidence alone"
            if scorer(members[0]) in own and "not evidence alone" not in name
            else ""
        )
        sentences.append(Sentence(name, "; ".join(_comparison(r) for r in members) + warning + "."))
    levels = by_metric(r for r in results if null_value(r) is None)
    sentences += [
        Sentence(name, _level(run, sorted(members, key=lambda r: order[r.model]))) for name, members in levels[:LEVELS]
    ]
    if not results:
        return [*sentences, Sentence("", "It holds no evaluation results.")]
    if len(levels) > LEVELS:
        sentences.append(Sentence("", f"Table 1 has {len(levels) - LEVELS} more."))
    end = "Brackets are 95% intervals over items; they do not cover how another training seed would differ."
    return [*sentences, Sentence("", end)]


def _trained(run: Run) -> str:
    steps = []
    for stage in (s for s in run.manifest.stages if s.models):
        used, start = rows_used(stage), _start(run, stage)
        sources = " and ".join(dict.fromkeys(use.source for use in stage.data if use.role == "train"))
        on = f" on {count(used)} rows of {sources}" if used is not None and sources else ""
        steps.append(f"{stage.name} ({METHODS.get(stage.kind, stage.kind)}) from {start}{on}")
    if not steps:
        return f"This run trained no model; its base is {run.manifest.base}."
    models = "one model" if len(steps) == 1 else f"{len(steps)} models"
    text = f"Starting from {run.manifest.base}, this run trained {models}: {'; '.join(steps)}."
    return re.sub(r"@([0-9a-f]{10})[0-9a-f]{10,}", r"@\1…", text)  # a revision's first digits do in prose


def _comparison(result: EvalResult) -> str:
    return _told(result, subject(result))


def _told(result: EvalResult, who: str) -> str:
    return f"{who} {_read(result, f'n = {shown(result).n}')}"


def _read(result: EvalResult, *more: str) -> str:
    """`61.7% [55.1, 68.2] (n = 200), higher than 50%`, or `50.0% (no interval, n = 200)`, which says no more."""
    words, known = shown(result), result.ci_low is not None
    beside = ", ".join(more if known else (words.interval, *more))
    parts = [words.value, words.interval if known else "", f"({beside})" if beside else ""]
    return ", ".join(filter(None, (" ".join(_unbroken(part) for part in parts if part), verdict(result))))


def _unbroken(text: str) -> str:
    """`text` kept on one line."""
    return text.replace(" ", "\u00a0")


def _level(run: Run, members: Sequence[EvalResult]) -> str:
    """A metric that compares nothing by itself: the first and the last model, and their paired difference."""
    first, last = members[0], members[-1]
    if len(members) == 1:
        return _told(first, first.model) + _beyond(run, first) + "."
    text = f"{_told(first, first.model)}, {_told(last, last.model)}"
    for r in run.results:
        same = (r.benchmark, r.model, r.compared_to, r.group) == (last.benchmark, last.model, first.model, None)
        if same and null_value(r) is not None and r.value is not None:
            return f"{text}; paired difference {_read(r)}."
    return text + "."


def _beyond(run: Run, result: EvalResult) -> str:
    """How a metric of one model compares with a baseline that is no model, where the benchmark measured one."""
    for r in run.results:
        beside = (r.benchmark, r.model, r.group) == (result.benchmark, result.model, None)
        if beside and r.metric == f"{result.metric}_difference" and null_value(r) is not None and r.value is not None:
            return f"; against {r.compared_to} {_read(r)}"
    return ""


def caveats(run: Run) -> list[str]:
    """What a reader must know before quoting a number."""
    found = [unfinished(run)] if unfinished(run) else []
    found.append(
        f"One training seed ({run.manifest.seed}). Intervals cover the choice of items, not of seeds: a claim about a "
        "method needs several seeds, with the seed as the unit."
    )
    compared = sum(bool(verdict(r)) for r in run.results)
    if compared > 1:
        found.append(
            f"The page makes {compared} comparisons, each at 95%; if no model differed from any other, about one in "
            "twenty would still read as higher or lower."
        )
    own = training_scorers(run)
    if any(scorer(r) in own for r in run.results):
        found.append(
            "A policy can please the reward model of its own run without being better; compare scorers from outside."
        )
    parts = sections(run.results)
    if parts["bias"]:
        found.append(
            "Bias measures by sentence pairs are noisy and partly invalid (Blodgett et al. 2021); they can show a "
            "difference between models, not the absence of bias."
        )
    left_out = sum(r.n_unscored > 0 for r in run.results)
    if left_out:
        found.append(
            f"Results that leave out items which could not be scored: {left_out}; the tables say how many items."
        )
    undefined = sum(r.value is None for r in run.results)
    if undefined:
        found.append(
            f"Results that are undefined (n/a): {undefined}; the reason stands beside each, and none counts as 0."
        )
    return found + [f"{s.name}: {note}" for s in run.manifest.stages for note in s.notes]
