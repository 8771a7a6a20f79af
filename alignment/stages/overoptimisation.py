"""Reward over-optimisation (Gao et al. 2022): proxy and gold reward against the distance from the start policy.

Best-of-n is measured on answers sampled here from the start policy; PPO on what its stages logged. Both are on one
scale: measured from the start policy's mean, in standard deviations of its scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, model_validator

from alignment.errors import AlignmentError, RecipeError
from alignment.runs import RunContext, StageResult
from alignment.stages.scoring import ScorerTerm, check_references, load_scorer, scorer_inputs
from alignment.stages.settings import DataNeed, Found, Made, StageSettings, hand_off
from reward.context import context_length

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec
    from alignment.scorers import CheckedScorer
    from alignment.stages.prompts import Prompts

SCORES = "objective/scores"
RAW = "objective/raw_scores"  # logged where PPO's options change the scores
KL = "objective/kl_k3"  # the unbiased estimate that is never negative: a negative one would have no distance
SAMPLING = ("data", "split", "max_prompt_length", "long_prompts", "max_new_tokens", "temperature")


class OverOptimisationSettings(StageSettings):
    """`ppo` are stages that maximised the `proxy` of the same place (or all the same one) and watched the gold terms.

    The start policy answers their prompts as they did: prompts, lengths and temperature are those of their settings.
    """

    model: str  # the start policy of every PPO stage
    data: str
    split: str = "train"
    proxy: str | list[str]  # reward stages, one per seed
    gold: list[ScorerTerm] = Field(min_length=1)  # its weighted sum is what is wanted
    ppo: list[str] = Field(min_length=1)
    n: int = Field(16, ge=2)  # answers per prompt
    limit: int | None = Field(None, ge=2)  # prompts answered here, the first by id, which is a content hash
    share_prefixes: bool = True

    @model_validator(mode="after")
    def a_proxy_for_each(self) -> OverOptimisationSettings:
        if len(set(self.ppo)) < len(self.ppo):
            raise ValueError("ppo: a stage is named twice")
        if isinstance(self.proxy, list) and len(self.proxy) not in (1, len(self.ppo)):
            raise ValueError(f"{len(self.proxy)} proxies for {len(self.ppo)} ppo stages; name one for each, or one")
        return self

    @property
    def proxies(self) -> list[str]:
        """The proxy of every PPO stage, by place."""
        named = [self.proxy] if isinstance(self.proxy, str) else self.proxy
        return named * len(self.ppo) if len(named) == 1 else named

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        made = {m.name for m in earlier}
        unknown = next((name for name in self.ppo if name not in made), None)
        if unknown is not None:
            raise RecipeError(f"{stage}: ppo: {unknown!r} is no earlier stage of this recipe")
        inputs = {"model": hand_off(self.model, stage, earlier, "policy")}
        inputs |= {f"ppo_{i}": hand_off(name, stage, earlier, "policy") for i, name in enumerate(self.ppo, 1)}
        inputs |= {f"proxy_{i}": hand_off(name, stage, earlier, "reward") for i, name in enumerate(self.proxies, 1)}
        return inputs | scorer_inputs(self.gold, stage, earlier)

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"prompts": DataNeed(self.data, self.split, "prompts")}

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        check_references(stage, found.records, spec, self.gold)


def check(stage: str, settings: OverOptimisationSettings) -> None:
    """Nothing heavy to check."""


class Step(NamedTuple):
    """A logged step of a PPO stage: batch means, before its update."""

    step: int
    kl: float
    proxy: float
    gold: float


class Trace(NamedTuple):
    """What a PPO stage logged, and how many steps gave no distance."""

    steps: list[Step]
    left_out: int


def run(context: RunContext, settings: OverOptimisationSettings) -> StageResult:
    from alignment.atomic import write_json
    from alignment.stages.overoptimisation_points import study

    rows = _ppo_rows(context, settings)
    traces = [_trace(context, settings, row) for row in rows]
    prompts, n_prompts, texts = _answers(context, settings, rows[0]["settings"])
    gold = _scored(load_scorer(context, settings.gold, prompts.references, settings.share_prefixes), prompts, texts)
    proxies: dict[str, Any] = {}  # by reference: seeds may share a proxy
    for place, name in enumerate(settings.proxies, 1):
        ref = context.inputs[f"proxy_{place}"]
        if ref not in proxies:
            proxies[ref] = _scored(_proxy(context, settings, ref, name), prompts, texts)
    found = study(
        gold,
        [proxies[context.inputs[f"proxy_{place}"]] for place in range(1, len(rows) + 1)],
        traces,
        names=(_sum(settings.gold), settings.proxies, settings.ppo),
        n_prompts=n_prompts,
        same_records=_same_records(context, settings),
        where=context.stage,
        seed=context.seed,
    )
    write_json(context.folder / "overoptimisation.json", asdict(found))
    metrics = {
        f"{fit.method}/{fit.reward}/{name}": value
        for fit in found.fits
        for name, value in (("alpha", fit.alpha), ("beta", fit.beta))
        if value is not None
    }
    return StageResult(metrics=metrics, data=(prompts.use,))


def _ppo_rows(context: RunContext, settings: OverOptimisationSettings) -> list[dict[str, Any]]:
    """The PPO stages' rows of the manifest; AlignmentError where one was not run as the study needs it."""
    stages = _stages(context)
    rows = [stages[name] for name in settings.ppo]
    for place, (row, proxy) in enumerate(zip(rows, settings.proxies, strict=True), 1):
        name, where = row["name"], f"{context.stage}: {row['name']}"
        if row["kind"] != "ppo":
            raise AlignmentError(f"{where} is a {row['kind']} stage; only ppo logs what the study reads")
        if row["inputs"].get("model") != context.inputs["model"]:
            started = row["inputs"].get("model")
            raise AlignmentError(f"{where} started from {started}, not from {context.inputs['model']}; set `model`")
        if row["inputs"].get("reward") != context.inputs[f"proxy_{place}"]:
            raise AlignmentError(f"{where} did not maximise the proxy {proxy} alone; give it `reward: {proxy}`")
        own = {"data": settings.data, "split": settings.split}
        for key in SAMPLING:
            given, wanted = row["settings"].get(key), (own | {k: rows[0]["settings"].get(k) for k in SAMPLING[2:]})[key]
            if given != wanted:
                other = context.stage if key in own else rows[0]["name"]
                raise AlignmentError(f"{where} has {key} {given}, {other} has {wanted}; the start must be one for all")
        for term in settings.gold:
            _check_watched(context, settings, row, term, name)
    return rows


