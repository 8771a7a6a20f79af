"""What a stage maximises or compares by, as a recipe says it: a reward model, or a weighted sum of models and rules."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from alignment.errors import DataError, RecipeError, nearest
from alignment.runs import RunContext
from alignment.scorer_names import OVERALL, term_label
from alignment.stages.settings import Made, hand_off

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord
    from alignment.preferences.sources import DataSpec
    from alignment.scorers import CheckedScorer, Term
    from alignment.stages.prompts import PromptRow
    from reward.scorer import Scorer

# reward.ensemble.AGGREGATES for a model with several heads, reward.steps.STEP_SCORES for one that rates steps; known
# here without torch
AGGREGATES = ("mean", "worst", "uncertainty", "product", "min")
OF_MEMBERS = AGGREGATES[:3]  # those of several models, too
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.@=-]{0,63}"  # what may follow objective/scores/


class ScorerTerm(BaseModel):
    """One term: a reward model (a stage or a model reference), several of them as one, or a rule, with its weight.

    `models` are an ensemble: separately trained reward models whose scores are on one scale. Each scores as it was
    trained to; `options` say how their scores become one (the mean, unless said), and how much they disagree is logged.

    `name` is what its scores are logged under; without it, the rule's or the stage's name, the end of the reference, or
    `ensemble`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    models: list[str] | None = Field(None, min_length=2)
    rule: str | None = None
    name: str | None = Field(None, pattern=f"^{_NAME}$")
    weight: float = Field(1.0, allow_inf_nan=False)
    # Of the rule, or how several heads or models become one score: {aggregate: ..., penalty: λ}. `uncertainty` is the
    # mean - λ variance (Coste et al. 2024); λ is what the heads were trained with, else 1, unless said.
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def makes_sense(self) -> ScorerTerm:
        if sum(given is not None for given in (self.model, self.models, self.rule)) != 1:
            raise ValueError("a term is a `model`, several `models` or a `rule`")
        if self.weight == 0:
            raise ValueError("weight 0 counts for nothing; leave the term out, or put it under `watch`")
        if self.rule is not None:
            _check_rule(self.rule, self.options)
        else:
            _check_model_options(self.options, AGGREGATES if self.models is None else OF_MEMBERS)
        return self

    @property
    def label(self) -> str:
        """The name in results."""
        return term_label(self.model_dump(include={"name", "rule", "models", "model"}))

    def inputs(self, role: str) -> dict[str, str]:
        """Input role -> model: `role` itself for one model, `role`_1... for several, nothing for a rule."""
        if self.models is not None:
            return {f"{role}_{place}": model for place, model in enumerate(self.models, 1)}
        return {} if self.model is None else {role: self.model}


def _kind(value: Any) -> str | None:
    return "name" if isinstance(value, str) else "terms" if isinstance(value, list) else None


# A model reference, `auto` (the last reward model made before the stage), or terms that are summed.
Reward = Annotated[
    Annotated[str, Tag("name")] | Annotated[list[ScorerTerm], Tag("terms")],
    Discriminator(
        _kind,
        custom_error_type="reward",
        custom_error_message="a reward is a model's name or a list of terms, such as [{rule: finished}]",
    ),
]


def scorer_inputs(reward: Reward, stage: str, earlier: list[Made]) -> dict[str, str]:
    """Input role -> reward model: `reward` for a single one, `reward_1`... by its place among the terms.

    The models of an ensemble in place 1 are `reward_1_1`, `reward_1_2`... Raises RecipeError for no terms, two of one
    name, a model that no earlier stage makes, and an ensemble that names a model twice.
    """
    roles = _reward_roles(reward)
    _check_names(stage, "reward", list(roles.values()))
    if not roles:
        raise RecipeError(f"{stage}: reward: there is nothing to score by; name a reward model or a rule")
    return _inputs(roles, stage, earlier)


