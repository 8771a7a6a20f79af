"""Evaluation of every model of the run: on held-out data, and by the benchmarks of suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from alignment.atomic import json_digest
from alignment.errors import DataError, RecipeError, nearest
from alignment.evaluation.data import ENDINGS
from alignment.evaluation.suites import FILES, Chosen, choose
from alignment.preferences.sources import source_digest
from alignment.runs import DataUse, RunContext, StageResult
from alignment.stages.evaluation_gate import ForgettingGate, check_gate, enforce
from alignment.stages.settings import DataNeed, Found, Made, StageSettings, hand_off

if TYPE_CHECKING:
    from alignment.evaluation.benchmarks.benchmark import EvalContext
    from alignment.evaluation.judges import Judge
    from alignment.preferences.sources import DataSpec
    from reward.scorer import Scorer

SCORER_ROLE = "reward model "  # in front of its name, an input role no stage can be named
JUDGE_ROLE = "language judge"
ENDPOINTS = ("http://", "https://")


class EvaluateSettings(StageSettings):
    """Which models, on which held-out records, judged by what.

    `suites`: named suites, all their benchmarks whose data is at hand, and single benchmarks, which have to run, as
    those of `options` have. Policies may be left out where only scorers are evaluated.
    """

    models: list[str] = Field([])
    suites: list[str] = Field(["helpfulness", "bias", "forgetting"], min_length=1)
    data: str
    split: str = "test"
    # reward stages or references; auto: the last earlier one, if there is one; none: without
    reward: str | list[str] = "auto"
    scorers: list[str] = Field(["reference_f1", "finished", "plain"])  # judges that no stage of the run was trained on
    baseline: str | None = None  # win rates are against it; default: sft if it is among the models, else the first
    max_new_tokens: int = Field(128, ge=1)
    limit: int | None = Field(None, ge=1)  # of held-out prompts
    items: int | None = Field(None, ge=1)  # of every other benchmark
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)  # benchmark -> options: {bbq: {data: Age.jsonl}}
    hub: bool = False  # fetch what is not at hand; without it a run is the same offline
    judge: str | None = None  # a language model that compares answers: a stage, a reference, or URL#NAME
    forgetting: ForgettingGate | None = None
    share_prefixes: bool = True  # false: run padded, for architectures that cannot share

    @field_validator("models")
    @classmethod
    def no_repeats(cls, models: list[str]) -> list[str]:
        if len(set(models)) < len(models):
            raise ValueError("a model is named twice")
        return models

    @field_validator("suites")
    @classmethod
    def no_files(cls, suites: list[str]) -> list[str]:
        if named := [suite for suite in suites if suite.endswith(tuple(FILES))]:
            raise ValueError(f"{named[0]} is a suite file; say what is in it by `suites` and `options` here")
        return suites

    @property
    def against(self) -> str | None:
        return self.baseline or ("sft" if "sft" in self.models else next(iter(self.models), None))

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        if self.against is not None and self.against not in self.models:
            raise RecipeError(
                f"{stage}: baseline {self.against!r} is not among models: {', '.join(self.models) or 'none'}"
            )
        roles = {name: hand_off(name, stage, earlier, "policy") for name in self.models}
        if self.reward == "auto":
            rewards = [made.name for made in earlier if made.produces == "reward"][-1:]
        elif self.reward == "none":
            rewards = []
        else:
            rewards = [self.reward] if isinstance(self.reward, str) else self.reward
        roles |= {f"{SCORER_ROLE}{name}": hand_off(name, stage, earlier, "reward") for name in rewards}
        if self.judge is not None and not self.judge.startswith(ENDPOINTS):
            roles[JUDGE_ROLE] = hand_off(self.judge, stage, earlier, "policy")
        return roles

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"heldout": DataNeed(self.data, self.split, "heldout")}

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        from alignment.stages.reference_answers import reference_answers

        _rules(stage, self.scorers, reference_answers(found.records, spec.criterion))

    def files(self) -> dict[str, str]:
        found = {}
        for benchmark, options in self.options.items():
            for option, value in options.items():
                sources = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
                for number, source in enumerate(sources):
                    if not isinstance(source, str) or source.startswith("hf:"):  # which names its revision
                        continue
                    if option == "data" or source.endswith(ENDINGS):
                        found[f"{benchmark}.{option}.{number}"] = source
        return found


def check(stage: str, settings: EvaluateSettings) -> None:
    """Suites and scorers exist, policies and a judge where they are needed, and the data of what has to run.

    Raises RecipeError with the nearest name, and as the benchmarks do for data that is not at hand.
    """
    from alignment.evaluation.benchmarks.benchmark import EvalContext, EvalSettings
    from alignment.evaluation.data import Hub
    from alignment.evaluation.suite import check_ready
    from reward.rules import RULES, with_options

    chosen = _chosen(stage, settings)
    needing = [benchmark.name for benchmark in chosen.benchmarks.values() if benchmark.needs_policy()]
    if not settings.models and needing:
        raise RecipeError(f"{stage}: models: needed for {', '.join(needing)}; name at least one policy")
    for role, source in settings.files().items():
        if source_digest(source) is None:
            raise RecipeError(f"{stage}: options: {role.rpartition('.')[0]}: {source}: not found")
    if settings.forgetting is not None:
        forgetting = [name for name, one in chosen.benchmarks.items() if one.suite == "forgetting"]
        check_gate(stage, settings.forgetting, settings.models, list(chosen.benchmarks), forgetting)
    for name in settings.scorers:
        if name not in RULES:
            raise RecipeError(f"{stage}: scorers: unknown {name!r}{nearest(name, RULES)}")
        try:
            with_options(name, {})
        except ValueError as error:
            raise RecipeError(f"{stage}: scorers: {error}") from error
    limits = EvalSettings(items=settings.items)
    nothing = EvalContext({}, _nobody, Path(), 0, settings=limits, hub=Hub(settings.hub), say=lambda line: None)
    check_ready(replace(nothing, optional=chosen.optional), chosen.benchmarks, judge=settings.judge is not None)


def _nobody(name: str) -> Any:
    raise AssertionError(f"{name}: no model is loaded before a run begins")


def _chosen(stage: str, settings: EvaluateSettings) -> Chosen:
    try:
        return choose(settings.suites, settings.options)
    except RecipeError as error:
        raise RecipeError(f"{stage}: {error}") from error


def run(context: RunContext, settings: EvaluateSettings) -> StageResult:
    from alignment.evaluation.suite import run_suites
    from alignment.stages.reference_answers import reference_answers
    from alignment.stages.rows import load

    loaded = load(context, "heldout")
    answers = reference_answers(loaded.records, context.data["heldout"].criterion)
    chosen = _chosen(context.stage, settings)
    left_out: list[str] = []

    def say(line: str) -> None:
        context.say(f"{context.stage}: {line}")
        if any(line.startswith(f"{name}: not run: ") for name in chosen.optional):
            left_out.append(line)

    evaluation = replace(
        _context(context, settings, answers), records=loaded.records, optional=chosen.optional, say=say
    )
    results = run_suites(evaluation, list(chosen.benchmarks), chosen.benchmarks)
    if settings.forgetting is not None and settings.forgetting.limits:
        enforce(context.stage, settings.forgetting, results, evaluation.forgetting_reference(), say)
    used = len(evaluation.held_out())
    unused = {"over the limit": len(loaded.records) - used, "refused by the importer": len(loaded.refused)}
    spec = context.data["heldout"]
    use = DataUse(
        "heldout",
        f"{spec.source} ({spec.split})",
        context.data_digests["heldout"],
        len(loaded.records),
        used,
        {reason: count for reason, count in unused.items() if count},
    )
    primary = {f"{r.benchmark}/{r.metric}/{r.model}": r.value for r in results if r.primary and r.value is not None}
    return StageResult(metrics=primary, data=(use,), notes=tuple(left_out))


def _context(context: RunContext, settings: EvaluateSettings, answers: Mapping[str, str]) -> EvalContext:
    """All but the records and what the benchmarks need."""
    from alignment.evaluation.benchmarks.benchmark import EvalContext, EvalSettings
    from alignment.evaluation.data import Hub
    from alignment.evaluation.lineage import starts
    from alignment.models import read_chat_template
    from alignment.sources import cache_folder

    scorers, scorer_ids, trained = _scorers(context, settings, answers)
    models = {name: context.input_digests[name] for name in settings.models}
    if context.chat_template is not None:  # a template of the recipe's own is part of what answers
        template = read_chat_template(context.chat_template)
        models = {name: json_digest({"model": digest, "template": template}) for name, digest in models.items()}
    return EvalContext(
        models=models,
        load=lambda name: _policy(context, name, settings.share_prefixes),
        out_dir=context.folder,
        run_dir=context.run_dir,
        seed=context.seed,
        baseline=settings.against or "",
        criterion=context.data["heldout"].criterion,
        scorers=scorers,
        scorer_ids=scorer_ids,
        trained_scorers=trained,
        references=answers,
        settings=EvalSettings(max_new_tokens=settings.max_new_tokens, limit=settings.limit, items=settings.items),
        hub=Hub(settings.hub),
        cache=cache_folder() / "predictions",
        judge=_judge(context, settings),
        starts=starts(models, context.registry),
        learned_at=settings.forgetting.learned_at if settings.forgetting is not None else {},
    )


def _judge(context: RunContext, settings: EvaluateSettings) -> Judge | None:
    from alignment.evaluation.judges import judge_from

    if settings.judge is None:
        return None
    return judge_from(context.inputs.get(JUDGE_ROLE, settings.judge), context.registry, context.say)


def _scorers(
    context: RunContext, settings: EvaluateSettings, references: Mapping[str, str]
) -> tuple[dict[str, Scorer], dict[str, str], frozenset[str]]:
    """Judges by name, what each one is, and which of them the run was trained on."""
    from alignment.scorers import reward_model_from

    scorers = _rules(context.stage, settings.scorers, references)
    ids = {name: f"rule {name}" for name in scorers}
    trained = {role: role.removeprefix(SCORER_ROLE) for role in context.inputs if role.startswith(SCORER_ROLE)}
    shared = settings.share_prefixes
    models = {
        name: reward_model_from(context.inputs[role], context.registry, name=name, share=shared, say=context.say)
        for role, name in trained.items()
    }
    digests = {name: context.input_digests[role] for role, name in trained.items()}
    return {**models, **scorers}, {**digests, **ids}, frozenset(models)


def _rules(stage: str, names: Sequence[str], references: Mapping[str, str]) -> dict[str, Scorer]:
    """Rules as judges. Raises DataError for references that contradict each other, or that a rule cannot read."""
    from alignment.stages.reference_answers import agreed
    from reward.rules import NEEDS_REFERENCE, RuleScorer

    scorers: dict[str, Scorer] = {}
    for name in names:
        answers = agreed(references, name, f"{stage}: scorers") if name in NEEDS_REFERENCE else None
        try:
            scorers[name] = RuleScorer(name, answers)
        except ValueError as error:
            raise DataError(f"{stage}: scorers: {error}") from error
    return scorers


def _policy(context: RunContext, name: str, share: bool) -> tuple[Any, Any]:
    from alignment.models import load_policy
    from alignment.runtime import pick_device
    from alignment.training.prefix_sharing import share_prefixes

    model, tokenizer = load_policy(
        context.inputs[name],
        context.registry,
        device=pick_device(),
        chat_template=context.chat_template,
        say=context.say,
    )
    return (share_prefixes(model) if share else model), tokenizer
