"""A model's folder: whether it is whole, and the digest that identifies its weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from alignment.atomic import file_digest, json_digest, locked, storage_errors, write_json
from alignment.errors import ModelError
from alignment.sources import cache_folder

WEIGHTS = ".safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SHARD_INDEX = "model.safetensors.index.json"
MODEL_SUFFIXES = {WEIGHTS, ".json", ".jinja", ".model", ".txt"}  # weights, configs, templates, vocabularies
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_folder(folder: Path, ref: str, fix: str) -> None:
    """Raises ModelError unless `folder` holds a config and whole safetensors files. Reads headers only.

    `fix` ends the message when a file is damaged: what to do depends on where the folder came from.
    """
    if not folder.is_dir():
        raise ModelError(f"{ref}: there is no folder {folder}")
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(f"{ref}: {folder} is a bare adapter; merge it into its base and give that folder")
        raise ModelError(f"{ref}: {folder} has no config.json; give a folder written by save_pretrained")
    read_object(folder / "config.json", ref, fix)
    weights = sorted(folder.glob(f"*{WEIGHTS}"))
    if not weights:
        pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
        if pickles:
            raise ModelError(
                f"{ref}: {folder} has only {pickles[0]}, a pickle that can run code when read; convert it once where "
                "you trust it: AutoModelForCausalLM.from_pretrained(old).save_pretrained(new)"
            )
        raise ModelError(f"{ref}: {folder} has no *.safetensors weights; give a folder written by save_pretrained")
    if (folder / SHARD_INDEX).is_file():
        shards = read_object(folder / SHARD_INDEX, ref, fix).get("weight_map", {}).values()
        for name in sorted({str(shard) for shard in shards}):
            if not (folder / name).is_file():
                raise ModelError(f"{ref}: {folder / name} is missing; {fix}")
    for path in weights:
        check_safetensors(path, ref, fix)


def check_safetensors(path: Path, ref: str, fix: str) -> None:
    """Raises ModelError unless the file is as long as its header says (cut off and empty files are not)."""
    try:
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            size = os.fstat(handle.fileno()).st_size
            header = json.loads(handle.read(length)) if 0 < length <= size else {}
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = bool(ends) and size == 8 + length + max(ends)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        whole = False
    except OSError as error:
        raise ModelError(f"{ref}: {path} cannot be read: {error.strerror}; {fix}") from error
    if not whole:
        raise ModelError(f"{ref}: {path} is cut off or damaged; {fix}")


def read_object(path: Path, ref: str, fix: str) -> dict[str, Any]:
    """The JSON object in `path`; ModelError when it cannot be read as one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{ref}: {path} is damaged or unreadable; {fix}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{ref}: {path} is not a JSON object; {fix}")
    return value


def is_reward_model(folder: Path, ref: str) -> bool:
    """Whether the config says that the weights end in a score head instead of a language-model head."""
    architectures = read_object(folder / "config.json", ref, "write it again").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's weight, config and tokenizer files.

    A file is hashed again only when its size or modification time changed; the cache keeps the rest.
    """
    folder = folder.resolve()
    files = sorted(p for p in folder.iterdir() if p.suffix in MODEL_SUFFIXES and p.is_file())
    memory = cache_folder() / "digests" / f"{hashlib.sha256(str(folder).encode()).hexdigest()}.json"
    known = _remembered(memory)
    found = {}
    for path in files:
        stat = path.stat()
        size, changed, digest = known.get(path.name, (None, None, ""))
        if (size, changed) != (stat.st_size, stat.st_mtime_ns):
            digest = file_digest(path)
        found[path.name] = [stat.st_size, stat.st_mtime_ns, digest]
    if found != known:
        with storage_errors(cache_folder()), locked(memory.with_suffix(".lock")):
            write_json(memory, found)
    return json_digest({name: row[2] for name, row in found.items()})


def _remembered(memory: Path) -> dict[str, Any]:
    """What was hashed before. A damaged memory is only a cache lost: everything is hashed again."""
    try:
        rows = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    valid = isinstance(rows, dict) and all(isinstance(row, list) and len(row) == 3 for row in rows.values())
    return rows if valid else {}
