"""How policies were optimised: stages told apart from seeds, what they logged, and what changed from first to last.

Reads the logs only. A metric that a stage did not log, or logged as null, is left out; it never counts as 0.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.report.display import MINUS, NOT_AVAILABLE, grouped, number
from alignment.report.load import POLICY_KINDS, Run, Sample, Stage
from alignment.report.tables import Table
from alignment.scorer_names import term_label

SCORES = "objective/scores"
RAW = "objective/raw_scores"
KL = "objective/kl"
WINDOW = 10  # logged steps averaged at either end, at most
PROMPTS = 4  # of the samples of a stage
KL_BAND = 0.2  # Ziegler et al. 2019: within this share of the target the controller answers in proportion

_ROUND = re.compile(r"(?P<stem>.+)_(?P<round>\d+)")


@dataclass(frozen=True)
class Metric:
    """A number of the log, its name for a reader, and its unit; `update`: of the update, not of the answers."""

    key: str
    title: str
    unit: str = ""
    update: bool = False
    drawn: bool = True


# In the order of the panels. Metrics of a scorer's terms are added under their own names.
METRICS = (
    Metric(SCORES, "Reward"),
    Metric(RAW, "Score before penalties"),  # and before scaling and clipping; logged where there are any
    Metric("objective/score_spread", "Ensemble disagreement"),
    Metric(KL, "KL (nats per answer)"),
    Metric("kl", "KL (nats per token)"),  # this and the names without a family are those of TRL's trainers
    Metric("objective/response_length", "Length (tokens)"),
    Metric("completions/mean_length", "Length (tokens)"),
    Metric("objective/eos_rate", "Ended by itself (%)", "share"),
    Metric("completions/clipped_ratio", "Cut at the limit (%)", "share"),
    Metric("objective/rlhf_reward", "Reward less KL penalty", drawn=False),
    Metric("objective/entropy", "Entropy (nats per answer)", update=True, drawn=False),
    Metric("policy/entropy_avg", "Entropy (nats per token)", update=True),
    Metric("entropy", "Entropy (nats per token)", update=True),
    Metric("loss/value_avg", "Value loss", update=True),
    Metric("val/explained_variance", "Explained variance", update=True),
    Metric("val/ratio", "Probability ratio", update=True),
    Metric("policy/clipfrac_avg", "Clipped (%)", "share", update=True),
    Metric("clip_ratio/region_mean", "Clipped (%)", "share", update=True),
    Metric("frac_reward_zero_std", "Groups of one score (%)", "share", update=True),
    Metric("policy/approxkl_avg", "KL of an update (nats)", update=True, drawn=False),
    Metric("loss/policy_avg", "Policy loss", update=True, drawn=False),
    Metric("objective/kl_coef", "KL coefficient", update=True, drawn=False),
)


@dataclass(frozen=True)
class Group:
    """Stages to be drawn together: one, or the seeds of one experiment."""

    name: str
    kind: str
    stages: tuple[Stage, ...]

    @property
    def seeds(self) -> bool:
        return len(self.stages) > 1


@dataclass(frozen=True)
class Ends:
    """A metric at either end of training: means over `window` of `n` logged steps. `last` None after one step."""

    stage: str
    metric: Metric
    window: int
    n: int
    first: float
    last: float | None


def groups(run: Run) -> list[Group]:
    """Policy-optimisation stages with a log, in the run's order.

    Stages of one kind whose names differ by a round (`ppo_1`, `ppo_2`) are seeds of one experiment if they started
    from the same model with the same settings; rounds that go on from each other are not. Settings are the same that
    differ in the seed, in their own name, or in the round of a stage that they name.
    """
    rounds = {s.name: suffix["stem"] for s in run.manifest.stages if (suffix := _ROUND.fullmatch(s.name))}
    found: dict[tuple[str, str, str], list[Stage]] = {}
    for stage in run.manifest.stages:
        if stage.kind in POLICY_KINDS and any(point.split == "train" for point in run.logs.get(stage.name, ())):
            suffix = _ROUND.fullmatch(stage.name)
            name = suffix["stem"] if suffix else stage.name
            alone = "" if suffix else stage.name
            started = json.dumps([stage.inputs.get("model", ""), _settings(stage, rounds)], sort_keys=True)
            found.setdefault((stage.kind, name + "\0" + alone, started), []).append(stage)
    several = Counter(key for (_, key, _), stages in found.items() if len(stages) > 1)
    return [
        Group(_group_name(key.partition("\0")[0], stages, several[key] > 1), kind, tuple(stages))
        for (kind, key, _), stages in found.items()
    ]


def _group_name(stem: str, stages: Sequence[Stage], shared: bool) -> str:
    """What the rounds share; all their names where another experiment's rounds share it too."""
    if len(stages) == 1:
        return stages[0].name
    return "+".join(stage.name for stage in stages) if shared else stem


