"""The house's one-way streets: who may import whom, and what the command line may not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room may import from rooms of a lower number, and from itself.
RANK = {
    "errors": 0,
    "scorer_names": 0,
    "atomic": 1,
    "shipped": 1,
    "repeat": 1,
    "overrides": 2,
    "runtime": 1,
    "dropout": 1,
    "tied_weights": 1,
    "model_entry": 2,
    "generation": 2,
    "registry": 3,
    "preferences": 3,
    "lora_product": 2,
    "lora": 3,
    "sources": 4,
    "runs": 5,
    "saving": 3,
    "models": 5,
    "exporting": 6,
    "training": 6,
    "evaluation": 6,
    "report": 7,
    "comparison": 8,
    "scorers": 7,
    "stages": 8,
    "evaluation_run": 9,
    "recipe": 9,
    "plan": 10,
    "pipeline": 11,
    "commands": 12,
    "cli": 13,
}


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "alignment").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files("alignment"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    if path.parent == ROOT / "alignment" and path.name == "__init__.py":
        return
    here = room(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "alignment" and len(parts) > 1 and parts[1] in RANK and parts[1] != here:
            assert RANK[parts[1]] < RANK[here], f"{path.name} in {here} imports {module}"


def test_every_room_has_a_rank() -> None:
    assert {room(p) for p in files("alignment")} - {"__init__"} == set(RANK)


def test_reward_knows_nothing_of_alignment() -> None:
    assert not [(p.name, m) for p in files("reward") for m in imports(p) if m.split(".")[0] == "alignment"]


def test_report_is_rebuilt_without_torch() -> None:
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "reward"}
    assert not [(p.name, m) for p in files("alignment/report") for m in imports(p) if m.split(".")[0] in heavy]


def test_trl_is_imported_by_stages_alone() -> None:
    users = {room(p) for p in files("alignment") for m in imports(p) if m.split(".")[0] == "trl"}
    assert users <= {"stages"}
    assert not [p for p in files("reward") for m in imports(p) if m.split(".")[0] == "trl"]


@pytest.mark.parametrize(
    "code",
    [
        "import alignment.cli",
        "from alignment.recipe import load_recipe; load_recipe('quickstart')",
        "import alignment.report.build",
    ],
)
def test_light_imports_stay_light(code: str) -> None:
    heavy = ("torch", "transformers", "trl", "peft", "datasets", "sklearn", "scipy", "matplotlib", "pandas")
    check = f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_no_room_without_a_name() -> None:
    nameless = {"utils.py", "helpers.py", "misc.py", "common.py"}
    assert not [
        p for package in ("alignment", "reward", "tests", "benchmarks") for p in files(package) if p.name in nameless
    ]


def test_files_and_functions_stay_small() -> None:
    for path in [*files("alignment"), *files("reward")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 320, f"{path}: {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                assert size <= 70, f"{path}:{node.lineno} {node.name}: {size} lines"
