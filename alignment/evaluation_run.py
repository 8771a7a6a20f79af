"""An evaluation outside a recipe: models by reference, what judges them, and where the numbers go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import RecipeError
from alignment.sources import Say, cache_folder

if TYPE_CHECKING:
    from alignment.evaluation.benchmarks.benchmark import EvalContext
    from alignment.evaluation.result import EvalResult
    from alignment.evaluation.suites import Chosen
    from alignment.preferences.sources import DataSpec
    from alignment.registry import ModelRegistry
    from alignment.sources.resolve import ResolvedModel
    from reward.scorer import Scorer

RULES = ("reference_f1", "finished", "plain")  # judges that nothing was trained on
HELDOUT = "bundled:quickstart/heldout.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate. `models` are references; reward models among them are judges and subjects of their own."""

    models: Sequence[str]
    out: Path
    compare_to: str | None = None  # None: the first policy
    rewards: Sequence[str] = ()  # reward models that judge the answers
    training_rewards: Sequence[str] = ()  # the same, of those a policy was trained against: marked as such
    rules: Sequence[str] = RULES
    judge: str | None = None  # a model reference, or URL#MODEL of an OpenAI-compatible endpoint
    heldout: str = HELDOUT
    heldout_format: str = "records"
    heldout_split: str = "test"
    limit: int | None = None
    max_new_tokens: int = 128
    seed: int = 0
    hub: bool = True
    share_prefixes: bool = True
    cache: Path | None = field(default_factory=lambda: cache_folder() / "predictions")


def run(evaluation: Evaluation, chosen: Chosen, registry: ModelRegistry, say: Say) -> list[EvalResult]:
    """All results, also written to `out`: results.jsonl, the predictions, the answers.

    Raises RecipeError, ModelError, RegistryError, DataError, StorageError: one line with the fix.
    """
    from alignment.evaluation.suite import run_suites

    context = _context(evaluation, chosen, registry, say)
    needing = [benchmark.name for benchmark in chosen.benchmarks.values() if benchmark.needs_policy()]
    if not context.models and set(needing) - chosen.optional:
        raise RecipeError(f"{needing[0]}: needs a policy; name one")
    return run_suites(context, list(chosen.benchmarks), chosen.benchmarks)


def _context(evaluation: Evaluation, chosen: Chosen, registry: ModelRegistry, say: Say) -> EvalContext:
    from alignment.evaluation.benchmarks.benchmark import EvalContext, EvalSettings
    from alignment.evaluation.data import Hub
    from alignment.evaluation.judges import judge_from
    from alignment.evaluation.lineage import starts
    from alignment.preferences.sources import load
    from alignment.sources.resolve import resolve
    from alignment.stages.reference_answers import reference_answers

    judges = [*evaluation.rewards, *evaluation.training_rewards]
    named = [*evaluation.models, *judges] + ([evaluation.compare_to] if evaluation.compare_to else [])
    if len(set(evaluation.models)) < len(evaluation.models):
        raise RecipeError("a model is named twice")
    found = {ref: resolve(ref, registry, say=say) for ref in dict.fromkeys(named)}
    policies = [ref for ref, one in found.items() if one.role == "policy" and ref not in judges]
    rewards = [ref for ref, one in found.items() if one.role == "reward"]
    if wrong := [ref for ref in judges if ref not in rewards]:
        raise RecipeError(f"{wrong[0]}: is a policy, not a reward model; name it as a model")
    if evaluation.compare_to is not None and evaluation.compare_to not in policies:
        raise RecipeError(f"{evaluation.compare_to}: differences are from a policy, and this is a reward model")
    against = evaluation.compare_to or next(iter(policies), "")
    records = load(_heldout(evaluation)).records
    answers = reference_answers(records, None)
    scorers, ids = _scorers(evaluation, rewards, found, answers, registry, say)
    load_one = _loader(evaluation, registry, say)
    return EvalContext(
        models={ref: found[ref].digest for ref in policies},
        load=load_one,
        out_dir=evaluation.out,
        seed=evaluation.seed,
        baseline=against,
        origin=against,
        records=records,
        scorers=scorers,
        scorer_ids=ids,
        trained_scorers=frozenset(evaluation.training_rewards),
        references=answers,
        settings=EvalSettings(max_new_tokens=evaluation.max_new_tokens, limit=evaluation.limit, items=evaluation.limit),
        say=say,
        hub=Hub(evaluation.hub),
        cache=evaluation.cache,
        optional=chosen.optional,
        starts=starts({ref: found[ref].digest for ref in policies}, registry),
        judge=None if evaluation.judge is None else judge_from(evaluation.judge, registry, say),
    )


def _heldout(evaluation: Evaluation) -> DataSpec:
    """The held-out records, by the same division of prompts as in a recipe."""
    from pydantic import ValidationError

    from alignment.preferences.sources import DataSpec

    given = {"source": evaluation.heldout, "format": evaluation.heldout_format, "split": evaluation.heldout_split}
    try:
        return DataSpec.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise RecipeError(f"held-out records: {problem['loc'][0]}: {problem['msg']}") from None


def _loader(evaluation: Evaluation, registry: ModelRegistry, say: Say) -> Any:
    from alignment.evaluation.masked import is_masked
    from alignment.models import load_language_model, pick_device
    from alignment.training.prefix_sharing import share_prefixes

    def load_one(ref: str) -> tuple[Any, Any]:
        model, tokenizer = load_language_model(ref, registry, device=pick_device(), say=say)
        share = evaluation.share_prefixes and not is_masked(model)
        return (share_prefixes(model) if share else model), tokenizer

    return load_one


def _scorers(
    evaluation: Evaluation,
    rewards: Sequence[str],
    found: Mapping[str, ResolvedModel],
    answers: Mapping[str, str],
    registry: ModelRegistry,
    say: Say,
) -> tuple[dict[str, Scorer], dict[str, str]]:
    from alignment.scorers import reward_model_from
    from alignment.stages.reference_answers import agreed
    from reward.rules import NEEDS_REFERENCE, RULES, RuleScorer

    scorers: dict[str, Scorer] = {}
    ids: dict[str, str] = {}
    for name in evaluation.rules:
        if name not in RULES:
            from alignment.errors import nearest

            raise RecipeError(f"unknown rule {name!r}{nearest(name, RULES)}")
        try:
            scorers[name] = RuleScorer(name, agreed(answers, name, "scorers") if name in NEEDS_REFERENCE else None)
        except ValueError as error:
            raise RecipeError(f"rule {name}: {error}") from error
        ids[name] = f"rule {name}"
    for ref in rewards:
        share = evaluation.share_prefixes
        scorers[ref] = reward_model_from(ref, registry, name=ref, share=share, say=say)
        ids[ref] = found[ref].digest
    return scorers, ids