def _settings(stage: Stage, rounds: Mapping[str, str]) -> Any:
    """What two seeds have in common; `rounds`: stage of a round -> the name that rounds share."""

    def common(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: common(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [common(inner) for inner in value]
        return rounds.get(value, value) if isinstance(value, str) else value

    return common({key: value for key, value in stage.settings.items() if key not in ("seed", "name")})


def series(run: Run, stage: str, key: str) -> dict[int, float]:
    """Step -> value, of the steps that have one; NaN where it was not finite."""
    points = (point for point in run.logs.get(stage, ()) if point.split == "train" and key in point.metrics)
    return {point.step: value if math.isfinite(value := point.metrics[key]) else math.nan for point in points}


def metrics(run: Run, group: Group) -> list[Metric]:
    """What at least one stage of the group logged; a term that is the reward itself is not told twice."""
    logged = {key: None for s in group.stages for p in run.logs[s.name] if p.split == "train" for key in p.metrics}
    watched = {term_label(term) for s in group.stages for term in _terms(s.settings)}
    terms = []
    for key in logged:
        name = key.removeprefix(f"{SCORES}/")
        if name != key and not _is_the_reward(run, group, key):
            terms.append(Metric(key, f"{name} (watched)" if name in watched else name))
    known = [metric for metric in METRICS if metric.key in logged]
    return [*(m for m in known if m.key == SCORES), *terms, *(m for m in known if m.key != SCORES)]


def _is_the_reward(run: Run, group: Group, key: str) -> bool:
    """Whether a term is the whole reward of every stage that has it; seeds may each have a scorer of their own."""
    logged = [(s.name, found) for s in group.stages if (found := series(run, s.name, key))]
    return all(found in (series(run, name, SCORES), series(run, name, RAW)) for name, found in logged)


def _terms(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    watch = settings.get("watch")
    return [term for term in watch if isinstance(term, Mapping)] if isinstance(watch, list) else []


def kl_target(stage: Stage) -> float | None:
    """The KL that the stage's controller aims at; None when its coefficient is fixed."""
    options = stage.settings.get("ppo")
    adaptive = options.get("adaptive_kl") if isinstance(options, Mapping) else None
    target = adaptive.get("target") if isinstance(adaptive, Mapping) else None
    return float(target) if isinstance(target, int | float) else None


def ends(run: Run, stage: str, metric: Metric) -> Ends | None:
    """The means at either end; None when the stage logged no such metric."""
    values = list(series(run, stage, metric.key).values())
    if not values:
        return None
    window = max(1, min(WINDOW, len(values) // 4))
    last = _mean(values[-window:]) if len(values) > 1 else None
    return Ends(stage, metric, window, len(values), _mean(values[:window]), last)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def policy_table(run: Run) -> Table | None:
    """A row per metric and stage, the mean over seeds before the seeds themselves; None without such stages."""
    rows: list[tuple[str, ...]] = []
    records: list[Mapping[str, object]] = []
    for group in groups(run):
        for metric in metrics(run, group):
            told = [found for stage in group.stages if (found := ends(run, stage.name, metric))]
            for index, row in enumerate([*_over_seeds(group, told), *told]):
                rows.append(("" if index else metric.title, row.stage, *_cells(row)))
                record = {"stage": row.stage, "kind": group.kind, "metric": metric.key, "window": row.window}
                change = None if row.last is None else row.last - row.first
                records.append(record | {"steps": row.n, "first": row.first, "last": row.last, "change": change})
    if not rows:
        return None
    caption = (
        f"Policy optimisation: means over the first and the last logged steps (run {run.manifest.name}, "
        f"seed {run.manifest.seed}). Window: how many logged steps are averaged at either end, of how many."
    )
    header = ("Metric", "Stage", "Window", "First", "Last", "Change")
    fields = ("stage", "kind", "metric", "window", "steps", "first", "last", "change")
    return Table("policy_optimisation", caption, header, "llrrrr", tuple(rows), tuple(records), fields)


def _over_seeds(group: Group, told: Sequence[Ends]) -> list[Ends]:
    """The mean of the seeds' means, where every seed of the group has both ends."""
    if not group.seeds or len(told) < len(group.stages) or any(row.last is None for row in told):
        return []
    lasts = [row.last for row in told if row.last is not None]
    name = f"{group.name}, mean of {len(told)}"
    fewest = min(told, key=lambda row: row.n)
    return [Ends(name, fewest.metric, fewest.window, fewest.n, _mean([row.first for row in told]), _mean(lasts))]


def _cells(row: Ends) -> tuple[str, str, str, str]:
    unit = row.metric.unit
    window = f"{row.window} of {row.n}"
    if row.last is None:
        return window, measured(row.first, unit), NOT_AVAILABLE, NOT_AVAILABLE
    change = measured(row.last - row.first, unit, signed=True)
    return window, measured(row.first, unit), measured(row.last, unit), change


def measured(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """A logged number: shares in percent, the rest with three decimals, or in powers of ten where that would be 0."""
    if value is None:
        return NOT_AVAILABLE
    if not math.isfinite(value):
        return "not finite"
    if unit == "share":
        return number(value, unit, signed=signed)
    if 0 < abs(value) < 0.0005:
        text = f"{abs(value):.1e}".replace("e-0", "e-").replace("-", MINUS)
        return (MINUS if value < 0 else "+" if signed else "") + text
    text = grouped(value, 3)
    return f"+{text}" if signed and value > 0 else text


@dataclass(frozen=True)
class Shown:
    """A prompt with the answers it got at some of the steps shown."""

    id: str
    prompt: tuple[Any, ...]
    answers: tuple[Sample, ...]


def shown_answers(answers: Sequence[Sample]) -> list[Shown]:
    """A few prompts: those answered at most of the steps first, so that an answer can be followed; then in turn."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in sorted(answers, key=lambda s: s.step):
        by_prompt.setdefault(sample.id, []).append(sample)
    picked: list[str] = [p for p, found in by_prompt.items() if len({s.step for s in found}) > 1]
    by_step: dict[int, list[str]] = {}
    for prompt, found in by_prompt.items():
        if prompt not in picked:
            by_step.setdefault(found[0].step, []).append(prompt)
    while any(by_step.values()):
        picked += [waiting.pop(0) for waiting in by_step.values() if waiting]
    wanted = max(PROMPTS, len({s.step for s in answers}))
    chosen = sorted(picked[:wanted], key=lambda p: -len({s.step for s in by_prompt[p]}))
    return [Shown(p, by_prompt[p][0].prompt, tuple(_one_a_step(by_prompt[p]))) for p in chosen]


def _one_a_step(samples: Iterable[Sample]) -> list[Sample]:
    """The first answer of each step: several answers to one prompt are samples of the same policy."""
    return list({s.step: s for s in reversed(list(samples))}.values())[::-1]
