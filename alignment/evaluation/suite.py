"""Runs suites of benchmarks over all models of a run: predictions first, model by model, then the numbers.

OUT/samples/<benchmark>/<subject>.jsonl  predictions, each file written whole or not at all; beside it .key says what
                                         they were made of, and what is there under the same key is not made again
OUT/results.jsonl                        one EvalResult a line
OUT/generations.jsonl                    every model's answer to every prompt, with all scores
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from alignment.errors import RecipeError
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, EvalSettings, Sample
from alignment.evaluation.benchmarks.helpfulness.win_rate import WinRate, generation_rows
from alignment.evaluation.benchmarks.helpfulness.win_rate_answers import WinRateAnswers
from alignment.evaluation.data import UnavailableError
from alignment.evaluation.forgetting import summarise
from alignment.evaluation.paired_tests import group_values, item_values, with_p_values
from alignment.evaluation.predictions import Stored, write_rows
from alignment.evaluation.result import EvalResult

__all__ = ["EvalContext", "EvalSettings", "check_suites", "run_suites"]

Samples = dict[str, dict[str, list[Sample]]]  # benchmark -> subject -> samples


def check_suites(suites: Sequence[str], benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> None:
    """Raises RecipeError naming the nearest when one of `suites` is neither a suite nor a benchmark."""
    known = list(dict.fromkeys(benchmark.suite for benchmark in benchmarks.values()))
    for suite in suites:
        _known("suite", suite, [*known, *benchmarks])


def _chosen(suites: Sequence[str], benchmarks: Mapping[str, Benchmark]) -> list[Benchmark]:
    return [benchmark for benchmark in benchmarks.values() if {benchmark.suite, benchmark.name} & set(suites)]


def run_suites(
    context: EvalContext, suites: Sequence[str], benchmarks: Mapping[str, Benchmark] = BENCHMARKS
) -> list[EvalResult]:
    """All results of the suites or benchmarks named, also written to `context.out_dir` with samples and generations.

    Models are loaded one at a time. A run that is killed loses the predictions of one benchmark with one model at
    most. Raises RecipeError for an unknown suite or baseline, StorageError when the disk refuses, and what the
    benchmarks raise.
    """
    check_suites(suites, benchmarks)
    if context.models:
        _known("baseline", context.baseline, list(context.models))
    for name in context.trained_scorers:
        _known("scorer", name, list(context.scorers))
    chosen = _with_data(context, _with_judge(context, suites, _chosen(suites, benchmarks)))
    asked = _with_answers(context, chosen)
    samples: Samples = {}
    for benchmark in asked:
        samples[benchmark.name] = {subject: [] for subject in benchmark.subjects(context)}
        if not samples[benchmark.name]:
            context.say(f"{benchmark.name}: skipped, {benchmark.skipped(context)}")
    keys = {benchmark.name: benchmark.inputs(context) for benchmark in asked if samples[benchmark.name]}
    _predict_with_scorers(context, asked, keys, samples)
    _predict_with_models(context, asked, keys, samples)
    _score_answers(context, asked, keys, samples)
    _ask_judge(context, asked, keys, samples)
    results = [result for benchmark in chosen for result in benchmark.score(context, samples[benchmark.name])]
    values = item_values(chosen, samples)
    results = with_p_values(context, results, values, group_values(chosen, samples))
    results += summarise(context, results, values)
    write_rows(context.out_dir / "results.jsonl", [result.model_dump(mode="json") for result in results])
    if WinRateAnswers.name in samples:
        answers = samples.get(WinRate.name) or samples[WinRateAnswers.name]
        write_rows(context.out_dir / "generations.jsonl", generation_rows(answers))
    return results


def check_ready(context: EvalContext, benchmarks: Mapping[str, Benchmark], *, judge: bool) -> None:
    """Raises before any model is there what `run_suites` would about the data of what has to run, and about a judge."""
    for benchmark in benchmarks.values():
        if benchmark.name in context.optional:
            continue
        if benchmark.judged and not judge:
            raise _no_judge(benchmark)
        benchmark.prepare(context)


def _with_data(context: EvalContext, chosen: Sequence[Benchmark]) -> list[Benchmark]:
    """Those whose data is at hand. One that may be left out is, and is said to be; another raises UnavailableError."""
    kept = []
    for benchmark in chosen:
        try:
            benchmark.prepare(context)
        except UnavailableError as error:
            if benchmark.name not in context.optional:
                raise
            context.say(f"{benchmark.name}: not run: {error}")
        else:
            kept.append(benchmark)
    return kept


def _with_judge(context: EvalContext, suites: Sequence[str], chosen: Sequence[Benchmark]) -> list[Benchmark]:
    """Those that need no judge, if there is none; one that was asked for by its name is an error then."""
    kept = []
    for benchmark in chosen:
        if context.judge is not None or not benchmark.judged:
            kept.append(benchmark)
        elif benchmark.name in suites and benchmark.name not in context.optional:
            raise _no_judge(benchmark)
        else:
            context.say(f"{benchmark.name}: skipped, it needs a judge (--judge)")
    return kept


def _no_judge(benchmark: Benchmark) -> RecipeError:
    return RecipeError(f"{benchmark.name}: needs a judge; name one: --judge MODEL, or --judge URL#NAME")


def _with_answers(context: EvalContext, chosen: Sequence[Benchmark]) -> list[Benchmark]:
    """And the benchmarks whose samples are scored or shown to a judge, where they are not among them."""
    found: dict[str, Benchmark] = {}
    for benchmark in chosen:
        source = benchmark.answered()
        if source is not None and benchmark.subjects(context):
            found.setdefault(source.name, source)
        found[benchmark.name] = benchmark
    return list(found.values())


def _known(what: str, name: str, names: Sequence[str]) -> None:
    if name in names:
        return
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError(f"unknown {what} {name!r}; {hint}there are: {', '.join(names) or 'none'}")


def _predict_with_scorers(
    context: EvalContext, chosen: Sequence[Benchmark], keys: Mapping[str, Any], samples: Samples
) -> None:
    for benchmark in (b for b in chosen if not (b.needs_policy() or b.judged)):
        _predict_without_model(context, benchmark, keys, samples)


def _score_answers(
    context: EvalContext, chosen: Sequence[Benchmark], keys: Mapping[str, Any], samples: Samples
) -> None:
    """What is made of the models' stored answers without a judge: another scorer asks no model again."""
    for benchmark in (b for b in chosen if not b.judged and b.answered() is not None):
        _predict_without_model(_shown(context, benchmark, samples), benchmark, keys, samples)


