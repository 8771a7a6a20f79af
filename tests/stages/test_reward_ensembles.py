"""Several opinions as a reward: heads on one trunk and models trained apart, with a penalty on their disagreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tiny_run import training_log
from tiny_sampling import made, run

from alignment.errors import AlignmentError, RecipeError
from alignment.model_entry import ModelEntry
from alignment.recipe import parse_recipe
from alignment.registry import ModelRegistry
from alignment.scorers import CheckedScorer, Term, reward_model_from
from alignment.stages import scoring
from alignment.stages.reward import RewardSettings
from alignment.stages.scoring import ScorerTerm, scorer_inputs, watch_inputs
from alignment.stages.settings import Made
from reward.ensemble import ScorerEnsemble
from reward.model import RewardModel

EARLIER = [Made("sft", "policy"), Made("a", "reward"), Made("b", "reward")]
STEP = {"max_steps": 1, "per_device_train_batch_size": 4, "save_strategy": "no", "learning_rate": 1e-2}
PENALTY = 3.0


def term(**given: Any) -> ScorerTerm:
    return ScorerTerm.model_validate(given)


# --- what a recipe says ----------------------------------------------------------------------------------------------


def test_the_members_are_inputs_of_their_own() -> None:
    reward = [term(rule="length"), term(models=["a", "auto", "gold@2"][1:]), term(models=["a", "b"], name="pair")]
    assert scorer_inputs(reward, "ppo", EARLIER) == {
        "reward_2_1": "b",
        "reward_2_2": "gold@2",
        "reward_3_1": "a",
        "reward_3_2": "b",
    }
    assert [one.label for one in reward] == ["length", "ensemble", "pair"]
    assert watch_inputs([term(models=["a", "b"])], "ppo", EARLIER) == {"watch_1_1": "a", "watch_1_2": "b"}


def test_rounds_name_their_own_members() -> None:
    judge = {"data": "prefs"}
    ppo = {"data": "prefs", "reward": [{"models": ["first", "second"]}]}
    stages = [{"reward": {"name": "first", **judge}}, {"reward": {"name": "second", **judge}}, {"ppo": ppo}]
    raw = {
        "name": "x",
        "base": "path:x",
        "data": {"prefs": {"source": "x.jsonl"}},
        "stages": [{"repeat": {"rounds": 2, "stages": stages}}],
    }
    by_name = {stage.name: stage for stage in parse_recipe(raw, "x").stages}
    models = by_name["ppo_2"].models
    assert (models["reward_1_1"], models["reward_1_2"]) == ("first_2", "second_2")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ["a"]}, "at least 2 items"),
        ({"models": ["a", "b"], "model": "a"}, "a term is a `model`, several `models` or a `rule`"),
        ({"models": ["a", "b"], "rule": "length"}, "a term is a `model`, several `models` or a `rule`"),
        ({"models": ["a", "b"], "options": {"aggregate": "min"}}, "unknown aggregate 'min'"),
        ({"models": ["a", "b"], "options": {"agregate": "mean"}}, "not 'agregate'; nearest: aggregate"),
        ({"models": ["a", "b"], "options": {"penalty": 2}}, "it needs aggregate: uncertainty beside it"),
        ({"model": "a", "options": {"aggregate": "mean", "penalty": 2}}, "it needs aggregate: uncertainty beside it"),
        *(
            ({"model": "a", "options": {"aggregate": "uncertainty", "penalty": wrong}}, "penalty must be a number abov")
            for wrong in (0, -1, True, "2", float("inf"), float("nan"))
        ),
    ],
)
def test_what_makes_no_sense_is_an_error_when_the_recipe_is_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        term(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"penalty": 2}, "penalty belongs to aggregate: uncertainty, not to mean"),
        ({"heads": 2, "aggregate": "worst", "penalty": 2}, "not to worst"),
        ({"heads": 2, "aggregate": "uncertainty", "penalty": 0}, "greater than 0"),
    ],
)
def test_a_penalty_of_heads_needs_its_aggregate(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardSettings(data="prefs", **given)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["a", "c"], "ppo: needs the output of 'c', but no earlier stage makes it; there are: base, a, b"),
        (["a", "sft"], "ppo: needs a reward model, but stage sft makes policy"),
        (["b", "auto"], "ppo: ensemble: b is named twice; an ensemble has different models"),
    ],
)
def test_members_that_do_not_fit_the_recipe(models: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        scorer_inputs([term(models=models)], "ppo", EARLIER)


# --- whole stages ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Three reward models, one of three heads, and stages that learn from it and from the other two as one."""
    folder = tmp_path_factory.mktemp("ensembles")
    heads = {"heads": 3, "aggregate": "uncertainty", "penalty": PENALTY}
    common: dict[str, Any] = {"data": "prefs", "model": "base", "max_new_tokens": 6, "trainer": STEP | {"max_steps": 2}}
    ppo = common | {"batch_size": 8, "trainer": {"max_steps": 2}}
    of_heads: dict[str, Any] = {
        "reward": "heads",  # as it was trained to score
        "watch": [
            {"model": "heads", "name": "mean", "options": {"aggregate": "mean"}},
            {"model": "heads", "name": "one", "options": {"aggregate": "uncertainty", "penalty": 1.0}},
        ],
    }
    pair = {"models": ["a", "b"], "name": "pair", "options": {"aggregate": "uncertainty", "penalty": PENALTY}}
    of_two: dict[str, Any] = {"reward": [pair], "watch": [{"model": "a"}, {"model": "b"}]}
    best = {"data": "prefs", "model": "base", "n": 2, "limit": 4, "max_new_tokens": 6}
    stages = [
        {"reward": {"name": "heads", "data": "prefs", "trainer": STEP, **heads}},
        {"reward": {"name": "a", "data": "prefs", "trainer": STEP, "seed": 1}},
        {"reward": {"name": "b", "data": "prefs", "trainer": STEP, "seed": 2}},
        {"ppo": {"name": "ppo-heads", **ppo, **of_heads}},
        {"rloo": {"name": "rloo-heads", **common, **of_heads}},
        {"ppo": {"name": "ppo-two", **ppo, **of_two}},
        {"rloo": {"name": "rloo-two", **common, **of_two}},
        {"best_of_n": {**best, **of_two}},
    ]
    return folder, run(folder, tiny_model_dir, stages)[1]


