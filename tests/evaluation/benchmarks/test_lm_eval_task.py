"""Tasks of lm-evaluation-harness from a folder, through our evaluation and through the harness alone."""

import json
import math
import random
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import DataError, RecipeError
from alignment.evaluation.benchmarks.benchmark import EvalContext, EvalSettings
from alignment.evaluation.benchmarks.forgetting.lm_eval_task import LmEvalTask
from alignment.evaluation.data import Hub, UnavailableError
from alignment.evaluation.result import EvalResult
from alignment.evaluation.suite import run_suites
from alignment.evaluation.suites import choose
from alignment.training.prefix_sharing import share_prefixes

pytest.importorskip("lm_eval")

WORDS = ("cat", "dog", "mat", "ball", "question", "answer")
DOCS = [
    {
        "question": f"the {WORDS[i % 6]} sat on the {WORDS[(i + 1) % 6]} and",
        "choices": [WORDS[(i + k) % 6] for k in range(3)],
        "gold": i % 3,
        "text": " ".join(WORDS[(i + k) % 6] for k in range(4 + i)),
        "answer": "a",
    }
    for i in range(9)
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
}
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    "tiny_choice": CHOICE | {"metric_list": [{"metric": "acc"} | MEAN, {"metric": "acc_norm"} | MEAN]},
    "tiny_f1": CHOICE
    | {
        "metric_list": [
            {"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True},
            {"metric": "acc"} | MEAN,
        ]
    },
    "tiny_lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc"} | MEAN,
        ],
    },
    "tiny_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"} | MEAN],
        "filter_list": [
            {"name": "strict", "filter": [{"function": "take_first"}]},
            {
                "name": "letter",
                "filter": [{"function": "regex", "regex_pattern": "(a)"}, {"function": "take_first"}],
            },
        ],
    },
    "tiny_bleu": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "metric_list": [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}],
    },
}
REFUSED = {
    "tiny_sampling": (
        TASKS["tiny_answers"] | {"generation_kwargs": {"do_sample": True, "temperature": 0.7}},
        "generation_kwargs: they ask for sampling",
    ),
    "tiny_beams": (
        TASKS["tiny_answers"] | {"generation_kwargs": {"until": ["."], "num_beams": 4}},
        "num_beams cannot be followed",
    ),
    "tiny_unsafe": (TASKS["tiny_answers"] | {"unsafe_code": True}, "runs code that models write"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks' files over one JSON file, and a group of them."""
    import datasets

    place = tmp_path_factory.mktemp("tasks")
    datasets.config.HF_DATASETS_CACHE = place / "cache"
    data = place / "docs.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS), encoding="utf-8")
    for name, task in {**TASKS, **{name: task for name, (task, _) in REFUSED.items()}}.items():
        given = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        whole = given | {"test_split": "test", "metadata": {"version": 1.5}} | task
        (place / f"{name}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    group = {"group": "tiny_group", "task": ["tiny_choice", "tiny_f1"]}
    (place / "group.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return place


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own measures are slow to resample."""
    monkeypatch.setattr("alignment.evaluation.statistics.bootstrap.RESAMPLES", 40)


@pytest.fixture
def context(tiny_model_dir: Path, tmp_path: Path) -> EvalContext:
    """Two models: as built, and with other weights."""

    def load(name: str) -> tuple[Any, Any]:
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
        for parameter in model.parameters():
            parameter.data.mul_(4 if name == "base" else -2)
        return share_prefixes(model), AutoTokenizer.from_pretrained(tiny_model_dir)

    return EvalContext(
        models={"base": "1", "sft": "2"},
        load=load,
        out_dir=tmp_path / "out",
        seed=3,
        settings=EvalSettings(bf16=False),
        say=lambda line: None,
    )


def task(name: str, folder: Path, **more: Any) -> LmEvalTask:
    return LmEvalTask(f"lm_eval:{name}", include_path=str(folder), **more)


def evaluated(context: EvalContext, benchmark: LmEvalTask) -> dict[tuple[str, str], EvalResult]:
    """(model, metric) -> result, through the whole suite."""
    everything = run_suites(context, [benchmark.name], {benchmark.name: benchmark})
    results = [one for one in everything if one.benchmark == benchmark.name]
    assert len({(r.model, r.metric) for r in results}) == len(results)
    return {(r.model, r.metric): r for r in results}


def harness(context: EvalContext, name: str, folder: Path, model: str = "base", **more: Any) -> Mapping[str, Any]:
    """The harness alone, with its own model class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        loaded, tokenizer = context.load(model)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        lm = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=1)
        found = simple_evaluate(lm, tasks=[name], task_manager=manager, bootstrap_iters=0, **more)
    values: Mapping[str, Any] = found["results"][name]
    return values


@pytest.mark.parametrize("name", TASKS)
def test_values_are_the_harness_s(
    context: EvalContext, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)  # asks the machine, slowly
    found = evaluated(context, task(name, folder))
    for model in ("base", "sft"):
        values = harness(context, name, folder, model)
        expected = {
            key.removesuffix(",none"): value for key, value in values.items() if "," in key and "_stderr" not in key
        }
        mine = {metric: r for (who, metric), r in found.items() if who == model and r.compared_to is None}
        assert {metric: r.value for metric, r in mine.items()} == pytest.approx(expected, rel=1e-5)
        assert [r.metric for r in mine.values() if r.primary] == [next(iter(mine))]
        assert all(r.n_scored == len(DOCS) and r.n_unscored == 0 for r in mine.values())
        for result in mine.values():
            assert result.value is not None
            if result.metric != "bleu":
                assert result.ci_low is not None
                assert result.ci_low <= result.value <= (result.ci_high or 0)
    for metric in {metric for (who, metric), r in found.items() if who == "base"}:
        change = found["sft", f"{metric}_difference"]
        assert change.compared_to == "base"
        after, before = found["sft", metric].value, found["base", metric].value
        assert after is not None
        assert before is not None
        assert change.value == pytest.approx(after - before)


def test_what_a_metric_is(context: EvalContext, folder: Path) -> None:
    found = {name: evaluated(context, task(name, folder)) for name in ("tiny_text", "tiny_bleu", "tiny_lambada")}
    bits, bleu = found["tiny_text"]["base", "bits_per_byte"], found["tiny_bleu"]["base", "bleu"]
    assert (bits.unit, bits.higher_is_better) == ("bits/byte", False)
    assert found["tiny_text"]["base", "word_perplexity"].unit == "perplexity"
    assert (bleu.unit, bleu.ci_low) == ("points", None)
    assert "no interval: resampling it takes too long" in bleu.method
    assert found["tiny_lambada"]["base", "acc"].unit == "share"
    assert found["tiny_lambada"]["base", "perplexity"].higher_is_better is False


def rows_of(metric: str, *values: float) -> list[dict[str, Any]]:
    row = {"doc_hash": "", "target": "", "responses": [], "items": {}, "higher_is_better": {metric: True}}
    return [{"id": str(i), "metrics": {metric: value}, **row} for i, value in enumerate(values)]


def test_the_unit_is_the_metric_s_whatever_a_model_scores(context: EvalContext) -> None:
    """A mean that happens to lie in 0..1 for one model is no share of which the other model has 35."""
    benchmark = LmEvalTask("lm_eval:mine")
    for metric, unit in {
        "acc": "share",
        "exact_match,strict": "share",
        "mc2": "share",
        "bits_per_byte": "bits/byte",
        "word_perplexity": "perplexity",
        "rougeL": "points",
        "bleu": "points",
        "of_my_own": "points",
    }.items():
        samples = {"base": rows_of(metric, 0.0, 0.5, 1.0), "sft": rows_of(metric, 1.0, 1.0, 0.5)}
        if unit != "share":
            samples["sft"] = rows_of(metric, 20.0, 50.0, 35.0)
        results = benchmark.score(replace(context, baseline="base", origin="base"), samples)
        assert {r.unit for r in results} == {unit}
        assert {one.unit for rows in samples.values() for one in benchmark.measures(rows)} == {unit}
    assert "Wilson" not in benchmark.score(context, {"base": rows_of("of_my_own", 0.0, 1.0, 1.0)})[0].method
    assert "Wilson" in benchmark.score(context, {"base": rows_of("acc", 0.0, 1.0, 1.0)})[0].method


def test_a_share_outside_its_range_is_refused(context: EvalContext) -> None:
    wrong = rows_of("acc", 1.0, 50.0)
    for use in (
        LmEvalTask("lm_eval:mine").measures,
        lambda rows: LmEvalTask("lm_eval:mine").score(context, {"a": rows}),
    ):
        with pytest.raises(DataError, match=r"lm_eval:mine: acc: document 1 scores 50, .* share in 0\.\.1; scale it"):
            use(wrong)


def test_a_corpus_measure_is_a_share_where_the_harness_makes_it(context: EvalContext) -> None:
    """squadv2's own f1 is out of 100 and has the name of the harness's."""
    from lm_eval.api.metrics import f1_score

    benchmark, rows = LmEvalTask("lm_eval:mine"), rows_of("acc", *[1.0] * 6)
    for i, row in enumerate(rows):
        row["items"]["f1"] = [i % 2, i % 3 % 2]
    for function, unit in ((f1_score, "share"), (lambda items: 100 * f1_score(items), "points")):
        made = SimpleNamespace(task=SimpleNamespace(aggregation=lambda function=function: {"f1": function}))
        _, f1 = benchmark.score(replace(context, items={benchmark.name: [made]}), {"base": rows})
        assert (f1.metric, f1.unit) == ("f1", unit)


def test_samples_say_what_was_asked_and_answered(context: EvalContext, folder: Path) -> None:
    benchmark = task("tiny_answers", folder)
    benchmark.prepare(context)
    (row, *rest) = benchmark.predict(context, "base", context.load("base"))
    assert len(rest) == len(DOCS) - 1
    assert row["id"] == "0"
    assert row["target"] == "a"
    assert set(row["metrics"]) == {"exact_match,strict", "exact_match,letter"}
    assert isinstance(row["responses"][0][0], str)
    json.dumps(row, allow_nan=False)


def test_item_values_are_of_the_metrics_that_are_means(context: EvalContext, folder: Path) -> None:
    benchmark = task("tiny_f1", folder)
    rows = benchmark.predict(context, "base", context.load("base"))
    (measure,) = benchmark.measures(rows)
    assert measure.metric == "acc"
    assert measure.value() == np.mean([row["metrics"]["acc"] for row in rows])
    assert measure.higher_is_better is True


def test_limit_and_few_shot(context: EvalContext, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    benchmark = task("tiny_choice", folder, limit=5, num_fewshot=2)
    found = evaluated(context, benchmark)
    assert found["base", "acc"].n_scored == 5
    values = harness(context, "tiny_choice", folder, limit=5, num_fewshot=2)
    assert found["base", "acc"].value == values["acc,none"]
    asked = benchmark.loaded(context).task.instances[0].args[0]
    assert asked.count("sat on the") == 3
    fewer = replace(context, settings=EvalSettings(items=4, bf16=False), out_dir=context.out_dir / "b", items={})
    assert evaluated(fewer, task("tiny_choice", folder))["base", "acc"].n_scored == 4


def test_inputs_change_with_the_task_and_its_data(context: EvalContext, folder: Path, tmp_path: Path) -> None:
    def key(place: Path, **more: Any) -> str:
        return str(task("tiny_choice", place, **more).inputs(replace(context, items={}))["task"])

    assert key(folder) == key(folder)
    assert len({key(folder), key(folder, limit=3), key(folder, num_fewshot=1)}) == 3
    other = tmp_path / "other"
    other.mkdir()
    text = (folder / "tiny_choice.yaml").read_text(encoding="utf-8")
    (other / "tiny_choice.yaml").write_text(text.replace("acc_norm", "acc_bytes"), encoding="utf-8")
    assert key(other) != key(folder)


def test_a_number_that_is_not_finite_is_unscored(context: EvalContext, folder: Path) -> None:
    benchmark = task("tiny_f1", folder)
    rows = benchmark.predict(context, "base", context.load("base"))
    rows[0]["metrics"]["acc"] = None
    rows[1]["items"]["mcc"] = [1, None]
    acc, mcc = benchmark.score(context, {"base": rows})
    assert [(r.metric, r.n_scored, r.n_unscored) for r in (acc, mcc)] == [("acc", 8, 1), ("mcc", 8, 1)]
    assert acc.value == np.mean([row["metrics"]["acc"] for row in rows[1:]])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_before_a_model_is_loaded(context: EvalContext, folder: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=f"lm_eval:{name}: .*{REFUSED[name][1].split(': ')[-1]}"):
        task(name, folder).prepare(context)


def test_names_and_folders(context: EvalContext, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lm_eval:tiny_choise: no such task; nearest: tiny_choice"):
        task("tiny_choise", folder).prepare(context)
    with pytest.raises(RecipeError, match="lm_eval:tiny_group: is a group of tasks; name its tasks"):
        task("tiny_group", folder).prepare(context)
    with pytest.raises(RecipeError, match=r"include_path: .* is no folder"):
        task("tiny_choice", tmp_path / "none").prepare(context)
    text = (folder / "tiny_choice.yaml").read_text(encoding="utf-8")
    (tmp_path / "lost.yaml").write_text(text.replace("docs.jsonl", "lost.jsonl"), encoding="utf-8")
    with pytest.raises(DataError, match=r"lm_eval:tiny_choice: cannot be loaded .*lost.jsonl"):
        task("tiny_choice", tmp_path).prepare(context)


def test_zero_examples_of_a_file_stay_zero(context: EvalContext, folder: Path, tmp_path: Path) -> None:
    text = (folder / "tiny_choice.yaml").read_text(encoding="utf-8")
    (tmp_path / "zero.yaml").write_text(text + "num_fewshot: 0\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="num_fewshot: its file says 0"):
        task("tiny_choice", tmp_path, num_fewshot=5).prepare(context)


def test_nothing_is_downloaded_unasked(context: EvalContext, folder: Path, tmp_path: Path) -> None:
    text = (folder / "tiny_choice.yaml").read_text(encoding="utf-8")
    for name, there, instead, what in (
        ("rouge", "metric: acc\n", "metric: rouge\n", "its metric rouge is downloaded"),
        ("hub", "dataset_path: json", "dataset_path: allenai/ai2_arc", r"its data \(allenai/ai2_arc\) is downloaded"),
        ("far", "test: /", "test: https://", r"its data \(json\) is downloaded"),
    ):
        changed = text.replace(there, instead).replace("tiny_choice", f"tiny_{name}")
        (tmp_path / f"{name}.yaml").write_text(changed, encoding="utf-8")
        with pytest.raises(UnavailableError, match=f"lm_eval:tiny_{name}: {what}, and the hub was not to be asked"):
            task(f"tiny_{name}", tmp_path).prepare(context)
    allowed = replace(context, hub=Hub(allowed=True))  # tests are offline
    with pytest.raises(UnavailableError, match=r"lm_eval:tiny_hub: cannot be loaded .*include_path"):
        task("tiny_hub", tmp_path).prepare(allowed)


def test_without_the_extra(context: EvalContext, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("alignment.evaluation.harness")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RecipeError, match=r"lm_eval:x: needs .*pip install 'alignment-framework\[lm-eval\]'"):
        LmEvalTask("lm_eval:x").prepare(context)


def test_a_suite_file_names_tasks(folder: Path) -> None:
    chosen = choose(["lm_eval:tiny_choice"], {"lm_eval:tiny_choice": {"limit": 3, "include_path": str(folder)}})
    (benchmark,) = chosen.benchmarks.values()
    assert benchmark == task("tiny_choice", folder, limit=3)
    assert benchmark.suite == "forgetting"
    with pytest.raises(RecipeError, match="no option 'shots'"):
        choose(["lm_eval:x"], {"lm_eval:x": {"shots": 3}})
    with pytest.raises(RecipeError, match="limit"):
        choose(["lm_eval:x"], {"lm_eval:x": {"limit": 0}})


def test_nothing_is_printed_and_no_random_number_used_up(
    context: EvalContext, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark, model = task("tiny_choice", folder, num_fewshot=1), context.load("base")
    capsys.readouterr()
    random.seed(5)
    before = random.getstate()
    benchmark.prepare(context)
    rows = benchmark.predict(context, "base", model)
    assert random.getstate() == before
    assert capsys.readouterr() == ("", "")
    assert all(math.isfinite(logprob) for row in rows for [[logprob, _]] in row["responses"])


def test_an_aggregation_that_fails_is_named(context: EvalContext, folder: Path) -> None:
    benchmark = task("tiny_lambada", folder)
    rows = benchmark.predict(context, "base", context.load("base"))
    rows[0]["items"]["perplexity"] = "no number"
    with pytest.raises(DataError, match="lm_eval:tiny_lambada: perplexity: its aggregation failed"):
        benchmark.score(context, {"base": rows})
