"""What is compared, as a user names it: RUN, RUN:MODEL (also of an evaluation's folder), or a file of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from alignment.atomic import json_digest
from alignment.errors import DataError, RecipeError, nearest
from alignment.evaluation.benchmarks.benchmark import Benchmark, Sample
from alignment.evaluation.predictions import settings_file
from alignment.evaluation.result import EvalResult
from alignment.evaluation.suites import configured
from alignment.report.load import Run, load_run
from alignment.report.reading import checked, document, inside, rows

FORMS = "a run's or an evaluation's folder, FOLDER:MODEL, or a samples file (OUT/samples/BENCHMARK/MODEL.jsonl)"


@dataclass(frozen=True)
class _Settings:
    """A settings file, as it is written beside samples."""

    digest: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """A model's samples of one benchmark. A file whose results.jsonl is gone has no `version` and no `numbers`."""

    path: Path
    version: int | None
    numbers: tuple[EvalResult, ...] = ()  # of the evaluation that made them

    @property
    def out_dir(self) -> Path:
        """What the evaluation wrote to: OUT of OUT/samples/BENCHMARK/MODEL.jsonl."""
        return self.path.parent.parent.parent

    def samples(self, benchmark: Benchmark) -> dict[str, Sample]:
        """Item id -> sample. Raises DataError for a row without an id, and for an id that is there twice."""
        found: dict[str, Sample] = {}
        for at, row in rows(self.path):
            parts = [row.get(key) for key in benchmark.identity]
            if not all(isinstance(part, str | int) for part in parts):
                raise DataError(f"{at}: no {' and '.join(benchmark.identity)}; this is no file of samples")
            item = "/".join(map(str, parts))
            if item in found:
                raise DataError(f"{at}: id {item!r} is there twice")
            found[item] = row
        if not found:
            raise DataError(f"{self.path}: empty; evaluate again")
        return found

    def settings(self) -> dict[str, Any] | None:
        """The benchmark's options that say what was asked and how; None where they were not stored.

        Raises DataError for a file that is not what an evaluation wrote.
        """
        path = settings_file(self.path)
        if not path.is_file():
            return None
        found = document(_Settings, path)
        if json_digest(found.settings) != found.digest:
            raise DataError(f"{path}: its digest is not that of its settings; evaluate again")
        return found.settings

    def scorer_id(self, name: str) -> str:
        """What a scorer is: two evaluations may call different reward models by one name."""
        from reward.rules import RULES

        if name in RULES:
            return f"rule {name}"
        inputs = self.out_dir / "inputs.json"
        known = document(dict[str, Any], inputs).get("inputs", {}) if inputs.is_file() else {}
        return str(known.get(f"reward model {name}", self.out_dir.resolve()))


@dataclass(frozen=True)
class Side:
    """A model with stored samples; `source` is where it comes from, as the user named it."""

    model: str
    source: str
    stored: Mapping[str, Stored]  # by benchmark
    summaries: tuple[str, ...] = ()  # what its evaluation computed from several benchmarks, without samples

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.source

    @property
    def full(self) -> str:
        """As the user would name it."""
        return self.source if self.source.endswith(".jsonl") else f"{self.source}:{self.model}"


@dataclass(frozen=True)
class Operand:
    """One argument: one model, or a whole run or evaluation (no model chosen; `run` is set for a run)."""

    text: str
    sides: Mapping[str, Side]  # by model
    run: Run | None = None
    whole: bool = False


def read_operand(text: str) -> Operand:
    """Raises DataError for what is neither a finished run, nor a model of one, nor a samples file."""
    path = Path(text)
    if path.is_file():
        side = _samples(path)
        return Operand(text, {side.model: side})
    if path.is_dir():
        run = None if _is_evaluation(path) else finished(path)
        sides = _evaluation_sides(path, text) if run is None else run_sides(run, text)
        return Operand(text, sides, run, whole=True)
    for index, letter in enumerate(text):  # names of models may hold colons, folders too
        folder = Path(text[:index])
        if letter == ":" and text[:index] and (_is_evaluation(folder) or (folder / "manifest.json").is_file()):
            found, model = read_operand(text[:index]).sides, text[index + 1 :]
            if model not in found:
                raise DataError(f"{folder}: no samples of a model {model!r}{nearest(model, found)}")
            return Operand(text, {model: found[model]})
    raise DataError(f"{text}: not found; give {FORMS}")


