"""Finished runs as the pipeline leaves them, with samples made up and results computed from them by the benchmarks."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from report.fake_run import manifest, stage, write_jsonl

from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import EvalContext, samples_file
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import bootstrap

Rows = list[dict[str, Any]]
EVALUATE = "stages/evaluate-0123456789ab"


def ranked(seed: int, skill: float = 1.0, n: int = 12, missing: Sequence[int] = ()) -> Rows:
    """reward_accuracy: records of three responses, two to a group; the higher the skill, the better the order."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        wins = [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
        votes = [[0, 1, 1], [0, 2, 1], [1, 2, 1]]
        scores = [None] * 3 if i in missing else [rng.gauss(skill * (1 - j), 1) for j in range(3)]
        row = {"id": f"r{i}", "group": f"g{i // 2}", "scores": scores, "lengths": [30 - i, 20, 10 + i], "wins": wins}
        rows.append(row | {"ballots": {"ann": votes}, "facts": {"dataset": "made"}, "criteria": {}, "ties": None})
    return rows


def chosen(right: Sequence[bool | None]) -> Rows:
    """multiple_choice: one row per item, None where the likelihoods are missing."""
    logprobs = {True: [-1.0, -2.0], False: [-2.0, -1.0], None: [None, -1.0]}
    row = {"choices": ["yes", "nope"], "answer": 0}
    return [{"id": f"q{i}", **row, "logprobs": logprobs[one]} for i, one in enumerate(right)]


def answered(seed: int, n: int = 8) -> Rows:
    """win_rate: answers with the scores of a rule and of a reward model."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        response = "word " * rng.randint(1, 9)
        row = {"id": f"p{i}", "group": f"g{i}", "prompt": [{"role": "user", "content": f"{i}?"}], "reference": None}
        scores = {"plain": rng.random(), "rm": rng.gauss(0, 1)}
        row |= {"response": response, "n_tokens": len(response), "finished": rng.random() < 0.5, "scores": scores}
        rows.append(row)
    return rows


def write_run(
    folder: Path,
    samples: Mapping[str, Mapping[str, Rows]],
    *,
    seed: int = 1,
    status: str = "done",
    scorers: Mapping[str, str] | None = None,
    **recipe: Any,
) -> Path:
    """`samples`: benchmark -> model -> rows; `scorers`: reward model -> key; `recipe` changes keys of the recipe."""
    told = manifest()
    told |= {"status": status, "seed": seed, "stages": [stage("evaluate", "evaluate", EVALUATE, 1.0)]}
    told["recipe"] |= {"seed": seed} | recipe
    told["name"] = told["recipe"]["name"]
    out = folder / EVALUATE
    write_evaluation(out, samples, seed=seed, run_dir=folder)
    inputs = {f"reward model {name}": key for name, key in (scorers or {}).items()}
    (out / "inputs.json").write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def write_evaluation(
    out: Path, samples: Mapping[str, Mapping[str, Rows]], *, seed: int = 1, run_dir: Path | None = None
) -> Path:
    """What `alignment evaluate --out` leaves: samples and results; with `run_dir`, as a stage of a run."""
    results: list[EvalResult] = []
    for benchmark, by_model in samples.items():
        for model, rows in by_model.items():
            write_jsonl(samples_file(out, benchmark, model), rows)
        models = dict.fromkeys(by_model, "")
        context = EvalContext(
            models=models,
            load=lambda name: (None, None),
            out_dir=out,
            run_dir=run_dir,
            seed=seed,
            baseline=next(iter(models)),
            origin=next(iter(models)),
            scorers={"plain": None, "rm": None},  # type: ignore[dict-item]
            trained_scorers=frozenset(models),
        )
        with patch.object(bootstrap, "RESAMPLES", 20):  # nothing here reads their intervals
            results += BENCHMARKS[benchmark].score(context, by_model)
    write_jsonl(out / "results.jsonl", [result.model_dump(mode="json") for result in results])
    return out


def change_results(folder: Path, **changes: Any) -> None:
    """Rewrites every result of a run."""
    path = folder / EVALUATE / "results.jsonl"
    rows = [json.loads(line) | changes for line in path.read_text(encoding="utf-8").splitlines()]
    write_jsonl(path, rows)