def _stages(context: RunContext) -> dict[str, dict[str, Any]]:
    """The manifest's rows of stages, by name."""
    path = context.run_dir / "manifest.json"
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["stages"]}


def _same_records(context: RunContext, settings: OverOptimisationSettings) -> bool:
    """Whether several proxies, all made in this run, learned from one and the same records."""
    stages, names = _stages(context), list(dict.fromkeys(settings.proxies))
    learned = [[use["digest"] for use in stages[name]["data"]] if name in stages else None for name in names]
    return len(names) > 1 and learned[0] is not None and all(digests == learned[0] for digests in learned)


def _check_watched(
    context: RunContext, settings: OverOptimisationSettings, row: Mapping[str, Any], term: ScorerTerm, name: str
) -> None:
    """A gold term is watched under its own name, and is the same scorer there."""
    watched = [ScorerTerm.model_validate(given) for given in row["settings"].get("watch", [])]
    place = next((i for i, other in enumerate(watched, 1) if other.label == term.label), None)
    if place is None:
        raise AlignmentError(
            f"{context.stage}: {name} did not watch the gold term {term.label}; put it under {name}'s `watch`"
        )
    other = watched[place - 1]
    ours = [context.inputs[role] for role in term.inputs(f"reward_{settings.gold.index(term) + 1}")]
    theirs = [row["inputs"].get(role) for role in other.inputs(f"watch_{place}")]
    if (ours, term.rule, term.options) != (theirs, other.rule, other.options):
        raise AlignmentError(f"{context.stage}: {term.label} is another scorer here than under {name}'s `watch`")