def finished(folder: Path) -> Run:
    """A run that is done. Raises DataError for another."""
    run = load_run(folder)
    if run.manifest.status != "done":
        raise DataError(f"{folder}: the run is not finished ({run.manifest.status}); run its recipe again, it resumes")
    if not run.results:
        raise DataError(f"{folder}: the run evaluated nothing; add an evaluate stage to its recipe")
    return run


def run_sides(run: Run, source: str) -> dict[str, Side]:
    """Every model of a run with the samples behind its results, in the order of the results."""
    fix = "delete the evaluate stage's folder and run the recipe again"
    return _sides(run.folder, run.results, source, fix)


def _is_evaluation(folder: Path) -> bool:
    """Whether it is what `alignment evaluate --out` wrote."""
    return (folder / "results.jsonl").is_file() and not (folder / "manifest.json").is_file()


def _evaluation_sides(folder: Path, source: str) -> dict[str, Side]:
    results = [checked(EvalResult, row, at) for at, row in rows(folder / "results.jsonl")]
    for result in results:
        if result.samples_path is not None:
            inside(result.samples_path, f"{folder / 'results.jsonl'}: samples_path")
    if not any(result.samples_path for result in results):
        raise DataError(f"{folder}: the evaluation kept no samples; evaluate again")
    return _sides(folder, results, source, f"evaluate again with --out {folder}")


def _sides(folder: Path, results: Sequence[EvalResult], source: str, fix: str) -> dict[str, Side]:
    found: dict[str, dict[str, Stored]] = {}
    numbers: dict[tuple[str, str], list[EvalResult]] = {}
    for result in results:
        numbers.setdefault((result.model, result.benchmark), []).append(result)
    for result in results:
        if result.samples_path is None:
            continue
        own = tuple(numbers[result.model, result.benchmark])
        stored = Stored(folder / result.samples_path, result.version, own)
        if not stored.path.is_file():
            raise DataError(f"{stored.path}: missing; {fix}")
        known = found.setdefault(result.model, {}).setdefault(result.benchmark, stored)
        if known.path != stored.path:
            raise DataError(
                f"{folder}: {result.model} was evaluated on {result.benchmark} twice; "
                f"name one of the files: {known.path} or {stored.path}"
            )
    return {
        model: Side(model, source, stored, tuple(name for who, name in numbers if who == model and name not in stored))
        for model, stored in found.items()
    }


def _samples(path: Path) -> Side:
    benchmark = path.parent.name
    if path.suffix != ".jsonl" or path.parent.parent.name != "samples":
        raise DataError(f"{path}: no samples file; give {FORMS}")
    try:
        configured(benchmark, {})
    except RecipeError as error:
        raise DataError(f"{path}: {error}") from None
    model, results = unquote(path.stem), path.parent.parent.parent / "results.jsonl"
    made = [checked(EvalResult, row, at) for at, row in rows(results)] if results.is_file() else []
    own = tuple(result for result in made if (result.benchmark, result.model) == (benchmark, model))
    return Side(model, str(path), {benchmark: Stored(path, own[0].version if own else None, own)})


def pairs(operands: Sequence[Operand]) -> list[tuple[Side, Side]]:
    """(the first operand's model, another's) for every comparison: models of one name where both are whole.

    Raises DataError when there is nothing to compare.
    """
    if len(operands) < 2:
        raise DataError(f"one thing alone cannot be compared; name two or more, each {FORMS}")
    first, found = operands[0], []
    for other in operands[1:]:
        if first.whole and other.whole:
            named = [(side, other.sides[model]) for model, side in first.sides.items() if model in other.sides]
            if not named:
                raise DataError(
                    f"{first.text} and {other.text} have no model of the same name; name them, for example "
                    f"{first.text}:{next(iter(first.sides))} {other.text}:{next(iter(other.sides))}"
                )
            found += named
        else:
            found += [(a, b) for a in first.sides.values() for b in other.sides.values()]
    different = [(a, b) for a, b in found if a.stored != b.stored]
    if not different:
        raise DataError(f"{first.text} is compared with itself; name two models, for example RUN:sft RUN:dpo")
    return different


def labels(compared: Sequence[tuple[Side, Side]]) -> dict[tuple[str, str], str]:
    """Side.key -> its model's name, with where it comes from where two sides share that name."""
    sides = {side.key: side for pair in compared for side in pair}
    models = [side.model for side in sides.values()]
    return {key: side.model if models.count(side.model) == 1 else side.full for key, side in sides.items()}
