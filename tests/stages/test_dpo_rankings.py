"""The dpo_rankings stage: what its settings refuse, and whole runs on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_run import training_log, write_records

from alignment import pipeline
from alignment.errors import DataError
from alignment.recipe import parse_recipe
from alignment.registry import ModelRegistry
from alignment.stages import STAGES
from alignment.stages.dpo_rankings import DPORankingsSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "plackettluce"}, "unknown loss 'plackettluce'; nearest: plackett_luce"),
        ({"margin_scale": 1.0}, "plackett_luce does not read margin_scale, only bradley_terry"),
        ({"beta": 0.0}, "greater than 0"),
        ({"peft": {"lora_dropout": 0.1}}, "lora_dropout makes the policy differ from its reference"),
    ],
)
def test_settings_without_effect_or_sense_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DPORankingsSettings(data="prefs", **given)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


def run(folder: Path, model: Path, *stages: dict[str, Any]) -> list[str]:
    """What the run says."""
    trainer = {"learning_rate": 1e-3, "max_steps": 3, "save_strategy": "no", "per_device_train_batch_size": 4}
    listed = [{"dpo_rankings": {"data": "prefs", "trainer": trainer, **stage}} for stage in stages]
    raw = {
        "name": "tiny",
        "base": f"path:{model}",
        "data": {"prefs": {"source": str(write_records(folder / "records.jsonl"))}},
        "stages": listed,
    }
    said: list[str] = []
    made = parse_recipe(raw, "tiny.yaml")
    pipeline.run(made, folder / "runs" / "tiny", ModelRegistry(folder / "registry"), said.append)
    return said


def test_runs_on_whole_rankings_share_one_reference(tmp_path: Path, tiny_model_dir: Path) -> None:
    luce = {"name": "luce", "model": "base", "peft": {"r": 4}}
    davidson = {"name": "davidson", "model": "base", "loss": "davidson", "tie_parameter": 0.5, "weights": "annotators"}
    said = run(tmp_path, tiny_model_dir, luce, davidson)
    assert any(line.startswith("luce: reference log-probabilities") for line in said)
    assert not any(line.startswith("davidson: reference log-probabilities") for line in said)
    logs = training_log(tmp_path, "luce")
    assert [row["step"] for row in logs] == [1, 2, 3]
    # at the start every order of three is as likely as any other: 1 / 3!
    assert logs[0]["loss"] == pytest.approx(math.log(6), abs=1e-2)
    assert logs[-1]["loss"] != pytest.approx(math.log(6), abs=1e-4)
    assert {"rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"} <= logs[0].keys()
    assert {"logps/chosen", "logps/rejected"} <= logs[0].keys()
    kinds = {}
    for stage in ("luce", "davidson"):
        entry = json.loads((tmp_path / "registry" / f"tiny-{stage}" / "1" / "entry.json").read_text())
        kinds[stage] = entry["kind"], entry["role"]
    assert kinds == {"luce": ("adapter", "policy"), "davidson": ("policy", "policy")}


def test_margins_that_nobody_stated_cannot_be_scaled(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(DataError, match="no judgement states a strength, so margin_scale has no effect"):
        run(tmp_path, tiny_model_dir, {"loss": "bradley_terry", "margin_scale": 1.0})


def test_the_stage_makes_a_policy() -> None:
    assert STAGES["dpo_rankings"].produces == "policy"
    assert STAGES["dpo_rankings"].settings is DPORankingsSettings
