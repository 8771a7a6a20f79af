"""Every recipe below recipes/ up to its first step: each stage finds in its data what it needs.

The real command checks all of that before anything trains; here it stops there. Data sets that are not bundled are
stood in for by a few made-up rows of the format that the recipe declares.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import alignment_here, write_records

from alignment import pipeline
from alignment.plan import Planned
from alignment.preferences.record import PreferenceRecord, dump
from alignment.preferences.store import read_records
from alignment.recipe import Recipe, load_recipe
from alignment.runs import located
from alignment.shipped import BUNDLED, shipped_folder
from alignment.stages import STAGES
from alignment.stages.evaluate import EvaluateSettings
from alignment.stages.settings import DataNeed

ROOT = shipped_folder("recipes")
RECIPES = sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.rglob("*.yaml"))
ITEMS = 40  # of a made-up data set: enough for every split, and for the prompts of a step
Rows = list[dict[str, Any]]


def hh_rlhf(i: int) -> Rows:
    asked = f"\n\nHuman: What is {i}?\n\nAssistant:"
    return [{"chosen": f"{asked} A number.", "rejected": f"{asked} No."}]


def gsm8k(i: int) -> Rows:
    return [{"question": f"What is {i} and {i}?", "answer": f"{i} + {i} = <<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i}"}]


def pandalm(i: int) -> Rows:
    answers = {"response1": f"{i} it is.", "response2": "What?"}
    votes = {"annotator1": 1, "annotator2": 1, "annotator3": i % 3}
    return [{"idx": i, "cmp_key": "one_two", "instruction": f"Say {i}.", "input": "", **answers, **votes}]


def qa_feedback(i: int) -> Rows:
    answers = {f"prediction {n}": f"{i} and {n}." for n in range(1, 5)}
    return [{"question": f"What is {i}?", "passages": [["Numbers", f"{i} is one."]], **answers, "preference": [1] * 6}]


def usr(i: int) -> Rows:
    fact, turns = f"{i} is a number.\n", f"What is {i}? \n\n"
    low = {"understandability": 0, "naturalness": 1, "coherence": 1, "engagingness": 1, "groundedness": 0, "overall": 1}
    return [
        {"source": turns, "context": fact, "system_id": who, "system_output": f"{who}: {i}.", "scores": scores}
        for who, scores in {"one": low, "two": low | {"overall": 4}, "three": low | {"overall": 2}}.items()
    ]


# A recipe with another format fails here until a line says what its rows look like.
FORMATS: dict[str, Callable[[int], Rows]] = {
    "hh-rlhf": hh_rlhf,
    "gsm8k": gsm8k,
    "pandalm": pandalm,
    "qa-feedback": qa_feedback,
    "usr": usr,
}
# Kind of stage -> what the records it makes hold of a ranked record.
MADE: dict[str, Callable[[PreferenceRecord], PreferenceRecord]] = {
    "sample": lambda record: record.model_copy(update={"judgements": ()}),
    "rank": lambda record: record,
    "best_of_n": lambda record: record,
    "rejection_sample": lambda record: record.model_copy(update={"judgements": (), "responses": record.responses[:1]}),
}


def overrides(recipe: Recipe, folder: Path, model: Path) -> list[str]:
    """The tiny model for the recipe's, and a made-up file for every data set that is neither bundled nor made."""
    found = [f"base=path:{model}"]
    for name, spec in recipe.head.data.items():
        if spec.maker is None and not spec.source.startswith(BUNDLED):
            path = folder / f"{name}.jsonl"
            rows = [row for i in range(ITEMS) for row in FORMATS[spec.format](i)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            found.append(f"data.{name}.source={path}")
    return found


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that a run was about to begin with. What they would hand each other is checked as it would be then."""
    names: list[str] = []
    ranked = read_records(write_records(tmp_path / "ranked.jsonl"))

    def stop_here(recipe: Recipe, stages: list[Planned], *rest: Any) -> dict[str, Any]:
        files = {p.spec.name: tmp_path / f"{p.spec.name}.made.jsonl" for p in stages if p.spec.kind in MADE}
        for p in stages:
            if p.spec.kind in MADE:
                lines = [dump(MADE[p.spec.kind](record)) for record in ranked]
                files[p.spec.name].write_text("\n".join(lines) + "\n", encoding="utf-8")
            for role, need in p.spec.settings.data_inputs().items():
                if p.spec.data[role].maker is not None:
                    pipeline._check_data(p.spec, role, located(p.spec.data[role], files), need)
            names.append(p.spec.name)
        return {}

    monkeypatch.setattr(pipeline, "_run_stages", stop_here)
    return names


def test_every_kind_of_stage_that_makes_records_is_known_here() -> None:
    assert MADE.keys() == {kind for kind, stage in STAGES.items() if stage.produces == "records"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_finds_in_its_data_what_it_needs(
    name: str, reached: list[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(name)
    given = overrides(recipe, tmp_path, tiny_model_dir)
    stages = [stage.name for stage in recipe.stages]
    dry = alignment_here(tmp_path, "run", name, *given, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert [line.split()[0] for line in dry.stdout.splitlines()[2:]] == stages
    assert reached == []
    done = alignment_here(tmp_path, "run", name, *given)
    assert done.returncode == 0, done.stderr
    assert reached == stages


@pytest.mark.parametrize("need", ["rankings", "steps"])
def test_a_stage_that_asks_too_much_of_its_data_is_seen_here(
    need: Any, reached: list[str], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the evaluate stage once did: it wanted rankings, and worked problems hold none."""
    monkeypatch.setattr(
        EvaluateSettings, "data_inputs", lambda self: {"heldout": DataNeed(self.data, self.split, need)}
    )
    given = overrides(load_recipe("grpo-gsm8k"), tmp_path, tiny_model_dir)
    done = alignment_here(tmp_path, "run", "grpo-gsm8k", *given)
    assert done.returncode == 2
    assert "a ranking needs two" in done.stderr or "can be used as steps" in done.stderr
    assert reached == []
