"""Group benchmarks on the tiny model, and their numbers from samples made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import DataError, ModelError
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, EvalSettings
from alignment.evaluation.benchmarks.bias.bold import Bold
from alignment.evaluation.benchmarks.bias.bold_continuations import BoldContinuations
from alignment.evaluation.benchmarks.bias.counterfactuals import Counterfactuals
from alignment.evaluation.result import EvalResult
from alignment.evaluation.suite import run_suites
from alignment.evaluation.suites import configured
from alignment.evaluation.text_scorers import sentiment


def context(folder: Path, model: Path) -> EvalContext:
    return EvalContext(
        models={"base": "1", "sft": "2"},
        load=lambda name: (AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)),
        out_dir=folder / "out",
        seed=0,
        baseline="base",
        settings=EvalSettings(max_new_tokens=8, bf16=False),
        say=lambda line: None,
    )


def run(benchmark: Benchmark, where: EvalContext) -> list[EvalResult]:
    return run_suites(where, [benchmark.name], {benchmark.name: benchmark})


def one(results: Sequence[EvalResult], model: str, metric: str, group: str | None = None) -> EvalResult:
    [found] = [r for r in results if (r.model, r.metric, r.group) == (model, metric, group)]
    return found


def stored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


MOODS = {"g1": [0.4, 0.0, -0.4], "g2": [0.6, 0.2, 0.1], "h1": [0.0, 0.0, 0.9], "h2": [0.0, -0.1, 0.4]}


def bold_samples(moods: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{group}{i}",
            "domain": group[0],
            "group": group,
            "template": f"t{i}",
            "sentiment": mood,
            "profanity": i == 0,
            "classifier": None,
        }
        for group, row in moods.items()
        for i, mood in enumerate(row)
    ]


def test_bold_gaps_levels_and_changes_by_hand(tmp_path: Path) -> None:
    where = context(tmp_path, tmp_path)
    samples = {"base": bold_samples(MOODS), "sft": bold_samples({**MOODS, "g1": [0.0, 0.0, -0.9]})}
    results = Bold().score(where, samples)
    assert one(results, "base", "sentiment", "g: g1").value == pytest.approx(0.0)
    assert one(results, "base", "sentiment_gap").value == pytest.approx(0.3)
    assert one(results, "base", "sentiment_gap", "h").value == pytest.approx(0.2)
    assert one(results, "base", "sentiment_from_mean", "g: g2").value == pytest.approx(0.15)
    assert one(results, "base", "negative", "g: g1").value == pytest.approx(1 / 3)
    assert one(results, "base", "negative_gap").value == pytest.approx(1 / 3)
    assert one(results, "base", "positive", "g: g2").value == 1.0
    assert one(results, "base", "profanity").value == pytest.approx(1 / 3)
    assert one(results, "sft", "sentiment_gap_difference").value == pytest.approx(0.3)
    assert one(results, "sft", "sentiment_difference").value == pytest.approx(-0.9 / 12)
    told = [result for result in results if result.metric.endswith("_gap") and "by chance alone" in result.method]
    assert told
    assert all(f"p {result.p_value:.4f}" in result.method for result in told)  # and so it is in the table's correction
    primary = one(results, "base", "sentiment_gap")
    assert [r for r in results if r.primary and r.model == "base"] == [primary]
    assert "above 0 by chance alone: p " in primary.method
    assert "within templates" in primary.method
    assert not any("classifier" in r.metric for r in results)
    unscored = [{**row, "sentiment": None} if row["id"] == "g10" else row for row in samples["base"]]
    left = Bold().score(where, {"base": unscored})
    assert one(left, "base", "sentiment", "g: g1").n_unscored == 1
    assert one(left, "base", "sentiment", "g: g1").value == pytest.approx(-0.2)
    by_metric = {measure.metric: measure.value() for measure in Bold().measures(samples["base"])}
    assert by_metric["sentiment"] == pytest.approx(one(results, "base", "sentiment").value)


def test_bold_end_to_end(tiny_model_dir: Path, tmp_path: Path) -> None:
    where = context(tmp_path, tiny_model_dir)
    benchmark = Bold(limit=30, max_new_tokens=6)
    results = run(benchmark, where)
    rows = stored(where.out_dir / "samples/bold/base.jsonl")
    assert len(rows) == 30
    assert len({row["template"] for row in rows}) == 3
    assert all(row["continuation"] is not None for row in rows)
    assert one(results, "sft", "sentiment_gap_difference").compared_to == "base"
    assert one(results, "sft", "sentiment_difference").value in (0.0, None)  # the same weights
    assert one(results, "base", "negative_gap").n_scored + one(results, "base", "negative_gap").n_unscored == 30


def test_bolds_published_files_are_read(tmp_path: Path) -> None:
    published = {"American_actors": {"A": ["A is an actor ", "A lived "]}, "American_actresses": {"B": ["B is "]}}
    path = tmp_path / "gender_prompt.json"
    path.write_text(json.dumps(published), encoding="utf-8")
    items = BoldContinuations(data=str(path)).chosen(context(tmp_path, tmp_path))
    assert [(i.domain, i.group, i.template, i.prompt) for i in items] == [
        ("gender", "American_actors", "A", "A is an actor "),
        ("gender", "American_actors", "A", "A lived "),
        ("gender", "American_actresses", "B", "B is "),
    ]
    for broken in ({"a": ["x"]}, {"a": {"b": "x"}}, "text"):
        path.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(DataError, match=r"gender_prompt\.json"):
            BoldContinuations(data=str(path)).chosen(context(tmp_path, tmp_path))


def test_bundled_group_prompts_have_every_template_for_every_group(tmp_path: Path) -> None:
    items = BoldContinuations().chosen(context(tmp_path, tmp_path))
    templates, groups = {i.template for i in items}, {(i.domain, i.group) for i in items}
    assert len(items) == len(templates) * len(groups) == 150
    assert len({(i.template, i.group) for i in items}) == 150


def test_a_classifier_needs_its_label(tmp_path: Path) -> None:
    from alignment.errors import RecipeError

    with pytest.raises(RecipeError, match="`classifier` and `label` go together"):
        configured("bold", {"classifier": "path:x"})
    with pytest.raises(ModelError, match="no folder"):
        Bold(classifier=f"path:{tmp_path / 'none'}", label="toxic").prepare(context(tmp_path, tmp_path))


def answer(item: str, side: str, text: str | None) -> dict[str, Any]:
    category = "age" if item < "3" else "race"
    return {"id": item, "side": side, "category": category, "template": item, "response": text, "finished": True}


def test_counterfactual_gaps_by_hand(tmp_path: Path) -> None:
    good, bad, no, partly = "A good idea.", "A bad idea, sadly.", "I cannot help.", "I cannot help. Here are some tips."
    texts = {"1": (good, bad), "2": (no, good), "3": (partly, no), "4": ("", good), "5": (None, good)}
    rows = [answer(i, side, text) for i, pair in texts.items() for side, text in zip("ab", pair, strict=True)]
    moods = dict(zip((good, bad, no, partly), sentiment([good, bad, no, partly]), strict=True))
    gaps = [float(moods[a] or 0) - float(moods[b] or 0) for a, b in ((good, bad), (no, good), (partly, no))]
    same = [{**row, "response": good} for row in rows]
    results = Counterfactuals().score(context(tmp_path, tmp_path), {"base": same, "sft": rows})
    assert one(results, "sft", "sentiment_gap").value == pytest.approx(sum(gaps) / 3)
    assert one(results, "sft", "sentiment_gap", "age").value == pytest.approx(sum(gaps[:2]) / 2)
    assert one(results, "sft", "sentiment_distance").value == pytest.approx(sum(map(abs, gaps)) / 3)
    assert one(results, "sft", "sentiment_gap").n_unscored == 2
    assert one(results, "sft", "refusal_gap").value == pytest.approx(100 / 3)
    assert one(results, "sft", "refusals_differ").value == pytest.approx(1 / 3)
    lengths = [len(a) - len(b) for a, b in texts.values() if a is not None and b is not None]
    assert one(results, "sft", "length_gap").value == pytest.approx(sum(lengths) / 4)
    assert one(results, "sft", "sentiment_gap_difference").value == pytest.approx(sum(gaps) / 3)
    assert one(results, "base", "sentiment_gap").value == 0.0
    assert [r.metric for r in results if r.primary and r.model == "sft"] == ["sentiment_gap"]


def test_counterfactuals_end_to_end(tiny_model_dir: Path, tmp_path: Path) -> None:
    where = replace(context(tmp_path, tiny_model_dir), models={"base": "1"})
    results = run(Counterfactuals(limit=5, max_new_tokens=6), where)
    rows = stored(where.out_dir / "samples/counterfactuals/base.jsonl")
    assert [row["side"] for row in rows] == ["a", "b"] * 5
    gap = one(results, "base", "length_gap")
    assert gap.n_scored == 5
    assert gap.unit == "characters"
    lengths = [len(row["response"]) for row in rows]
    assert gap.value == pytest.approx(sum(lengths[::2]) / 5 - sum(lengths[1::2]) / 5)
