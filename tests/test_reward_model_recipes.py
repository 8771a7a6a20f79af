"""The reward-model recipes: two losses, and nothing else, make the difference; they plan on the real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.plan import plan
from alignment.recipe import load_recipe
from alignment.registry import ModelRegistry
from alignment.shipped import shipped_folder

FILES = {
    "hh-harmless": "hh_rlhf_harmless/harmless-base.jsonl.gz",
    "pandalm": "pandalm/testset-v1.json",
    "qa-feedback": "qa_feedback/dev_feedback.json",
    "usr": "usr_topical_chat/topical_chat.json",
}


def test_the_recipes_are_those_of_the_data_sets() -> None:
    assert {path.stem for path in (shipped_folder("recipes") / "reward-models").glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_two_models_differ_by_their_loss_alone(name: str) -> None:
    recipe = load_recipe(f"reward-models/{name}")
    first, second, evaluation, report = recipe.stages
    settings = [stage.settings.model_dump(exclude={"name", "loss"}) for stage in (first, second)]
    assert settings[0] == settings[1]
    assert dict(first.models) == dict(second.models) == {"model": "base"}
    assert first.data == second.data
    assert [getattr(stage.settings, "loss", None) for stage in (first, second)] == [first.name, second.name]
    assert set(evaluation.models.values()) == {first.name, second.name} == {"bradley_terry", "plackett_luce"}
    assert [spec.split for spec in evaluation.data.values()] == ["test"]
    assert report.kind == "report"


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_they_plan_on_the_real_files(
    name: str, file: str, real_data: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    source = f"data.preferences.source={real_data / file}"
    keys = []
    for seed in (1, 2):
        recipe = load_recipe(f"reward-models/{name}", [source, f"base=path:{tiny_model_dir}", f"seed={seed}"])
        planned = plan(recipe, ModelRegistry(tmp_path / "registry"), tmp_path / "runs")
        assert [p.action for p in planned] == ["run"] * 4
        keys += [p.key for p in planned]
    assert len(set(keys)) == 8  # a seed is a run of its own
