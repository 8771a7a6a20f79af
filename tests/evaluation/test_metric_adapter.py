"""Stored benchmarks as metrics of the `evaluate` library, offline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluate
import pytest
from judged_records import judged
from judging import ScriptedJudge, longer

from alignment.errors import DataError
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import EvalSettings, samples_file
from alignment.evaluation.benchmarks.helpfulness.human_wins import PEOPLE
from alignment.evaluation.metric_adapter import SAMPLED
from alignment.evaluation.metrics import as_evaluate_metric
from alignment.evaluation.stored import STORED
from alignment.evaluation.suite import run_suites
from reward.rules import RuleScorer
from tests.evaluation.benchmarks.run_small import small_context

RIGHT = {"gold": "#### 18", "solution": "so 18"}
WRONG = {"gold": "#### 3", "solution": "4"}


@pytest.fixture(autouse=True)
def _no_cache_in_the_home(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", [*STORED, *SAMPLED])
def test_every_benchmark_is_a_metric(name: str) -> None:
    metric = as_evaluate_metric(name)
    assert isinstance(metric, evaluate.Metric)
    assert set(metric.compute(predictions=[]).values()) <= {None}  # no records give no number


def test_compute_add_and_add_batch_are_one() -> None:
    whole = as_evaluate_metric("gsm8k").compute(predictions=[RIGHT, WRONG, RIGHT])
    metric = as_evaluate_metric("gsm8k")
    metric.add(prediction=RIGHT)
    metric.add_batch(predictions=[WRONG, RIGHT])
    assert metric.compute() == whole
    assert whole["accuracy"] == pytest.approx(200 / 3)


def test_groups_models_and_intervals() -> None:
    records = [{"id": i, "category": c, "true": [-1.0], "false": [-2.0]} for i, c in enumerate("ab")]
    records = [record | {"id": str(record["id"])} for record in records]
    found = as_evaluate_metric("truthfulqa").compute(predictions=records)
    assert {"mc1", "mc1/a", "mc1/b"} <= set(found)
    battles = [{"model_a": "x", "model_b": "y", "winner": w} for w in ("model_a", "model_b")]
    assert {"x/elo", "y/elo"} <= set(as_evaluate_metric("arena").compute(predictions=battles))
    full = as_evaluate_metric("gsm8k", seed=3).compute(predictions=[RIGHT, WRONG], full=True)["accuracy"]
    assert (full["value"], full["n_scored"], full["seed"], full["unit"]) == (50.0, 2, 3, "percent")
    assert full["ci_low"] < 50 < full["ci_high"]


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="no benchmark 'gsm8'; nearest: gsm8k"):
        as_evaluate_metric("gsm8")
    with pytest.raises(DataError, match="gold_answers: not samples of this benchmark"):
        as_evaluate_metric("gold_answers").compute(predictions=[{"id": "1"}])
    metric = as_evaluate_metric("gsm8k")
    with pytest.raises(DataError, match="gsm8k: record 2: gold"):
        metric.add_batch(predictions=[RIGHT, {"gold": "no number", "solution": "4"}])
    assert metric.compute(predictions=[RIGHT])["accuracy"] == 100.0  # the metric is still of use


PUBLISHED = {  # files of the real data -> a figure that is in print
    "bbq": ("bias_score_ambiguous", 29.8, 0.05),
    "xstest": ("compliance_safe", 40.4, 0.05),
    "stereoset": ("icat", 71.177067, 5e-7),
    "alpaca_eval": ("win_rate", 2.591450540, 5e-9),
}


def published_files(real: Path, name: str) -> tuple[list[Path], dict[str, str]]:
    stereoset = real / "stereoset"
    return {
        "bbq": ([real / "bbq/unifiedqa/preds_Age.jsonl"], {"prediction": "unifiedqa-t5-11b_pred_race"}),
        "xstest": ([real / "xstest/xstest_v2_completions_llama2orig.csv"], {}),
        "stereoset": (
            [stereoset / "predictions_gpt2.json"],
            {"gold": str(stereoset / "intrasentence_race.json")},
        ),
        "alpaca_eval": ([real / "alpaca_eval/v2_compact/alpaca-7b.csv"], {}),
    }[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_without_the_command(real_data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of the published files, as anybody's own dicts."""
    monkeypatch.setattr("alignment.evaluation.statistics.bootstrap.RESAMPLES", 2)
    items = STORED[name].read(*published_files(real_data, name)).items
    found = as_evaluate_metric(name).compute(predictions=[item.model_dump(mode="json") for item in items])
    metric, value, precision = PUBLISHED[name]
    assert found[metric] == pytest.approx(value, abs=precision)