def watch_inputs(
    watch: Sequence[ScorerTerm], stage: str, earlier: list[Made], reward: Reward | None = None
) -> dict[str, str]:
    """Input role -> reward model that is only watched: `watch_1`... by its place among the terms.

    `reward`: what the stage maximises, whose terms are logged beside these and must have other names. Raises
    RecipeError as `scorer_inputs` does, and for a weight.
    """
    beside = [] if reward is None else list(_reward_roles(reward).values())
    _check_names(stage, "watch", [*beside, *watch])
    weighted = next((term.label for term in watch if term.weight != 1.0), None)
    if weighted is not None:
        raise RecipeError(f"{stage}: watch: {weighted} has a weight, but what is watched is not summed; leave it out")
    return _inputs(_watch_roles(watch), stage, earlier)


def load_scorer(context: RunContext, reward: Reward, references: Mapping[str, str], share: bool) -> CheckedScorer:
    """What the stage maximises, ready to score.

    Args:
        context: of the stage; its inputs hold the models of `scorer_inputs`.
        reward: as in the recipe.
        references: `reward.rules.prompt_text(prompt)` -> reference answer, for the rules that compare with one.
        share: reward models run what rows have in common once.

    Raises:
        DataError: a rule needs reference answers and there are none, one that it cannot read, or two to one prompt.
        RecipeError: an aggregate or a penalty that the reward model does not have.
        ModelError: as `alignment.scorers.reward_model_from`.
    """
    from alignment.scorers import CheckedScorer

    return CheckedScorer(_load(context, _reward_roles(reward), references, share))


def load_watch(
    context: RunContext, watch: Sequence[ScorerTerm], references: Mapping[str, str], share: bool
) -> CheckedScorer | None:
    """What is only watched: its `terms` count, not their sum. None when nothing is. As `load_scorer`."""
    from alignment.scorers import CheckedScorer

    return CheckedScorer(_load(context, _watch_roles(watch), references, share)) if watch else None


def check_references(
    stage: str, records: Sequence[PreferenceRecord], spec: DataSpec, *scorers: Reward | Sequence[ScorerTerm]
) -> None:
    """Raises DataError for records without any reference answer, where a rule of `scorers` compares with one.

    And, as the stage will, for judgements by several criteria of which none was chosen.
    """
    from alignment.stages.reference_answers import references
    from reward.rules import NEEDS_REFERENCE

    found = references(records, spec.criterion)
    for term in (term for terms in scorers if not isinstance(terms, str) for term in terms):
        if term.rule in NEEDS_REFERENCE and not found:
            raise _no_reference(stage, term, spec.source)


def check_prompts(rows: Sequence[PromptRow], *scorers: CheckedScorer | None, answer_tokens: int) -> None:
    """Raises, before anything is answered, as `CheckedScorer.check_prompts` for answers of so many tokens."""
    for scorer in scorers:
        if scorer is not None:
            scorer.check_prompts([row.id for row in rows], [row.messages for row in rows], answer_tokens)


def _load(
    context: RunContext, roles: Mapping[str, ScorerTerm], references: Mapping[str, str], share: bool
) -> list[Term]:
    from alignment.scorers import Term

    made = []
    for role, term in roles.items():
        if term.rule is not None:
            scorer = _rule(context, term, references)
        elif term.models is not None:
            scorer = _ensemble(context, role, term, share)
        else:
            scorer = _model(context, context.inputs[role], term.label, share, term.options)
        made.append(Term(term.label, scorer, term.weight))
    return made


def _rule(context: RunContext, term: ScorerTerm, references: Mapping[str, str]) -> Scorer:
    from alignment.stages.reference_answers import agreed
    from reward.rules import NEEDS_REFERENCE, RuleScorer

    rule, where = term.rule or "", f"{context.stage}: {term.label}"
    needs = rule in NEEDS_REFERENCE
    if needs and not references:
        raise _no_reference(context.stage, term, ", ".join(spec.source for spec in context.data.values()))
    try:
        return RuleScorer(rule, agreed(references, rule, where) if needs else None, term.options)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _no_reference(stage: str, term: ScorerTerm, sources: str) -> DataError:
    return DataError(
        f"{stage}: {term.label}: rule {term.rule} compares with reference answers, and {sources} has none; use records "
        "with a response by the generator `reference` or a best-ranked one, or another rule"
    )


