"""Predictions on disk: beside an evaluation's results, and in a cache by what they were made of.

OUT/samples/<benchmark>/<subject>.jsonl   of one evaluation; beside it .key, the digest of what they were made of, and
                                          .settings.json, the benchmark's options that say what was asked and how
CACHE/<benchmark>/<key>.jsonl             of every evaluation: another metric, suite or run makes nothing again
CACHE/scores/<key>.jsonl                  a reward model's scores of some answers: another scorer makes none again
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignment.atomic import json_digest, storage_errors
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample, samples_file


class Stored:
    """The samples of one benchmark and one subject, and the key of what they are made of.

    The key covers the benchmark and its version, the subject's weights (their digest), the seed, and whatever the
    benchmark says its predictions depend on.
    """

    def __init__(self, context: EvalContext, benchmark: Benchmark, subject: str, identity: str, inputs: Any) -> None:
        self._context, self._benchmark, self._subject = context, benchmark, subject
        self._path = samples_file(context.out_dir, benchmark.name, subject)
        self._key_path = self._path.with_suffix(".key")
        self._settings_path = settings_file(self._path)
        made_of = {"version": benchmark.version, "subject": identity, "seed": context.seed, "inputs": inputs}
        self._key = json_digest({"benchmark": benchmark.name, **made_of})
        folder = benchmark.name.replace(":", "/")  # lm_eval:TASK
        self._cached = context.cache / folder / f"{self._key}.jsonl" if context.cache is not None else None

    def read(self) -> list[Sample] | None:
        """What is stored under this key, beside the results or in the cache; or None."""
        samples = self._beside()
        if samples is None and self._cached is not None and self._cached.is_file():
            samples = read_rows(self._cached)
            self._write(samples)
        if samples is not None:
            self._write_settings()  # where an earlier version left none
            self._context.say(f"{self._benchmark.name}: {self._subject}: predictions reused")
        return samples

    def make(self, model: LoadedModel | None) -> list[Sample]:
        """Predicts, stores, and returns what was stored."""
        started = time.monotonic()
        samples = self._benchmark.predict(self._context, self._subject, model)
        self._write(samples)
        if self._cached is not None:
            write_rows(self._cached, samples)
        seconds = time.monotonic() - started
        self._context.say(f"{self._benchmark.name}: {self._subject}: {len(samples)} items, {seconds:.1f} s")
        return samples

    def _beside(self) -> list[Sample] | None:
        if not (self._path.is_file() and self._key_path.is_file()):
            return None
        if self._key_path.read_text(encoding="utf-8").strip() != self._key:
            return None
        return read_rows(self._path)

    def _write(self, samples: Iterable[Sample]) -> None:
        with storage_errors(self._key_path):
            self._key_path.unlink(missing_ok=True)  # never an old key beside new samples
        self._write_settings()
        write_rows(self._path, samples)
        _write(self._key_path, self._key + "\n")

    def _write_settings(self) -> None:
        settings = all_settings(self._context, self._benchmark)
        found = {"digest": json_digest(settings), "settings": settings}
        _write(self._settings_path, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def all_settings(context: EvalContext, benchmark: Benchmark) -> dict[str, Any]:
    """What is recorded of a benchmark: its own settings, and those of the answers that it scores."""
    source = benchmark.answered()
    return {**({} if source is None else source.settings(context)), **benchmark.settings(context)}


def settings_file(samples: Path) -> Path:
    """What stands beside a file of samples: {"digest": ..., "settings": {option: value}}."""
    return samples.with_suffix(".settings.json")


def read_rows(path: Path) -> list[Sample]:
    """The samples of a file that `write_rows` wrote."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a JSON Lines file in one step, synced. StorageError if it cannot; ValueError for NaN."""
    _write(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """After a kill it is the old file or the new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