def _trace(context: RunContext, settings: OverOptimisationSettings, row: Mapping[str, Any]) -> Trace:
    """Reads a PPO stage's log. Steps without a KL, or without all the scores, are no points and are counted.

    Raises AlignmentError for no log, or one that an earlier version wrote.
    """
    path = context.run_dir / row["folder"] / "train_log.jsonl"
    weights = {f"{SCORES}/{term.label}": term.weight for term in settings.gold}
    steps: list[Step] = []
    left_out = 0
    lines = _log(path)
    if lines and not any(KL in line for line in lines):
        raise AlignmentError(
            f"{path}: logs no {KL}, which the distance is made of; it is from an earlier version: delete the folder "
            f"{path.parent} and run the recipe again"
        )
    for line in lines:
        logged = {**line, SCORES: line.get(RAW, line.get(SCORES))}  # the proxy on its own scale, before any penalty
        values = {key: float(logged[key]) for key in (KL, SCORES, *weights) if logged.get(key) is not None}
        if len(values) < 2 + len(weights):
            left_out += 1
            continue
        gold = sum(weight * values[key] for key, weight in weights.items())
        steps.append(Step(int(logged["step"]), values[KL], values[SCORES], gold))
    return Trace(steps, left_out)


def _log(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise AlignmentError(f"{path}: not found; run the recipe again to make it")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if row.get("split") == "train"]


def _answers(
    context: RunContext, settings: OverOptimisationSettings, ppo: Mapping[str, Any]
) -> tuple[Prompts, int, list[list[str]]]:
    """The prompts answered, of how many that PPO draws from, and `n` answers to each, sampled as PPO samples."""
    from alignment.stages import policy
    from alignment.stages.prompts import prompt_rows
    from alignment.stages.sampling import stage_seed, window
    from alignment.training.rollouts import rollouts

    model, tokenizer = policy.load(context, None, settings.share_prefixes)
    lengths = ppo["max_prompt_length"], ppo["max_new_tokens"], context_length(model), ppo["long_prompts"]
    found = prompt_rows(context, "prompts", tokenizer, *lengths)
    n_prompts = len(found.rows)
    rows = window(found.rows, 0, settings.limit)
    if len(rows) < n_prompts:
        dropped = {**found.use.dropped, "over the limit": n_prompts - len(rows)}
        context.say(f"{context.stage}: {len(rows)} of them are answered")
        found = found._replace(rows=rows, use=replace(found.use, n_used=len(rows), dropped=dropped))
    made = rollouts(
        model,
        tokenizer,
        [row.ids for row in found.rows],
        max_new_tokens=ppo["max_new_tokens"],
        temperature=ppo["temperature"],
        samples=settings.n,
        seeds=[(stage_seed(context), place) for place in range(len(found.rows))],
        ids=[row.id for row in found.rows],
        say=lambda line: context.say(f"{context.stage}: {line}"),
    )
    return found, n_prompts, [[answer.text for answer in answers] for answers in made]


def _proxy(context: RunContext, settings: OverOptimisationSettings, ref: str, name: str) -> CheckedScorer:
    from alignment.scorers import CheckedScorer, Term, reward_model_from

    share = settings.share_prefixes
    return CheckedScorer(
        [Term(name, reward_model_from(ref, context.registry, name=name, share=share, say=context.say))]
    )


def _scored(scorer: CheckedScorer, prompts: Prompts, texts: Sequence[Sequence[str]]) -> Any:
    """(P, N) scores of the answers to each prompt."""
    rows = [(row, text) for row, answers in zip(prompts.rows, texts, strict=True) for text in answers]
    scored = scorer.score([row.id for row, _ in rows], [row.messages for row, _ in rows], [text for _, text in rows])
    return scored.scores.astype(float).reshape(len(texts), -1)


def _sum(gold: Sequence[ScorerTerm]) -> str:
    """`2 × finished + plain`."""
    return " + ".join(term.label if term.weight == 1 else f"{term.weight:g} × {term.label}" for term in gold)
