"""The hub, replaced by a folder: pinned, fetched once, and every refusal in one line."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment.errors import ModelError, StorageError
from alignment.models import model_digest, resolve
from alignment.registry import ModelRegistry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub has and what was asked of it."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    state: dict[str, Any] = {"files": [p.name for p in tiny_model_dir.iterdir()], "asked": [], "error": None}
    snapshot = tmp_path / "hub" / "snapshots" / COMMIT

    def model_info(self: object, name: str, revision: str) -> SimpleNamespace:
        state["asked"].append((name, revision))
        if state["error"]:
            raise state["error"]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=f) for f in state["files"]])

    def snapshot_download(name: str, *, revision: str, local_files_only: bool = False, **patterns: Any) -> str:
        assert revision == COMMIT
        assert "*.safetensors" in patterns["allow_patterns"]
        assert not [p for p in patterns["allow_patterns"] if p.endswith((".bin", ".py", "*", ".pkl"))]
        if local_files_only and not snapshot.exists():
            raise LocalEntryNotFoundError("not here")
        if not local_files_only:
            if state["error"]:
                raise state["error"]
            shutil.copytree(tiny_model_dir, snapshot)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def test_a_commit_is_fetched_once_and_then_needs_no_hub(hub: dict[str, Any], registry: ModelRegistry) -> None:
    said: list[str] = []
    ref = f"hf:org/name@{COMMIT}"
    assert model_digest(ref, registry) == model_digest(ref, registry)
    assert hub["asked"] == []
    first = resolve(ref, registry, say=said.append)
    hub["error"] = ConnectionError("down")
    assert resolve(ref, registry, say=said.append) == first
    assert (first.ref, first.digest) == (ref, model_digest(ref, registry))
    assert len(said) == 1


def test_a_branch_is_resolved_to_its_commit_and_said(hub: dict[str, Any], registry: ModelRegistry) -> None:
    said: list[str] = []
    found = resolve("hf:org/name@main", registry, say=said.append)
    assert found.ref == f"hf:org/name@{COMMIT}"
    assert said[0] == f"hf:org/name@main is hf:org/name@{COMMIT} today; write that to keep it"
    assert model_digest("hf:org/name@main", registry) == found.digest


def test_a_repository_without_safetensors_is_refused_before_download(
    hub: dict[str, Any], registry: ModelRegistry
) -> None:
    hub["files"] = ["config.json", "pytorch_model.bin", "onnx/model.safetensors"]
    with pytest.raises(ModelError, match=r"has no \*.safetensors weights"):
        resolve(f"hf:org/name@{COMMIT}", registry)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("RepositoryNotFoundError", ModelError, "no such repository, or a private one"),
        ("GatedRepoError", ModelError, "is gated; ask for access"),
        ("RevisionNotFoundError", ModelError, "has no revision main"),
        (ConnectionError("no\nroute"), ModelError, r"cannot be reached \(no route\); .*path:folder"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: dict[str, Any], registry: ModelRegistry, error: Any, kind: type[Exception], message: str
) -> None:
    if isinstance(error, str):
        import huggingface_hub.errors as errors

        error = getattr(errors, error).__new__(getattr(errors, error))
    hub["error"] = error
    for use in (resolve, model_digest):
        with pytest.raises(kind, match=message) as caught:
            use("hf:org/name@main", registry)
        assert "\n" not in str(caught.value)


def test_a_full_disk_during_a_download_is_no_network_error(
    hub: dict[str, Any], registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def full(name: str, *, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(StorageError, match="no space left"):
        resolve(f"hf:org/name@{COMMIT}", registry)
