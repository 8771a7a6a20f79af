"""The evaluate stage, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from tiny_run import alignment_here, recipe, write_records

from tests.conftest import CHATML


def test_a_template_of_the_recipe_is_part_of_what_answers(tmp_path: Path, tiny_model_dir: Path) -> None:
    """The base model has no weights of its own in a run: its answers are kept by what it is, for all runs."""
    records = write_records(tmp_path / "records.jsonl")
    own = {"data": "prefs", "models": ["base"], "suites": ["instructions"], "items": 3, "max_new_tokens": 4}
    content = recipe(tiny_model_dir, records, sft=None, reward=None, dpo=None, evaluate=own, report=None)
    other = tmp_path / "other.jinja"
    other.write_text(CHATML.replace("assistant", "helper"), encoding="utf-8")
    reused = []
    for name, template in (("a", None), ("b", None), ("c", str(other))):
        path = tmp_path / f"{name}.yaml"
        head = {"name": name} | ({} if template is None else {"chat_template": template})
        path.write_text(yaml.safe_dump(content | head), encoding="utf-8")
        done = alignment_here(tmp_path, "run", str(path))
        assert done.returncode == 0, done.stderr
        reused.append("predictions reused" in done.stdout + done.stderr)
    assert reused == [False, True, False]


def test_records_of_one_answer_are_prompts_with_a_reference(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Worked problems hold no ranking, and rules judge the answers: what recipes/grpo-gsm8k.yaml ends with."""
    problems = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {i} + {i}?", "answer": f"{i} + {i} = {2 * i}.\n#### {2 * i}"} for i in range(12)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = {"data": "problems", "models": ["base"], "suites": ["win_rate"], "scorers": ["gsm8k"], "max_new_tokens": 4}
    content = recipe(tiny_model_dir, problems, sft=None, reward=None, dpo=None, evaluate=own, report=None)
    content["data"] = {
        "problems": {"source": str(problems), "format": "gsm8k", "fractions": {"train": 0.5, "test": 0.5}}
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    done = alignment_here(tmp_path, "run", str(path))
    assert done.returncode == 0, done.stderr
    (samples,) = tmp_path.glob("runs/tiny/stages/evaluate-*/samples/win_rate/base.jsonl")
    scores = [json.loads(line)["scores"]["gsm8k"] for line in samples.read_text(encoding="utf-8").splitlines()]
    assert scores
    assert set(scores) <= {0.0, 1.0}  # every answer is scored