def _model(context: RunContext, ref: str, name: str, share: bool, options: Mapping[str, Any]) -> Scorer:
    from alignment.scorers import reward_model_from
    from reward.model import RewardModel

    try:
        scorer = reward_model_from(ref, context.registry, name=name, share=share, say=context.say, **options)
    except ValueError as error:
        raise RecipeError(f"{context.stage}: {ref}: {error}") from error
    if "aggregate" in options and isinstance(scorer, RewardModel) and scorer.heads == 1:
        raise RecipeError(f"{context.stage}: {ref} has one head, so there is nothing to aggregate; leave aggregate out")
    return scorer


def _ensemble(context: RunContext, role: str, term: ScorerTerm, share: bool) -> Scorer:
    from reward.ensemble import ScorerEnsemble

    refs = [context.inputs[member] for member in term.inputs(role)]
    members = [_model(context, ref, ref, share, {}) for ref in refs]
    return ScorerEnsemble(members, name=term.label, **term.options)


def _reward_roles(reward: Reward) -> dict[str, ScorerTerm]:
    if isinstance(reward, str):
        return {"reward": ScorerTerm(model=reward)}
    return {f"reward_{place}": term for place, term in enumerate(reward, 1)}


def _watch_roles(watch: Sequence[ScorerTerm]) -> dict[str, ScorerTerm]:
    return {f"watch_{place}": term for place, term in enumerate(watch, 1)}


def _inputs(roles: Mapping[str, ScorerTerm], stage: str, earlier: list[Made]) -> dict[str, str]:
    found: dict[str, str] = {}
    for role, term in roles.items():
        own = {member: hand_off(model, stage, earlier, "reward") for member, model in term.inputs(role).items()}
        twice = next((model for model, count in Counter(own.values()).items() if count > 1), None)
        if twice is not None:
            raise RecipeError(f"{stage}: {term.label}: {twice} is named twice; an ensemble has different models")
        found |= own
    return found


def _check_names(stage: str, key: str, terms: Sequence[ScorerTerm]) -> None:
    seen: set[str] = set()
    for term in terms:
        if not re.fullmatch(_NAME, term.label):
            raise RecipeError(f"{stage}: {key}: {term.model} gives no name to log scores under; give the term a `name`")
        if term.label == OVERALL:
            raise RecipeError(
                f"{stage}: {key}: a term is called {OVERALL!r}, as the weighted sum is; give it another `name:`"
            )
        if term.label in seen:
            raise RecipeError(f"{stage}: {key}: two terms are called {term.label!r}; give one a `name` of its own")
        seen.add(term.label)


def _check_rule(rule: str, options: Mapping[str, Any]) -> None:
    from reward.rules import RULES, with_options

    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}{nearest(rule, RULES)}")
    with_options(rule, options)


def _check_model_options(options: Mapping[str, Any], aggregates: Sequence[str]) -> None:
    known = ("aggregate", "penalty")
    for key in options:
        if key not in known:
            raise ValueError(f"a model's options are aggregate and penalty, not {key!r}{nearest(key, known)}")
    aggregate, penalty = options.get("aggregate"), options.get("penalty")
    if "aggregate" in options and aggregate not in aggregates:
        raise ValueError(f"unknown aggregate {aggregate!r}{nearest(str(aggregate), aggregates)}")
    if "penalty" not in options:
        return
    if aggregate != "uncertainty":
        raise ValueError("penalty is the weight of the variance; it needs aggregate: uncertainty beside it")
    if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 0 < penalty < math.inf:
        raise ValueError(f"penalty must be a number above 0, not {penalty!r}")
