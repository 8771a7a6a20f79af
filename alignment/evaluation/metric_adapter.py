"""Benchmarks as metrics of the `evaluate` library, made here: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from alignment.errors import DataError, nearest
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext
from alignment.evaluation.benchmarks.helpfulness.best_of_n import BestOfN
from alignment.evaluation.benchmarks.helpfulness.human_wins import PEOPLE, HumanWins
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored import STORED
from alignment.evaluation.stored.stored import StoredBenchmark, first_problem

if TYPE_CHECKING:
    import evaluate

Record = Mapping[str, Any]


class Scorer(NamedTuple):
    """What a metric is made of."""

    about: str
    inputs: str
    score: Callable[[Sequence[Record], int], list[EvalResult]]  # (records, seed); DataError for what is no record
    check: Callable[[Sequence[Record]], object]  # DataError for what is no record


# Benchmarks without a row in STORED: their records are the samples of one model.
SAMPLED = tuple(name for name in BENCHMARKS if name not in STORED)
_ONLY_A_NAME: Any = None  # what is left of a scorer: samples hold what it said
ORIGIN = "base"  # what the samples' model is compared with, where samples hold both


def as_evaluate_metric(name: str, *, seed: int = 0) -> evaluate.Metric:
    """An `evaluate.Metric` of one of STORED or SAMPLED, with its `compute`, `add` and `add_batch`.

    `predictions` are records as dicts. Of a row of STORED they have the fields of its `record` (`alignment score NAME
    --schema`), and the values are those that `alignment score` prints for a file of them. Of a name in SAMPLED they are
    one model's samples, the rows of `samples/NAME/MODEL.jsonl` that `alignment evaluate` leaves (or a scorer's, a
    judge's), and the values are the ones that it prints for this model, whatever it is not compared with: accuracy of
    choices (`acc`, `acc_norm`), instructions followed, perplexity, rates of refusal, win rates against the opponent in
    the samples, forward KL, gaps between groups, RewardBench's scores. No model, scorer or judge is asked again.

    `compute(predictions=records)` returns metric -> value, None where undefined; `metric/group` for the groups, with
    `model/` in front where the records are of several models. `compute(..., full=True)` returns metric -> all fields
    of its EvalResult, interval and method included.

    Raises:
        DataError: an unknown name; from adding a record that is none.
    """
    if name not in (*STORED, *SAMPLED):
        raise DataError(f"no benchmark {name!r}{nearest(name, (*STORED, *SAMPLED))}")
    import datasets
    import evaluate

    scorer = _stored(STORED[name]) if name in STORED else _sampled(name)

    class RecordMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
        def _info(self) -> evaluate.MetricInfo:
            # One type fits the records of every benchmark: JSON text.
            return evaluate.MetricInfo(
                description=scorer.about,
                citation="",
                inputs_description=f"predictions: {scorer.inputs}",
                features=datasets.Features({"predictions": datasets.Value("string")}),
            )

        def add(self, *, prediction: Record, **kwargs: Any) -> None:
            """Adds one record."""
            scorer.check([prediction])
            super().add(prediction=json.dumps(prediction), **kwargs)

        def add_batch(self, *, predictions: Sequence[Record], **kwargs: Any) -> None:
            """Adds records."""
            scorer.check(predictions)  # here: a record that is none never gets in
            super().add_batch(predictions=[json.dumps(record) for record in predictions], **kwargs)

        def _compute(self, predictions: Sequence[str], full: bool = False) -> dict[str, Any]:
            results = scorer.score([json.loads(text) for text in predictions], seed)
            several = len({result.model for result in results}) > 1
            return {_key(result, several): result.model_dump() if full else result.value for result in results}

    return RecordMetric(keep_in_memory=True)


def _key(result: EvalResult, several: bool) -> str:
    return "/".join(part for part in (result.model if several else "", result.metric, result.group or "") if part)


def _stored(benchmark: StoredBenchmark[Any]) -> Scorer:
    def items(records: Sequence[Record]) -> list[Any]:
        found = []
        for number, record in enumerate(records, 1):
            try:
                found.append(benchmark.record.model_validate(record))
            except ValidationError as error:
                raise DataError(f"{benchmark.name}: record {number}: {first_problem(error)}") from None
        return found

    def score(records: Sequence[Record], seed: int) -> list[EvalResult]:
        return benchmark.score(items(records), seed=seed)

    return Scorer(benchmark.about, f"records of {benchmark.record.__name__}. {benchmark.files}", score, items)


def _sampled(name: str) -> Scorer:
    benchmark = BENCHMARKS[name]

    def score(records: Sequence[Record], seed: int) -> list[EvalResult]:
        rows = [dict(record) for record in records]
        if not rows:
            return []
        subject = PEOPLE if name == HumanWins.name else ""
        try:
            results = _as_asked(benchmark, rows).score(_context(rows[0], seed), {subject: rows})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{name}: not samples of this benchmark ({reason})") from None
        return [result.model_copy(update={"samples_path": None}) for result in results]

    about = " ".join((type(benchmark).__doc__ or name).split())
    return Scorer(about, f"samples of one model, the rows of samples/{name}/MODEL.jsonl", score, lambda records: None)


def _as_asked(benchmark: Benchmark, rows: Sequence[Record]) -> Benchmark:
    """With the options that its samples were made under, where its numbers depend on them."""
    options = {option.name for option in fields(benchmark)}  # type: ignore[arg-type]  # all are dataclasses
    more: dict[str, Any] = {"audit": 0} if "audit" in options else {}  # draws no answers for people to read
    if benchmark.name == BestOfN.name:
        more["n"] = max((len(scores) for row in rows for scores in row["scores"].values()), default=2)
    return replace(benchmark, **more)  # type: ignore[type-var]


def _context(row: Record, seed: int) -> EvalContext:
    """What scoring asks of an evaluation, as the samples tell it: the opponent, and the names of the scorers."""
    scores = row.get("scores")
    return EvalContext(
        {"": "", ORIGIN: ""},
        _no_model,
        Path(),
        seed,
        baseline=str(row.get("opponent", ORIGIN)),
        origin=ORIGIN,
        scorers=dict.fromkeys(scores, _ONLY_A_NAME) if isinstance(scores, Mapping) else {},
    )


def _no_model(name: str) -> Any:
    raise ValueError("samples are scored without a model")