def samples(folder: Path, stage: str) -> list[dict[str, Any]]:
    (path,) = folder.glob(f"runs/tiny/stages/{stage}-*/samples.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["ppo", "rloo"])
def test_uncertain_heads_cost_what_the_penalty_says(kind: str, trained: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, _ = trained
    for row in samples(folder, f"{kind}-heads"):
        mean, one = row["terms"]["mean"], row["terms"]["one"]
        assert one < mean
        assert mean - row["score"] == pytest.approx(PENALTY * (mean - one), rel=1e-3, abs=1e-6)
    for logged in training_log(folder, f"{kind}-heads"):
        assert logged["objective/score_spread"] > 0
        assert logged["objective/scores"] < logged["objective/scores/mean"]


@pytest.mark.parametrize("kind", ["ppo", "rloo"])
def test_models_trained_apart_are_one_reward(kind: str, trained: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, rows = trained
    found = samples(folder, f"{kind}-two")
    for row in found:
        a, b = row["terms"]["a"], row["terms"]["b"]
        assert row["score"] == pytest.approx((a + b) / 2 - PENALTY * ((a - b) / 2) ** 2, rel=1e-4, abs=1e-5)
        assert row["score"] == row["terms"]["pair"]
    assert any(row["terms"]["a"] != row["terms"]["b"] for row in found)
    assert all(logged["objective/score_spread"] > 0 for logged in training_log(folder, f"{kind}-two"))
    inputs = rows[f"{kind}-two"]["inputs"]
    assert (inputs["reward_1_1"], inputs["reward_1_2"]) == ("tiny-a@1", "tiny-b@1")
    entry: ModelEntry = ModelRegistry(folder / "registry").get(f"tiny-{kind}-two@1")
    assert entry.metrics["objective/score_spread"] > 0


def test_an_ensemble_is_named_as_the_annotator(trained: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, rows = trained
    annotators = {j.annotator for record in made(folder, rows["best_of_n"]) for j in record.judgements}
    assert {(one.id, one.kind) for one in annotators} == {("uncertainty 3 (tiny-a@1, tiny-b@1)", "model")}


def test_heads_remember_their_penalty(trained: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, _ = trained
    registry = ModelRegistry(folder / "registry")
    asked = [[{"role": "user", "content": "Where?"}]] * 2, ["On the mat.", "no"]
    kept, other = (reward_model_from("tiny-heads@1", registry, **given) for given in ({}, {"aggregate": "uncertainty"}))
    assert isinstance(kept, RewardModel)
    each = kept.head_scores(*asked)
    np.testing.assert_allclose(kept.score(*asked), each.mean(axis=1) - PENALTY * each.var(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(other.score(*asked), kept.score(*asked))  # the same rule named: the same penalty
    given = reward_model_from("tiny-heads@1", registry, aggregate="uncertainty", penalty=1.0)
    np.testing.assert_allclose(given.score(*asked), each.mean(axis=1) - each.var(axis=1), rtol=1e-5)
    mean = reward_model_from("tiny-heads@1", registry, aggregate="mean")  # to which no penalty belongs
    np.testing.assert_allclose(mean.score(*asked), each.mean(axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="a penalty belongs to the aggregate uncertainty, not to worst; leave it out"):
        reward_model_from("tiny-heads@1", registry, aggregate="worst", penalty=2.0)


# --- members that fail -----------------------------------------------------------------------------------------------


class Says:
    def __init__(self, name: str, *scores: float) -> None:
        self.name, self.scores = name, scores

    def score(self, prompts: Any, responses: Any) -> Any:
        return np.asarray(self.scores, dtype=np.float32)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((1.0, np.nan), "prompt q: scorer pair: the score of b@1 is nan; it must be finite"),
        ((1.0, np.inf), "prompt q: scorer pair: the score of b@1 is inf"),  # the worst member would hide it
        ((1.0,), r"scorer pair failed \(ValueError: b@1 gave scores of shape \(1,\) for 2 responses"),
    ],
)
def test_a_member_that_fails_is_named(scores: tuple[float, ...], message: str) -> None:
    pair = ScorerEnsemble([Says("a@1", 0.0, 0.0), Says("b@1", *scores)], "worst", "pair")
    with pytest.raises(AlignmentError, match=message):
        CheckedScorer([Term("pair", pair)]).score(["p", "q"], [[{"role": "user", "content": "?"}]] * 2, ["x", "y"])


def test_what_is_known_without_torch_equals_the_table() -> None:
    from reward.ensemble import AGGREGATES

    assert set(scoring.OF_MEMBERS) == set(AGGREGATES)
