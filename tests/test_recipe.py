"""Reading recipes: strictness, hand-off, overrides; every shipped recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.errors import RecipeError
from alignment.recipe import load_recipe, parse_recipe
from alignment.shipped import shipped_folder
from alignment.stages import STAGES

BASE: dict[str, Any] = {
    "name": "demo",
    "base": "path:/models/tiny",
    "data": {"prefs": {"source": "prefs.jsonl"}},
    "stages": [
        {"sft": {"data": "prefs"}},
        {"reward": {"data": "prefs"}},
        {"dpo": {"data": "prefs", "beta": 0.1}},
        {"evaluate": {"data": "prefs", "models": ["base", "sft", "dpo"]}},
        "report",
    ],
}


def changed(**stages: Any) -> dict[str, Any]:
    """BASE with the named stages' settings updated."""
    raw = yaml.safe_load(yaml.safe_dump(BASE))
    for item in raw["stages"]:
        if isinstance(item, dict):
            for kind, settings in item.items():
                settings.update(stages.get(kind, {}))
    return raw


@pytest.mark.parametrize("path", sorted(shipped_folder("recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_parses(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.head.description
    assert recipe.stages


def test_hand_off_is_automatic() -> None:
    recipe = parse_recipe(BASE, "demo.yaml")
    inputs = {s.name: dict(s.models) for s in recipe.stages}
    assert inputs["sft"] == {"model": "base"}
    assert inputs["reward"] == {"model": "sft"}
    assert inputs["dpo"] == {"model": "sft"}
    assert inputs["evaluate"] == {"base": "base", "sft": "sft", "dpo": "dpo", "reward model reward": "reward"}


def test_several_reward_models_are_evaluated_without_a_policy() -> None:
    reward = {"data": "prefs"}
    stages = [
        {"reward": {**reward, "name": "one"}},
        {"reward": {**reward, "name": "two"}},
        {"evaluate": {"data": "prefs", "suites": ["reward_accuracy"], "reward": ["one", "two"]}},
    ]
    recipe = parse_recipe({**BASE, "stages": stages}, "demo.yaml")
    assert dict(recipe.stages[-1].models) == {"reward model one": "one", "reward model two": "two"}
    STAGES["evaluate"].check("evaluate", recipe.stages[-1].settings)
    stages[-1] = {"evaluate": {"data": "prefs", "suites": ["forgetting"], "reward": "none"}}
    recipe = parse_recipe({**BASE, "stages": stages}, "demo.yaml")
    with pytest.raises(RecipeError, match=r"evaluate: models: needed for bits_per_byte, multiple_choice.*; name"):
        STAGES["evaluate"].check("evaluate", recipe.stages[-1].settings)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"dpo": {"betta": 0.2}}, r"demo.yaml: dpo: betta: unknown key; nearest: beta"),
        ({"dpo": {"beta": "much"}}, r"dpo: beta: .*valid number.*'much'"),
        ({"sft": {"peft": {"rank": 8}}}, r"sft: peft.rank: unknown key"),
        ({"dpo": {"model": "ppo"}}, r"needs the output of 'ppo', but no earlier stage makes it; there are: base, sft"),
        ({"dpo": {"model": "reward"}}, r"needs a policy model, but stage reward makes reward"),
        ({"evaluate": {"models": ["base", "ppo"]}}, r"needs the output of 'ppo'"),
        ({"evaluate": {"split": "train"}}, r"evaluates on prefs.jsonl split train, which sft trains on"),
        (
            {"sft": {"eval_split": "test", "early_stopping": {"metric": "eval_loss"}}},
            r"evaluates on prefs.jsonl split test, which sft chooses its best step by",
        ),
        ({"evaluate": {"baseline": "reward"}}, r"baseline 'reward' is not among models"),
        ({"sft": {"trainer": {"bf16": True, "fp16": True}}}, r"bf16 and fp16 are both on"),
        ({"sft": {"trainer": {"max_steps": 3, "num_train_epochs": 1}}}, r"keep one"),
        ({"reward": {"aggregate": "worst"}}, r"^demo.yaml: reward: aggregate needs several heads"),
        ({"sft": {"data": "preffs"}}, r"'preffs' is neither a name under `data:`, .*; nearest: prefs"),
    ],
)
def test_bad_settings_are_named(stages: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(changed(**stages), "demo.yaml")


def test_a_data_set_and_a_stages_records_have_names_of_their_own() -> None:
    named = {"prefs": {"source": "prefs.jsonl"}, "judged": {"source": "b.jsonl"}}
    rank = {"rank": {"data": "prefs", "name": "judged", "reward": [{"rule": "length"}]}}
    message = r"demo.yaml: stages\[0\].*: the records of this rank stage and a data set are both called 'judged'; give"
    for stages in ([rank], [{"repeat": {"rounds": 1, "stages": [rank]}}]):
        with pytest.raises(RecipeError, match=message):
            parse_recipe({**BASE, "data": named, "stages": stages}, "demo.yaml")
    sft = [{"sft": {"data": "judged", "name": "judged"}}]  # a policy is no data
    assert parse_recipe({**BASE, "data": named, "stages": sft}, "demo.yaml").stages[0].data["train"].source == "b.jsonl"


def test_a_split_stands_in_the_stage() -> None:
    raw = changed()
    raw["data"] = {name: spec | {"split": "test"} for name, spec in raw["data"].items()}
    with pytest.raises(RecipeError, match=r"data\.prefs\.split: each stage says which part it reads"):
        parse_recipe(raw, "demo.yaml")


def test_held_out_records_are_another_split_of_the_same_data() -> None:
    stages = {"sft": {"eval_split": "test"}, "dpo": {"eval_split": "validation"}}
    recipe = parse_recipe(changed(**stages), "demo.yaml")  # looking at the split of evaluate is no leak
    for stage in recipe.stages:
        held_out = stages.get(stage.name, {}).get("eval_split")
        if stage.stage.produces:
            assert {role: spec.split for role, spec in stage.data.items()} == (
                {"train": "train", "eval": held_out} if held_out else {"train": "train"}
            )


def test_unknown_stage_and_top_level_key() -> None:
    with pytest.raises(RecipeError, match=r"stages\[0\]: unknown stage 'sfft'; nearest: sft"):
        parse_recipe(BASE | {"stages": [{"sfft": {}}]}, "demo.yaml")
    with pytest.raises(RecipeError, match="sed: unknown key; nearest: seed"):
        parse_recipe(BASE | {"sed": 3}, "demo.yaml")
    with pytest.raises(RecipeError, match="two stages are called 'sft'"):
        parse_recipe(BASE | {"stages": [{"sft": {"data": "prefs"}}, {"sft": {"data": "prefs"}}]}, "demo.yaml")


def test_overrides_reach_stages_data_and_trainer(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(BASE))
    recipe = load_recipe(
        str(path), ["dpo.beta=0.2", "seed=7", "data.prefs.source=other.jsonl", "sft.trainer.learning_rate=5e-7"]
    )
    dpo = next(s for s in recipe.stages if s.name == "dpo")
    assert dpo.settings.beta == 0.2  # type: ignore[attr-defined]
    assert recipe.head.seed == 7
    assert dpo.data["train"].source == "other.jsonl"
    with pytest.raises(RecipeError, match="no stage or key 'dpoo'; nearest: dpo"):
        load_recipe(str(path), ["dpoo.beta=1"])
    with pytest.raises(RecipeError, match="write it as key=value"):
        load_recipe(str(path), ["dpo.beta"])


def test_scientific_notation_without_a_dot_is_a_number() -> None:
    recipe = parse_recipe(changed(dpo={"beta": "5e-1"}), "demo.yaml")
    assert next(s for s in recipe.stages if s.name == "dpo").settings.beta == 0.5  # type: ignore[attr-defined]


def test_a_recipe_file_that_is_not_there_names_the_shipped_ones() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: no such recipe file; shipped recipes: .*quickstart"):
        load_recipe("nowhere.yaml")


def test_digest_follows_content_not_layout() -> None:
    assert parse_recipe(BASE, "a").digest == parse_recipe(changed(), "b").digest
    assert parse_recipe(BASE, "a").digest != parse_recipe(changed(dpo={"beta": 0.2}), "a").digest