# name -> samples of one model, and what its metrics are by hand
CHOICES = [
    {"id": "1", "choices": ["a", "bcd"], "answer": 0, "logprobs": [-2.0, -3.0]},  # per byte -2 and -1
    {"id": "2", "choices": ["ab", "cd"], "answer": 1, "logprobs": [-2.0, -2.0]},  # both share
    {"id": "3", "choices": ["ab", "cd"], "answer": 1, "logprobs": [-2.0, None]},
]
JUDGED = [
    {"id": str(i), "group": str(i), "opponent": "sft", "judge": "j", "lengths": [3, 3 + i], "identical": False} | said
    for i, said in enumerate(
        [
            {"forward": "first", "backward": "second"},
            {"forward": "first", "backward": "first"},
            {"forward": "second", "backward": "first"},
            {"forward": None, "backward": "first"},
        ]
    )
]
ANSWER = {"n_tokens": 2, "finished": True}
ASKED = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], **ANSWER}
SAMPLES: dict[str, tuple[list[dict[str, Any]], dict[str, float | None]]] = {
    "multiple_choice": (CHOICES, {"acc": 0.75, "acc_norm": 0.25}),
    "gold_answers": (
        [
            {"id": "1", "category": "c", "answers": ["Paris"], "response": "It is Paris.", **ANSWER},
            {"id": "2", "category": "c", "answers": ["Rome"], "response": "I do not know.", **ANSWER},
        ],
        {"correct": 0.5, "abstained": 0.5, "wrong": 0.0, "correct/c": 0.5},
    ),
    "instructions": (
        [
            {"id": "1", "response": "no comma", **ASKED},
            {"id": "2", "response": "Well, here:\nno comma", **ASKED},
        ],
        {"prompt_strict": 0.5, "prompt_loose": 1.0, "instruction_strict": 0.5, "instruction_loose": 1.0},
    ),
    "judged_wins": (JUDGED, {"win_rate": 0.5, "consistency": 2 / 3, "unparseable_share": 1 / 8}),
    "reward_bench": (
        [
            {"id": "1", "subset": "mt-bench-easy", "prompt": "p", "scores": [2.0, 1.0]},  # weighs 28
            {"id": "2", "subset": "mt-bench-med", "prompt": "q", "scores": [0.0, 1.0]},  # weighs 40
        ],
        {"score": None, "accuracy/Chat": 28 / 68, "accuracy/subset: mt-bench-easy": 1.0},
    ),
    "best_of_k": ([{"id": "1", "subset": "Math", "chosen": [2.0], "rejected": [1.0, 2.0]}], {"score": 0.5}),
    "lambada": (
        [{"id": str(i), "greedy": i > 0, "logprob": -1.0} for i in range(4)],
        {"acc": 0.75},
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_a_model_without_the_command(name: str) -> None:
    samples, expected = SAMPLES[name]
    metric = as_evaluate_metric(name)
    metric.add_batch(predictions=samples)
    found = metric.compute(full=True)
    assert {key: found[key]["value"] for key in expected} == pytest.approx(expected)
    assert {row["samples_path"] for row in found.values()} == {None}
    assert json.dumps(found)


# What runs offline; what needs a file of items or the hub is a row of STORED, or has its samples written out above.
RUN = (
    *("reward_accuracy", "win_rate", "human_wins", "judged_wins", "judge_agreement", "mt_bench", "best_of_n"),
    *("bias_pairs", "bold", "counterfactuals", "reward_counterfactuals", "refusal_probes", "jailbreaks"),
    *("bits_per_byte", "forward_kl", "multiple_choice", "wikitext", "adversarial_pairs", "gold_answers"),
    *("instructions", "misconceptions"),
)
SMALL = {"best_of_n": {"n": 4}, "reward_counterfactuals": {"rules": True}, "bold": {"max_new_tokens": 4}}


SUBJECTS = {  # whose samples, where it is not a policy's; "sft" is what the others are compared with
    **dict.fromkeys(("reward_accuracy", "adversarial_pairs", "reward_counterfactuals"), "length"),
    "judged_wins": "base",
    "human_wins": PEOPLE,
    "judge_agreement": "scripted",
}


def small_benchmarks(folder: Path) -> dict[str, Any]:
    (folder / "text.txt").write_text("a small text\n\nof two parts\n", encoding="utf-8")
    more = {**SMALL, "wikitext": {"data": str(folder / "text.txt"), "window": 64}}
    return {name: replace(BENCHMARKS[name], **more.get(name, {})) for name in RUN}  # type: ignore[type-var]


def test_what_evaluate_printed_comes_out_of_its_samples(tiny_model_dir: Path, tmp_path: Path) -> None:
    records = [judged(f"r{i}", [f"long answer {i}", "short"], {"a": [[0], [1]]}, names=["x", "y"]) for i in range(3)]
    context = small_context(
        tmp_path,
        tiny_model_dir,
        settings=EvalSettings(bf16=False, items=4, max_new_tokens=4),
        records=records,
        scorers={"length": RuleScorer("length")},
        judge=ScriptedJudge(longer),
    )
    printed = run_suites(context, RUN, small_benchmarks(tmp_path))
    for name in RUN:
        subject = SUBJECTS.get(name, "sft")
        lines = samples_file(context.out_dir, name, subject).read_text(encoding="utf-8").splitlines()
        found = as_evaluate_metric(name, seed=context.seed).compute(
            predictions=[json.loads(x) for x in lines], full=True
        )
        got = {
            (r["model"], r["metric"], r["group"]): (r["value"], r["n_scored"], r["n_unscored"]) for r in found.values()
        }
        rows = [r for r in printed if r.benchmark == name and (subject == PEOPLE or r.model == subject)]
        said = {
            (r.model if subject == PEOPLE else "", r.metric, r.group): (r.value, r.n_scored, r.n_unscored) for r in rows
        }
        levels = {key for key, r in zip(said, rows, strict=True) if r.compared_to is None}
        assert got, name
        assert levels <= set(got), name
        assert got == {key: pytest.approx(said[key]) for key in got}, name
    assert not (Path() / "audit").exists()  # a metric writes nothing


def test_every_benchmark_is_one_or_the_other() -> None:
    assert set(BENCHMARKS) <= {*STORED, *SAMPLED}
    assert not set(SAMPLED) & set(STORED)
    choices = {name for name, one in BENCHMARKS.items() if type(one).__name__ == "ChoiceTask"}
    assert set(SAMPLED) - choices <= {*SAMPLES, *RUN}
