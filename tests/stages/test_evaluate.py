"""The evaluate stage, through the real command line."""

from __future__ import annotations

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
