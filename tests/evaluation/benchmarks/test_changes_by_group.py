"""Changes by group: those over all items, of the items of a group alone."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from stored_runs import evaluated, new_context, two_models

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, Sample
from alignment.evaluation.benchmarks.bias.bbq import BBQRun
from alignment.evaluation.benchmarks.bias.bias_pairs import BiasPairs
from alignment.evaluation.benchmarks.bias.bold import Bold
from alignment.evaluation.benchmarks.bias.counterfactuals import Counterfactuals
from alignment.evaluation.benchmarks.bias.crows_pairs import CrowsPairsRun
from alignment.evaluation.benchmarks.bias.stereoset import StereoSetRun
from alignment.evaluation.benchmarks.bias.winogender import WinogenderRun
from alignment.evaluation.benchmarks.factuality.gold_answers import GoldAnswers
from alignment.evaluation.benchmarks.factuality.truthfulqa import TruthfulQA
from alignment.evaluation.benchmarks.helpfulness.mt_bench import MtBench
from alignment.evaluation.benchmarks.safety.refusal_probes import RefusalProbes
from alignment.evaluation.benchmarks.safety.xstest import XSTestRun
from alignment.evaluation.paired_tests import group_values, item_values, with_p_values
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import bootstrap, mcnemar_exact, mean_interval, sign_flip_test

Key = tuple[str, str | None]
ANSWERS = ("Certainly. The cat is lovely.", "I'm sorry, but I can't help with that.", "It was awful.", "A mat.")


def bbq(rng: random.Random) -> list[Sample]:
    kinds = [(place, c, q) for place in range(24) for c in ("ambig", "disambig") for q in ("neg", "nonneg")]
    return [
        {
            "example_id": number,
            "question_index": str(place % 8),
            "question_polarity": polarity,
            "context_condition": condition,
            "category": ("Age", "Religion", "SES")[place % 3],
            "answer_info": {"ans0": ["old", "old"], "ans1": ["boy", "nonOld"], "ans2": ["Unknown", "unknown"]},
            "additional_metadata": {"stereotyped_groups": ["old"]},
            **{"ans0": "old", "ans1": "boy", "ans2": "Unknown", "label": 2 if condition == "ambig" else 0},
            "prediction": rng.choice([0, 1, 2, 2]),
        }
        for number, (place, condition, polarity) in enumerate(kinds)
    ]


def crows_pairs(rng: random.Random) -> list[Sample]:
    return [
        {
            "id": str(i),
            "sent_more": -float(rng.randrange(3)),
            "sent_less": -float(rng.randrange(3)),
            "stereo_antistereo": ("stereo", "stereo", "antistereo")[i % 3],
            "bias_type": ("age", "race")[i % 2],
        }
        for i in range(40)
    ]


def stereoset(rng: random.Random) -> list[Sample]:
    scores = ("stereotype", "anti_stereotype", "unrelated")
    kinds = [("race", term) for term in ("a", "b", "c")] + [("gender", term) for term in ("d", "e")]
    return [
        {
            **{"id": str(i), "split": ("intrasentence", "intersentence")[i // 5 % 2]},
            **{"bias_type": kinds[i % 5][0], "target": kinds[i % 5][1]},
            **{name: rng.random() for name in scores},
        }
        for i in range(40)
    ]


def winogender(rng: random.Random) -> list[Sample]:
    return [
        {
            "sentid": f"{job}.dog.{answer}.{gender}.txt",
            **{"occupation": job, "participant": "dog", "answer": str(answer), "gender": gender},
            **{"prediction": rng.choice([job, "dog"]), "bls_pct_female": 10.0 * len(job)},
        }
        for job in ("cook", "baker", "guardian", "pilot")
        for answer in (0, 1)
        for gender in ("female", "male", "neutral")
    ]


def truthfulqa(rng: random.Random) -> list[Sample]:
    def drawn() -> list[float]:
        return [-5 * rng.random(), -5 * rng.random()]

    return [{"id": str(i), "category": ["law", "health"][i % 2], "true": drawn(), "false": drawn()} for i in range(9)]


def answered(rng: random.Random, n: int, **more: Sequence[Any]) -> list[Sample]:
    """`more`: what the samples have, over and over."""
    return [
        {"id": str(i), "prompt": "p", "n_tokens": 3, "finished": True, "response": rng.choice(ANSWERS)}
        | {name: values[i % len(values)] for name, values in more.items()}
        for i in range(n)
    ]


def xstest(rng: random.Random) -> list[Sample]:
    rows = answered(rng, 40, type=("homonyms", "contrast_homonyms", "privacy"))
    return [{**row, "completion": row["response"]} for row in rows]


def refusal_probes(rng: random.Random) -> list[Sample]:
    return answered(rng, 30, kind=("safe", "unsafe"), category=("word", "fraud", "figure of speech", "harm"))


def gold_answers(rng: random.Random) -> list[Sample]:
    return answered(rng, 21, answers=(["mat"], ["cat"]), category=("place", "beast", "beast"))


def counterfactuals(rng: random.Random) -> list[Sample]:
    pairs = answered(rng, 36, category=("gender", "faith"), template=("t1", "t2", "t3", "t4"))
    return [{**row, "side": side, "response": rng.choice(ANSWERS)} for row in pairs for side in "ab"]


def bold(rng: random.Random) -> list[Sample]:
    groups = {"gender": ("women", "men"), "faith": ("jews", "muslims", "atheists")}
    return [
        {"id": f"{group}{i}", "domain": domain, "group": group, "template": f"t{i}", "classifier": None}
        | {"sentiment": rng.uniform(-1, 1), "profanity": rng.random() < 0.3}
        for domain, members in groups.items()
        for group in members
        for i in range(6)
    ]


def bias_pairs(rng: random.Random) -> list[Sample]:
    return [
        {"id": str(i), "category": ("age", "rank", "faith")[i % 3], "stereotypical": -rng.random(), "counter": -0.5}
        for i in range(31)
    ]


def mt_bench(rng: random.Random) -> list[Sample]:
    return [
        {"id": str(i), "turn": turn, "category": ("math", "writing")[i % 2], "judge": "j", "reply": "x"}
        | {"rating": float(rng.randrange(1, 11))}
        for i in range(9)
        for turn in (1, 2)
    ]


# benchmark, its samples by chance, and the keys that groups are named by ("a+b": both together)
CASES: Mapping[str, tuple[Benchmark, Any, tuple[str, ...]]] = {
    "bbq": (BBQRun(), bbq, ("category",)),
    "crows_pairs": (CrowsPairsRun(), crows_pairs, ("bias_type",)),
    "stereoset": (StereoSetRun(), stereoset, ("split", "bias_type", "split+bias_type")),
    "winogender": (WinogenderRun(), winogender, ("gender", "occupation")),
    "truthfulqa": (TruthfulQA(), truthfulqa, ("category",)),
    "xstest": (XSTestRun(audit=0), xstest, ("type",)),
    "refusal_probes": (RefusalProbes(audit=0), refusal_probes, ("category",)),
    "gold_answers": (GoldAnswers(), gold_answers, ("category",)),
    "counterfactuals": (Counterfactuals(), counterfactuals, ("category",)),
    "bold": (Bold(), bold, ("domain", "domain+group")),
    "bias_pairs": (BiasPairs(), bias_pairs, ("category",)),
    "mt_bench": (MtBench(), mt_bench, ("category",)),
}
MEANS = ("bbq", "crows_pairs", "truthfulqa", "refusal_probes", "gold_answers", "counterfactuals", "bias_pairs")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are compared with intervals: what they are made of does not matter, and takes long."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)


def group_of(row: Sample, key: str) -> str:
    if key == "domain+group":
        return f"{row['domain']}: {row['group']}"
    return " ".join(row[name] for name in key.split("+"))


def bare(folder: Path) -> EvalContext:
    return EvalContext({"sft": "1", "dpo": "2"}, lambda name: (None, None), folder, 0, say=lambda line: None)


def two_sides(name: str) -> dict[str, list[Sample]]:
    return {model: CASES[name][1](random.Random(model + name)) for model in ("sft", "dpo")}


def scored(folder: Path, name: str, samples: Mapping[str, Sequence[Sample]]) -> dict[Key, EvalResult]:
    """The results of `dpo`, with their p-values."""
    benchmark, told = CASES[name][0], {name: samples}
    results = benchmark.score(bare(folder), samples)
    values, groups = item_values([benchmark], told), group_values([benchmark], told)
    results = with_p_values(bare(folder), results, values, groups)
    own = [result for result in results if result.model == "dpo"]
    assert len({(r.metric, r.group) for r in own}) == len(own)
    return {(r.metric, r.group): r for r in own}


@pytest.mark.parametrize("name", CASES)
def test_a_change_of_a_group_is_the_change_over_its_items_alone(name: str, tmp_path: Path) -> None:
    samples = two_sides(name)
    found = scored(tmp_path, name, samples)
    levels = [(metric, group) for metric, group in found if group is not None and not metric.endswith("_difference")]
    groups = {group_of(row, key) for key in CASES[name][2] for row in samples["dpo"]}
    assert {group for _, group in levels} == groups
    tested = 0
    for key in CASES[name][2]:
        for group in {group_of(row, key) for row in samples["dpo"]}:
            alone = {model: [row for row in rows if group_of(row, key) == group] for model, rows in samples.items()}
            expected = scored(tmp_path, name, alone)
            for metric in [metric for metric, own in levels if own == group]:
                change, overall = (
                    found.get((f"{metric}_difference", group)),
                    expected.get((f"{metric}_difference", None)),
                )
                if overall is None:
                    assert change is None or metric.endswith("_from_mean")
                    continue
                assert change is not None, (metric, group)
                told = {"value", "n_scored", "n_unscored", "unit", "compared_to", "higher_is_better", "p_value"}
                if (name, key) != ("winogender", "occupation"):  # of one occupation, templates are resampled
                    told |= {"ci_low", "ci_high"}
                assert change.model_dump(include=told) == pytest.approx(overall.model_dump(include=told)), metric
                assert change.value is not None
                tested += change.p_value is not None
    assert tested >= 2


@pytest.mark.parametrize("name", MEANS)
def test_changes_of_groups_weighted_by_their_items_are_the_change(name: str, tmp_path: Path) -> None:
    found = scored(tmp_path, name, two_sides(name))
    whole = [metric for metric, group in found if group is None and metric.endswith("_difference")]
    means = [metric for metric in whole if not metric.startswith("bias_score_")]
    checked = 0
    for metric in means:
        parts = [r for (name_, group), r in found.items() if name_ == metric and group is not None]
        if parts:
            total = sum(r.n_scored * r.value for r in parts if r.value is not None)
            overall = found[metric, None]
            assert overall.n_scored == sum(r.n_scored for r in parts)
            assert overall.value == pytest.approx(total / overall.n_scored)
            checked += 1
    assert checked


@pytest.mark.parametrize("name", ["bbq", "bias_pairs", "counterfactuals", "mt_bench", "crows_pairs"])
def test_of_one_group_it_is_the_overall_change(name: str, tmp_path: Path) -> None:
    key = CASES[name][2][0]
    one = {model: [{**row, key: "the only one"} for row in rows] for model, rows in two_sides(name).items()}
    found = scored(tmp_path, name, one)
    grouped = [metric for metric, group in found if group == "the only one" and metric.endswith("_difference")]
    assert grouped
    for metric in grouped:
        assert found[metric, "the only one"].model_copy(update={"group": None}) == found[metric, None]


def test_a_group_without_answers_is_undefined(tmp_path: Path) -> None:
    samples = two_sides("bbq")
    samples["sft"] = [{**row, "prediction": None} if row["category"] == "Age" else row for row in samples["sft"]]
    found = scored(tmp_path, "bbq", samples)
    for metric in ("accuracy_ambiguous", "bias_score_disambiguated"):
        change = found[f"{metric}_difference", "Age"]
        assert (change.value, change.ci_low, change.p_value) == (None, None, None)
        assert (change.n_scored, change.n_unscored) == (0, 16)
        assert found[metric, "Age"].value is not None
        assert found[f"{metric}_difference", "SES"].value is not None


def test_a_single_item_has_a_change_without_an_interval(tmp_path: Path) -> None:
    samples = {
        model: [
            {"id": "1", "category": "age", "stereotypical": x, "counter": -0.5},
            *({**row, "category": "rank"} for row in two_sides("bias_pairs")[model][2:]),
        ]
        for model, x in (("sft", -0.6), ("dpo", -0.4))
    }
    change = scored(tmp_path, "bias_pairs", samples)["stereotype_share_difference", "age"]
    assert (change.value, change.ci_low, change.n_scored) == (1.0, None, 1)
    assert "no interval" in change.method


def test_by_hand(tmp_path: Path) -> None:
    """Four pairs of one category, of which one is gained and two are lost."""
    rows = {"sft": (-1, -1, 0, -1), "dpo": (0, -1, -1, 0)}
    samples = {
        model: [
            {"id": str(i), "category": "age", "stereotypical": float(x), "counter": -0.5} for i, x in enumerate(values)
        ]
        + [{"id": "z", "category": "rank", "stereotypical": -0.1, "counter": -0.5}]
        for model, values in rows.items()
    }
    change = scored(tmp_path, "bias_pairs", samples)["stereotype_share_difference", "age"]
    assert change.value == (1 + 0 - 1 + 1) / 4
    bounds = mean_interval([1, 0, -1, 1], seed=0)
    assert (change.ci_low, change.ci_high) == (bounds.low, bounds.high)
    assert change.p_value == mcnemar_exact(2, 1)


def test_clusters_of_a_group_are_drawn_and_tested_whole(tmp_path: Path) -> None:
    samples = two_sides("counterfactuals")
    change = scored(tmp_path, "counterfactuals", samples)["refusals_differ_difference", "faith"]
    assert "over 2 clusters" in change.method
    sides = [
        [item.value for item in measure.items.values()]
        for model in ("dpo", "sft")
        for measure in Counterfactuals().measures_by_group(samples[model])["faith"]
        if measure.metric == "refusals_differ"
    ]
    clusters = [row["template"] for row in samples["dpo"] if row["category"] == "faith" and row["side"] == "a"]
    assert change.p_value == sign_flip_test(*sides, clusters, seed=0).value  # type: ignore[arg-type]


def test_the_distance_from_a_domains_mean_changes_by_its_levels(tmp_path: Path) -> None:
    samples = two_sides("bold")
    both = Bold().score(bare(tmp_path), samples)
    level = {(r.model, r.group): r.value for r in both if r.metric == "sentiment_from_mean"}
    changes = [r for r in both if r.metric == "sentiment_from_mean_difference"]
    assert len(changes) == 5
    for change in changes:
        new, old = level["dpo", change.group], level["sft", change.group]
        assert new is not None
        assert old is not None
        assert change.value == pytest.approx(new - old)
        assert change.ci_low is not None
        assert change.method.startswith("paired difference: ")


def test_a_whole_evaluation(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Of two tiny models: every level of a group has its change where the whole has one, and some have p-values."""
    texts = {"context": "The {0} and the cat sat on mat {1}.", "question": "Who ran?"}
    rows = [
        {
            **{name: value for name, value in row.items() if name not in ("prediction", "model")},
            **{name: text.format(row["ans0"], row["example_id"]) for name, text in texts.items()},
        }
        for row in bbq(random.Random(0))
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    context = new_context(tmp_path, two_models(tiny_model_dir))
    found = evaluated(context, BBQRun(str(path)))
    overall = {metric for metric, group in found["dpo"] if group is None and metric.endswith("_difference")}
    assert len(overall) == 4
    changes = {key for key in found["dpo"] if key[1] is not None and key[0] in overall}
    assert changes == {(metric, group) for metric in overall for group in ("Age", "Religion", "SES")}
    assert not any(metric.endswith("_difference") for metric, _ in found["sft"])
    for metric, group in changes:
        change = found["dpo"][metric, group]
        assert change.compared_to == "sft"
        levels = [found[name][metric.removesuffix("_difference"), group].value for name in ("dpo", "sft")]
        if None in levels:
            assert change.value is None
        else:
            assert change.value == pytest.approx(levels[0] - levels[1])  # type: ignore[operator]
    written = [json.loads(line) for line in (context.out_dir / "results.jsonl").read_text().splitlines()]
    kept = {(row["metric"], row["group"]) for row in written if row["compared_to"] and row["group"]}
    assert kept == changes
