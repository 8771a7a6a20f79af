"""From a reference to files on this machine and the digest of their weights. Never imports torch for that."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from alignment.errors import ModelError
from alignment.model_entry import NAME, ModelEntry
from alignment.registry import ModelRegistry
from alignment.sources import Say
from alignment.sources.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_folder,
    check_safetensors,
    folder_digest,
    is_reward_model,
    read_object,
)
from alignment.sources.hub import hub_commit, hub_digest, hub_folder
from alignment.sources.pypi import pin, pypi_digest, pypi_folder
from alignment.sources.refs import ModelRef, parse_ref

log: Say = logging.getLogger("alignment").info


@dataclass(frozen=True)
class ModelPart:
    """A folder that takes part in a model: full weights, or an adapter to be applied to what comes before it."""

    ref: str
    folder: Path
    role: str  # policy | reward


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine.

    `ref` is exact: the pinned version, commit, absolute folder, or registry version. `chain` is what to load, in
    order: full weights first, then adapters; its last part is `path`.
    """

    ref: str
    path: Path
    digest: str
    kind: str  # base | policy | reward | adapter
    chain: tuple[ModelPart, ...]

    @property
    def role(self) -> str:
        """What the model is used as: policy or reward."""
        return self.chain[-1].role


def resolve(ref: str, registry: ModelRegistry, say: Say = log) -> ResolvedModel:
    """Fetches what is missing and checks that the files are whole; `say` gets a line when something is fetched.

    Raises ModelError, RegistryError and StorageError, each one line with the fix.
    """
    parsed = _parse(ref, registry)
    if parsed.kind == "registry":
        return _stored(registry.get(str(parsed)), registry, say)
    if parsed.kind == "pypi":
        exact, folder, digest = pin(parsed)[0], pypi_folder(parsed, say), pypi_digest(parsed)
    elif parsed.kind == "hf":
        exact = hub_commit(parsed, say)
        folder, digest = hub_folder(exact, say), hub_digest(exact)
    else:
        exact, folder = _local(parsed)
        digest = folder_digest(folder)
    role = "reward" if is_reward_model(folder, ref) else "policy"
    part = ModelPart(str(exact), folder, role)
    return ResolvedModel(str(exact), folder, digest, "reward" if role == "reward" else "base", (part,))


def model_digest(ref: str, registry: ModelRegistry, say: Say = log) -> str:
    """The digest that identifies the weights of `ref`, as `resolve` gives it, without fetching anything.

    A branch or tag of the hub is looked up there (and said); a folder is hashed, once per change.
    """
    parsed = _parse(ref, registry)
    if parsed.kind == "registry":
        return registry.get(str(parsed)).digest
    if parsed.kind == "pypi":
        return pypi_digest(parsed)
    if parsed.kind == "hf":
        return hub_digest(hub_commit(parsed, say))
    return folder_digest(_local(parsed)[1])


def _parse(ref: str, registry: ModelRegistry) -> ModelRef:
    if NAME.fullmatch(ref) and registry.versions(ref):
        registry.get(ref)  # refuses a name without version, and lists the versions
    return parse_ref(ref)


def _local(parsed: ModelRef) -> tuple[ModelRef, Path]:
    folder = Path(parsed.name).expanduser().resolve()
    check_folder(folder, str(parsed), "copy or save it again")
    return ModelRef("path", str(folder), ""), folder


def _stored(entry: ModelEntry, registry: ModelRegistry, say: Say) -> ResolvedModel:
    folder = registry.path(entry.ref)
    part = ModelPart(entry.ref, folder, entry.role)
    fix = f"see `alignment models verify {entry.ref}`, then remove it and train it again"
    if entry.kind != "adapter":
        check_folder(folder, entry.ref, fix)
        return ResolvedModel(entry.ref, folder, entry.digest, entry.kind, (part,))
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{entry.ref}: {folder / ADAPTER_WEIGHTS} is missing; {fix}")
    check_safetensors(folder / ADAPTER_WEIGHTS, entry.ref, fix)
    read_object(folder / ADAPTER_CONFIG, entry.ref, fix)
    parent = resolve(str(entry.parent), registry, say)
    if parent.digest != entry.parent_digest:
        raise ModelError(
            f"{entry.ref}: {entry.parent} has other weights now than the adapter was trained on; restore them"
        )
    return ResolvedModel(entry.ref, folder, entry.digest, entry.kind, (*parent.chain, part))