def _ask_judge(context: EvalContext, chosen: Sequence[Benchmark], keys: Mapping[str, Any], samples: Samples) -> None:
    """What the judge says, when every model has answered and is let go: the judge may be one itself."""
    for benchmark in (b for b in chosen if b.judged):
        _predict_without_model(_shown(context, benchmark, samples), benchmark, keys, samples)
    if context.judge is not None:
        context.judge.release()


def _shown(context: EvalContext, benchmark: Benchmark, samples: Samples) -> EvalContext:
    """With the answers that the benchmark is made of."""
    source = benchmark.answered()
    return replace(context, answers=samples.get(source.name, {}) if source is not None else {})


def _predict_without_model(
    context: EvalContext, benchmark: Benchmark, keys: Mapping[str, Any], samples: Samples
) -> None:
    for subject in samples[benchmark.name]:
        identity = benchmark.made_of(context, subject)
        stored = Stored(context, benchmark, subject, identity, keys[benchmark.name])
        found = stored.read()
        samples[benchmark.name][subject] = stored.make(None) if found is None else found


def _predict_with_models(
    context: EvalContext, chosen: Sequence[Benchmark], keys: Mapping[str, Any], samples: Samples
) -> None:
    """Everything that a model is needed for, then the next model: only one is in memory."""
    shown = {source.name for b in chosen if b.judged and (source := b.answered()) is not None}
    for name, identity in context.models.items():
        wanted = [benchmark for benchmark in chosen if benchmark.needs_model and name in samples[benchmark.name]]
        stored = {b.name: Stored(context, b, name, identity, keys[b.name]) for b in wanted}
        found = {benchmark: one.read() for benchmark, one in stored.items()}
        missing = {benchmark: stored[benchmark] for benchmark, rows in found.items() if rows is None}
        if context.judge is not None and shown & set(missing):
            context.judge.check()  # before a model answers for hours what nobody could judge
        made = _with_model(context, name, missing) if missing else {}
        for benchmark, rows in found.items():
            samples[benchmark][name] = made[benchmark] if rows is None else rows


def _with_model(context: EvalContext, name: str, missing: Mapping[str, Stored]) -> dict[str, list[Sample]]:
    """The samples that one model still has to make. No reference to the model is left when this returns."""
    model = context.load(name)
    made = {benchmark: stored.make(model) for benchmark, stored in missing.items()}
    del model
    _release()
    return made


def _release() -> None:
    """Gives the memory of a model back before the next one is loaded."""
    import torch

    gc.collect()  # modules hold reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
