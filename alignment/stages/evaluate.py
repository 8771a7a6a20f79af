"""Evaluation of every model of the run on held-out data: helpfulness, bias, forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from alignment.errors import RecipeError, nearest
from alignment.runs import DataUse, RunContext, StageResult
from alignment.stages.settings import DataNeed, Made, StageSettings, hand_off

if TYPE_CHECKING:
    from reward.scorer import Scorer

SCORER_ROLE = "reward model"  # an input role no stage can be named


class EvaluateSettings(StageSettings):
    """Which models, on which held-out records, judged by what."""

    models: list[str] = Field(min_length=1)
    suites: list[str] = Field(["helpfulness", "bias", "forgetting"], min_length=1)
    data: str
    split: str = "test"
    reward: str = "auto"  # a reward stage or reference; auto: the last earlier one, if there is one; none: without
    scorers: list[str] = Field(["reference_f1", "finished", "plain"])  # judges that no stage of the run was trained on
    baseline: str | None = None  # win rates are against it; default: sft if it is among the models, else the first
    max_new_tokens: int = Field(128, ge=1)
    limit: int | None = Field(None, ge=1)

    @field_validator("models")
    @classmethod
    def no_repeats(cls, models: list[str]) -> list[str]:
        if len(set(models)) < len(models):
            raise ValueError("a model is named twice")
        return models

    @property
    def against(self) -> str:
        return self.baseline or ("sft" if "sft" in self.models else self.models[0])

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        if self.against not in self.models:
            raise RecipeError(f"{stage}: baseline {self.against!r} is not among models: {', '.join(self.models)}")
        roles = {name: hand_off(name, stage, earlier, "policy") for name in self.models}
        rewards = [made.name for made in earlier if made.produces == "reward"]
        if self.reward == "auto" and rewards:
            roles[SCORER_ROLE] = rewards[-1]
        elif self.reward not in ("auto", "none"):
            roles[SCORER_ROLE] = hand_off(self.reward, stage, earlier, "reward")
        return roles

    def data_inputs(self) -> dict[str, DataNeed]:
        return {"heldout": DataNeed(self.data, self.split)}


def check(stage: str, settings: EvaluateSettings) -> None:
    """Suites and scorers exist. Raises RecipeError with the nearest name."""
    from alignment.evaluation.suite import check_suites
    from reward.rules import RULES

    try:
        check_suites(settings.suites)
    except RecipeError as error:
        raise RecipeError(f"{stage}: {error}") from error
    for name in settings.scorers:
        if name not in RULES:
            raise RecipeError(f"{stage}: scorers: unknown {name!r}{nearest(name, RULES)}")


def run(context: RunContext, settings: EvaluateSettings) -> StageResult:
    from alignment.evaluation.benchmarks.benchmark import EvalContext, EvalSettings
    from alignment.evaluation.suite import run_suites
    from alignment.models import load_policy
    from alignment.runtime import pick_device
    from alignment.stages.rows import load, references
    from reward.rules import prompt_text

    loaded = load(context, "heldout")
    by_record = references(loaded.records)
    answers = {
        prompt_text([m.model_dump() for m in record.prompt.messages]): by_record[record.id]
        for record in loaded.records
        if record.id in by_record
    }
    scorers, scorer_ids, trained = _scorers(context, settings, answers)
    evaluation = EvalContext(
        models={name: context.input_digests[name] for name in settings.models},
        load=lambda name: load_policy(
            context.inputs[name],
            context.registry,
            device=pick_device(),
            chat_template=context.chat_template,
            say=context.say,
        ),
        out_dir=context.folder,
        run_dir=context.run_dir,
        seed=context.seed,
        baseline=settings.against,
        records=loaded.records,
        criterion=context.data["heldout"].criterion,
        scorers=scorers,
        scorer_ids=scorer_ids,
        trained_scorers=trained,
        references=answers,
        settings=EvalSettings(max_new_tokens=settings.max_new_tokens, limit=settings.limit),
        say=lambda line: context.say(f"{context.stage}: {line}"),
    )
    results = run_suites(evaluation, settings.suites)
    used = min(len(loaded.records), settings.limit or len(loaded.records))
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
    return StageResult(metrics=primary, data=(use,))


def _scorers(
    context: RunContext, settings: EvaluateSettings, references: Mapping[str, str]
) -> tuple[dict[str, Scorer], dict[str, str], frozenset[str]]:
    """Judges by name, what each one is, and which of them the run was trained on."""
    from reward.rules import NEEDS_REFERENCE, RuleScorer

    scorers: dict[str, Scorer] = {}
    ids: dict[str, str] = {}
    for name in settings.scorers:
        scorers[name] = RuleScorer(name, references if name in NEEDS_REFERENCE else None)
        ids[name] = f"rule {name}"
    if SCORER_ROLE not in context.inputs:
        return scorers, ids, frozenset()
    name = context.inputs[SCORER_ROLE].partition("@")[0].removeprefix(f"{context.run}-")
    return (
        {name: _reward_model(context, name), **scorers},
        {name: context.input_digests[SCORER_ROLE], **ids},
        frozenset({name}),
    )


def _reward_model(context: RunContext, name: str) -> Scorer:
    import torch

    from alignment.models import load_reward
    from alignment.runtime import autocast_bf16, pick_device
    from alignment.training.tokens import text_encoder
    from reward.model import RewardModel

    device = pick_device()
    model, tokenizer = load_reward(context.inputs[SCORER_ROLE], context.registry, device=device, say=context.say)
    return RewardModel(
        model, text_encoder(tokenizer), name=name, autocast=torch.bfloat16 if autocast_bf16(device) else None
    )
