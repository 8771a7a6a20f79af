"""What a run is on disk: content keys, the context a stage works in, its result, the manifest, the log.

runs/<name>/manifest.json                      the whole run, rewritten atomically after every change
runs/<name>/run.log                            everything that was said, with times
runs/<name>/stages/<stage>-<key12>/inputs.json what the key was made of (to say why a stage runs again)
runs/<name>/stages/<stage>-<key12>/result.json written last: its presence means the stage is finished
runs/<name>/stages/<stage>-<key12>/records.jsonl the preference records of a stage that makes some
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from alignment.atomic import file_digest, storage_errors
from alignment.errors import AlignmentError

if TYPE_CHECKING:
    from alignment.preferences.record import PreferenceRecord
    from alignment.preferences.sources import DataSpec
    from alignment.registry import ModelEntry, ModelRegistry

Say = Callable[[str], None]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class DataUse:
    """What a stage did with a data set; every row is accounted for."""

    role: str
    source: str
    digest: str
    n_records: int
    n_used: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # records not used, by reason
    partly: Mapping[str, int] = field(default_factory=dict)  # records of which something was cut or left out


@dataclass(frozen=True)
class RecordsFile:
    """Preference records a stage made: the file, relative to the run's folder, and its sha256."""

    path: str
    digest: str
    n_records: int


@dataclass(frozen=True)
class StageResult:
    """What a stage hands on: by its name, the registry reference of the model it made, or the file of its records."""

    models: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    data: tuple[DataUse, ...] = ()
    records: Mapping[str, RecordsFile] = field(default_factory=dict)
    # What it wrote outside its folder, where the same run with other settings writes, too: path in the run -> sha256.
    pages: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StageResult:
        return cls(
            models=value["models"],
            metrics=value["metrics"],
            notes=tuple(value["notes"]),
            data=tuple(DataUse(**use) for use in value["data"]),
            records={stage: RecordsFile(**file) for stage, file in value.get("records", {}).items()},
            pages=value.get("pages", {}),
        )


def located(spec: DataSpec, made: Mapping[str, Path]) -> DataSpec:
    """The data set, with the file in place of the stage that made it."""
    return spec if spec.maker is None else spec.model_copy(update={"source": str(made[spec.maker])})


@dataclass(frozen=True)
class RunContext:
    """Everything a stage may know about the run it is part of."""

    run: str
    run_dir: Path
    folder: Path  # this stage's own folder
    stage: str
    key: str
    seed: int
    chat_template: str | None
    recipe_digest: str
    registry: ModelRegistry
    inputs: Mapping[str, str]  # input name (base, sft, model...) -> model reference
    input_digests: Mapping[str, str]
    data: Mapping[str, DataSpec]  # role -> data set
    data_digests: Mapping[str, str]
    say: Say
    made: Mapping[str, Path] = field(default_factory=dict)  # stage -> file of the records it made

    def data_file(self, role: str) -> DataSpec:
        """The data set of a role, with the file where another stage made it."""
        spec = self.data[role]
        return located(spec, self.made)

    def write_records(self, records: Iterable[PreferenceRecord]) -> dict[str, RecordsFile]:
        """Writes the records this stage makes, whole or not at all; what its result says of them.

        Raises DataError when there are none.
        """
        from alignment.preferences.store import write_records

        kept, path = list(records), self.folder / "records.jsonl"
        write_records(path, kept)
        file = RecordsFile(path.relative_to(self.run_dir).as_posix(), file_digest(path), len(kept))
        return {self.stage: file}

    def register(
        self, kind: str, role: str, fill: Callable[[Path], None], metrics: Mapping[str, float], parent: str
    ) -> ModelEntry:
        """Puts a trained model into the registry; a stage killed right after this finds it again by its key."""
        found = self.registry.find(self.key)
        if found is not None and found.parent_digest == self.input_digests[parent]:
            return found
        return self.registry.add(
            f"{self.run}-{self.stage}",
            kind=kind,
            role=role,
            parent=self.inputs[parent],
            parent_digest=self.input_digests[parent],
            fill=fill,
            stage_key=self.key,
            recipe_digest=self.recipe_digest,
            data_digests=dict(self.data_digests),
            seed=self.seed,
            metrics=dict(metrics),
            versions=package_versions(),
            code_version=code_version(),
        )


class RunLog:
    """Says each line on the console and writes it, with its time, to run.log."""

    def __init__(self, path: Path, console: Say) -> None:
        self._console = console
        self._stream: IO[str] = path.open("a", encoding="utf-8")

    def __call__(self, line: str) -> None:
        self._console(line)
        self.record(line)

    def record(self, line: str) -> None:
        """To the file alone."""
        self._stream.write(f"{now()} {line}\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Holds the run folder: two commands on one run would write over each other."""
    with storage_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        stream = (run_dir / ".lock").open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlignmentError(
                f"{run_dir}: another process is running this run; wait for it or give --runs-dir"
            ) from error
        yield


VERSIONED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "scikit-learn")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a core dependency removed by hand: say so instead of failing here
            found[name] = "not installed"
    return found


def code_version() -> str:
    from alignment import __version__

    return __version__
