"""The PPO stage with `rollouts:`, through the real command line, against a server in this process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tiny_run import alignment, training_log, write_records

from alignment.errors import RecipeError
from alignment.recipe import parse_recipe
from alignment.stages.sampling import stage_seed
from alignment.training.ppo import DRAWS
from alignment.training.vllm_rollouts import answer_seed
from tests.vllm_server import FakeVLLM, serving

SEED = 42


def raw(base: str, records: str, **settings: Any) -> dict[str, Any]:
    ppo = {
        "data": "prefs",
        "reward": [{"rule": "brevity", "weight": 0.1}],
        "batch_size": 8,
        "max_new_tokens": 6,
        "peft": {"r": 4},
        "trainer": {"max_steps": 3, "learning_rate": 1e-3, "bf16": False},
        **settings,
    }
    return {
        "name": "tiny",
        "seed": SEED,
        "base": base,
        "data": {"prefs": {"source": records}},
        "stages": [{"ppo": ppo}],
    }


def write(folder: Path, base: Path, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    content = raw(f"path:{base}", str(write_records(folder / "records.jsonl")), **settings)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": {"vllm": "http://x"}, "peft": None}, "rollouts.vllm needs `peft`"),
        ({"rollouts": {"vllm": "x:8000"}}, "is no address; write it as http"),
        ({"rollouts": {"vllm": "http://x", "limit": 1}}, "unknown key"),
        ({"rollouts": {}}, "rollouts.vllm"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw("path:x", "x.jsonl", **settings), "x")


def test_without_the_key_nothing_changes() -> None:
    """Its absence is in no stage's key."""
    settings = parse_recipe(raw("path:x", "x.jsonl"), "x").stages[-1].settings
    assert "rollouts" not in settings.model_dump(mode="json", exclude_none=True)


def test_a_recipe_through_a_server_is_the_one_without(tmp_path: Path, tiny_model_dir: Path) -> None:
    seed = stage_seed(SimpleNamespace(seed=SEED, stage="ppo"))  # type: ignore[arg-type]
    keys = [(DRAWS, seed, step, place, 0) for step in range(1, 4) for place in range(8)]
    own, served = tmp_path / "own", tmp_path / "served"
    done = alignment(own, "run", str(write(own, tiny_model_dir)))
    assert done.returncode == 0, done.stderr
    with serving(FakeVLLM(tiny_model_dir, {answer_seed(key): key for key in keys})) as fake:
        fake.runtime_lora = False
        recipe = write(served, tiny_model_dir, rollouts={"vllm": fake.url, "max_logp_difference": 0.001})
        refused = alignment(served, "run", str(recipe))
        assert refused.returncode == 2
        assert "loads no adapters at run time" in refused.stderr
        assert f"alignment models export path:{tiny_model_dir} policy && VLLM_ALLOW_RUNTIME_LORA" in refused.stderr
        fake.runtime_lora = True
        done = alignment(served, "run", str(recipe))
        assert done.returncode == 0, done.stderr
        assert fake.loaded == {}
    logs = training_log(served, "ppo")
    for mine, its in zip(training_log(own, "ppo"), logs, strict=True):
        assert mine.pop("split") == its["split"]
        assert {name: its[name] for name in mine} == pytest.approx(mine, rel=1e-3, abs=1e-4)
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-4 for row in logs)
    assert json.loads((served / "runs/tiny/manifest.json").read_text())["stages"][-1]["metrics"]["steps"] == 3
