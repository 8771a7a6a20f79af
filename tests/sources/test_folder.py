"""Local folders: whole or refused, and identified by their content."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from alignment.errors import ModelError, StorageError
from alignment.models import cache_folder, model_digest, resolve
from alignment.registry import ModelRegistry
from alignment.sources.folder import folder_digest


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_is_hashed_by_content_and_only_once(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    digest = model_digest(f"path:{folder}", registry)
    assert digest == resolve(f"path:{folder}", registry).digest
    assert digest == model_digest(f"path:{shutil.copytree(folder, tmp_path / 'copy')}", registry)
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr("alignment.sources.folder.file_digest", counting)
    assert model_digest(f"path:{folder}", registry) == digest
    assert hashed == []
    (folder / "README.md").write_text("says nothing about weights")
    assert model_digest(f"path:{folder}", registry) == digest
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + " ")
    assert model_digest(f"path:{folder}", registry) != digest
    assert [path.name for path in hashed] == ["config.json"]
    next((cache_folder() / "digests").glob("*.json")).write_text("broken")
    (folder / "config.json").write_text(config)
    assert model_digest(f"path:{folder}", registry) == digest


def test_a_folder_reference_becomes_absolute(
    tiny_model_dir: Path, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model_dir.parent)
    assert resolve(f"path:{tiny_model_dir.name}", registry).ref == f"path:{tiny_model_dir.resolve()}"


def broken(folder: Path, **files: bytes | None) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)


INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config__json": None}, "has no config.json"),
        ({"config__json": b"{"}, "config.json is damaged"),
        ({"config__json": b"[]"}, "config.json is not a JSON object"),
        ({"config__json": None, "adapter_config__json": b"{}"}, "is a bare adapter"),
        ({"model__safetensors": None}, r"has no \*.safetensors weights"),
        (
            {"model__safetensors": None, "pytorch_model__bin": b"x"},
            "only pytorch_model.bin, a pickle .* convert it once",
        ),
        ({"model__safetensors": b""}, "model.safetensors is cut off or damaged"),
        ({"model__safetensors": b"x" * 100}, "model.safetensors is cut off or damaged"),
        ({"model__safetensors": (2).to_bytes(8, "little") + b"[]"}, "model.safetensors is cut off or damaged"),
        ({"model__safetensors__index__json": INDEX}, "model-00001-of-00002.safetensors is missing"),
    ],
)
def test_a_broken_folder_is_one_line(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path, files: dict[str, bytes | None], message: str
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    broken(folder, **files)
    for use in (resolve, model_digest):
        with pytest.raises(ModelError, match=message) as caught:
            use(f"path:{folder}", registry)
        assert "\n" not in str(caught.value)


def test_every_way_to_cut_a_file_off_is_noticed(tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    for length in (0, 4, 8, 9, 200, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="cut off"):
            resolve(f"path:{folder}", registry)


def test_a_missing_folder_is_one_line(registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        resolve(f"path:{tmp_path / 'absent'}", registry)


def test_a_cache_that_cannot_be_written_is_one_line(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tiny_model_dir / "config.json"))
    with pytest.raises(StorageError, match=r"config\.json"):
        folder_digest(tiny_model_dir)
