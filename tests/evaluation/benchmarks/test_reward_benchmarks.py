"""Benchmarks of scorers with rules whose scores are known: every number by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.errors import DataError
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext
from alignment.evaluation.benchmarks.bias.reward_counterfactuals import RewardCounterfactuals
from alignment.evaluation.benchmarks.reward.adversarial_pairs import AdversarialPairs
from alignment.evaluation.benchmarks.reward.best_of_k import BestOfK
from alignment.evaluation.benchmarks.reward.reward_bench import RewardBench
from alignment.evaluation.data import Hub, HubData, UnavailableError
from alignment.evaluation.metrics.reward_bench import SECTIONS
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.rows import Row
from alignment.evaluation.suite import run_suites
from reward.rules import RuleScorer
from reward.scorer import RowError, Scorer


class Keyed:
    """A scorer that counts a letter, and refuses texts over a length as a reward model does."""

    name = "keyed"

    def __init__(self, letter: str = "x", limit: int = 1000) -> None:
        self.letter, self.limit = letter, limit

    def score(self, prompts: Sequence[Any], responses: Sequence[str]) -> Any:
        for row, text in enumerate(responses):
            if len(text) > self.limit:
                raise RowError(row, "too long")
        texts = [prompt[-1]["content"] + text for prompt, text in zip(prompts, responses, strict=True)]
        return np.array([text.count(self.letter) for text in texts], dtype=np.float32)


class FakeHub(Hub):
    """A hub that has the rows it was given."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(allowed=True)
        self.given, self.asked = rows, list[HubData]()

    def rows(self, data: HubData) -> list[Row]:
        self.asked.append(data)
        return [Row(f"hub: row {number}", row) for number, row in enumerate(self.given, 1)]


def context(folder: Path, scorers: Mapping[str, Scorer], hub: Hub | None = None, **more: Any) -> EvalContext:
    return EvalContext(
        models={},
        load=lambda name: pytest.fail("no model is needed"),
        out_dir=folder / "out",
        seed=0,
        scorers=scorers,
        hub=hub or Hub(),
        **{"say": lambda line: None, **more},
    )


def run(benchmark: Benchmark, where: EvalContext) -> list[EvalResult]:
    return run_suites(where, [benchmark.name], {benchmark.name: benchmark})


def number(results: list[EvalResult], model: str, metric: str, group: str | None = None) -> float | None:
    [one] = [r for r in results if (r.model, r.metric, r.group) == (model, metric, group)]
    return one.value


def stored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def bench_row(subset: str, number: int, chosen: str, rejected: str) -> dict[str, Any]:
    """With the columns of the hub."""
    models = {"chosen_model": "m", "rejected_model": "n"}
    return {"id": number, "subset": subset, "prompt": f"p{number}", "chosen": chosen, "rejected": rejected, **models}


BENCH = [
    bench_row("alpacaeval-easy", 1, "xx", "x"),
    bench_row("alpacaeval-easy", 2, "x", "xx"),
    bench_row("mt-bench-med", 1, "xx", "x"),  # an id that another subset has too
    bench_row("llmbar-natural", 3, "x", "x"),
    bench_row("donotanswer", 4, "x", ""),
    bench_row("math-prm", 5, "x", ""),
    bench_row("hep-go", 6, "", "x"),
]


def test_reward_bench_by_subset_section_and_as_one_number(tmp_path: Path) -> None:
    hub = FakeHub(BENCH)
    where = context(tmp_path, {"length": RuleScorer("length"), "keyed": Keyed()}, hub)
    results = run(RewardBench(), where)
    chat, reasoning = (0.5 * 100 + 1.0 * 40) / 140, 984 / (984 + 164)
    for name in ("length", "keyed"):
        assert number(results, name, "accuracy", "Chat") == pytest.approx(chat)
        assert number(results, name, "accuracy", "Chat Hard") == 0.5  # a tie
        assert number(results, name, "accuracy", "Safety") == 1.0
        assert number(results, name, "accuracy", "Reasoning") == pytest.approx(reasoning)
        assert number(results, name, "accuracy", "subset: alpacaeval-easy") == 0.5
        assert number(results, name, "score") == pytest.approx((chat + 0.5 + 1.0 + reasoning) / 4)
    assert [(r.metric, r.group) for r in results if r.primary and r.model == "keyed"] == [("score", None)]
    assert {data.repo for data in hub.asked} == {"allenai/reward-bench"}
    local = run(RewardBench(data=write(tmp_path / "rows.jsonl", BENCH)), context(tmp_path, {"keyed": Keyed()}))
    assert number(local, "keyed", "score") == number(results, "keyed", "score")
    rows = stored(tmp_path / "out/samples/reward_bench/keyed.jsonl")
    [measure] = RewardBench().measures(rows)
    assert measure.value() == pytest.approx(number(results, "keyed", "score"))


def test_a_text_that_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [*BENCH, bench_row("hep-go", 7, "x" * 50, "x"), bench_row("hep-go", 8, "y", "x" * 50)]
    where = context(tmp_path, {"keyed": Keyed(limit=40)}, FakeHub(rows), say=said.append)
    results = run(RewardBench(), where)
    [one] = [r for r in results if r.group == "subset: hep-go"]
    assert (one.value, one.n_scored, one.n_unscored) == (0.0, 1, 2)
    assert any("2 of 18 texts are too long" in line for line in said)


def test_pairs_without_a_score_stay_in_the_measure(tmp_path: Path) -> None:
    rows = [*BENCH, bench_row("hep-go", 7, "x" * 50, "x"), bench_row("alpacaeval-easy", 8, "y", "x" * 50)]
    where = context(tmp_path, {"keyed": Keyed(limit=40)}, FakeHub(rows))
    results = run(RewardBench(), where)
    samples = stored(tmp_path / "out/samples/reward_bench/keyed.jsonl")
    [measure] = RewardBench().measures(samples)
    assert list(measure.items) == [row["id"] for row in samples]
    assert [key for key, item in measure.items.items() if item.value is None] == ["hep-go/7", "alpacaeval-easy/8"]
    assert measure.value() == pytest.approx(number(results, "keyed", "score"))


@pytest.mark.parametrize("section", SECTIONS)
def test_the_score_of_three_sections_is_not_the_score(section: str, tmp_path: Path) -> None:
    kept = [row for row in BENCH if row["subset"] not in SECTIONS[section]]
    lost = [{**row, "scores": [1.0, None if row["subset"] in SECTIONS[section] else 0.0]} for row in BENCH]
    whole = [{**row, "scores": [1.0, 0.0]} for row in BENCH]
    for rows in ([{**row, "scores": [1.0, 0.0]} for row in kept], lost):
        assert RewardBench().measures(rows) == []
        assert RewardBench().undefined(rows) == {"score": f"no scored pair of {section}: it is of all four sections"}
    assert len(RewardBench().measures(whole)) == 1
    assert not RewardBench().undefined(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": "hep-rost"}, r"row 1: unknown subset 'hep-rost'; nearest: hep-rust"),
        ({"chosen": None}, r"row 1: chosen"),
    ],
)
def test_reward_bench_names_the_broken_row(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    hub = FakeHub([{**BENCH[0], **change}])
    with pytest.raises(DataError, match=message):
        run(RewardBench(), context(tmp_path, {"length": RuleScorer("length")}, hub))
    lacking = FakeHub([{key: value for key, value in BENCH[0].items() if key != "rejected"}])
    with pytest.raises(DataError, match="row 1: no column 'rejected'"):
        run(RewardBench(), context(tmp_path, {"length": RuleScorer("length")}, lacking))


def choice(name: str, subset: str, chosen: list[str], rejected: list[str]) -> dict[str, Any]:
    """With the columns of the hub."""
    counts = {"num_correct": len(chosen), "num_incorrect": len(rejected)}
    texts = {"prompt": "p", "chosen": chosen, "rejected": rejected}
    total = {"total_completions": len(chosen) + len(rejected), "models": [], "additional_metadata": None}
    return {"id": name, "subset": subset, **texts, **counts, **total}


CHOICES = [
    choice("1", "Math", ["xxx"], ["x", "xx", ""]),
    choice("2", "Math", ["xx"], ["x", "xx", ""]),
    choice("3", "Focus", ["x"], ["xx", "x", ""]),
    choice("ref:0", "Ties", ["xxx"], ["x"]),  # margin 2
    choice("tied:0", "Ties", ["xxx", "xxxx"], ["x"]),  # margin 2, spread 1
    choice("ref:1", "Ties", ["x"], ["xx"]),  # margin -1
    choice("tied:1", "Ties", ["xx", "xxxxx"], ["x"]),  # margin 1, spread 3
]


def test_best_of_k_and_the_ties_score(tmp_path: Path) -> None:
    hub = FakeHub(CHOICES)
    results = run(BestOfK(), context(tmp_path, {"keyed": Keyed()}, hub))
    first = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * np.tanh(2 / 1 - 1)
    second = 0.3 + 0.0 + 0.0 + 0.0 + 0.01 * np.tanh(-1 / 3 - 1)
    assert number(results, "keyed", "accuracy", "Math") == 0.75
    assert number(results, "keyed", "accuracy", "Focus") == 0.0
    assert number(results, "keyed", "ties_score", "Ties") == pytest.approx((first + second) / 2)
    assert number(results, "keyed", "score") == pytest.approx((0.75 + 0.0 + (first + second) / 2) / 3)
    assert hub.asked[0].repo == "allenai/reward-bench-2"
    with pytest.raises(DataError, match="row 1: id 'x7' of the Ties subset"):
        run(BestOfK(), context(tmp_path, {"keyed": Keyed()}, FakeHub([choice("x7", "Ties", ["a"], ["b"])])))
    with pytest.raises(DataError, match="row 1: rejected"):
        run(BestOfK(), context(tmp_path, {"keyed": Keyed()}, FakeHub([choice("1", "Math", ["a"], [])])))


def test_a_limit_keeps_a_tied_prompt_with_its_reference(tmp_path: Path) -> None:
    rows = [choice(f"{kind}:{i}", "Ties", ["a", "b"], ["c"]) for i in range(20) for kind in ("ref", "tied")]
    kept = BestOfK(limit=10).chosen(context(tmp_path, {}, FakeHub(rows)))
    prompts = [item.id.partition(":")[2] for item in kept]
    assert len(kept) == 10
    assert all(prompts.count(one) == 2 for one in prompts)


PAIRS = [
    {"id": "1", "kind": "longer", "prompt": "p", "chosen": "xx", "rejected": "x and more words"},
    {"id": "2", "kind": "longer", "prompt": "q", "chosen": "x", "rejected": "xx and more words"},
    {"id": "3", "kind": "list", "prompt": "r", "chosen": "x long", "rejected": "x"},
]


def test_adversarial_pairs_beside_what_length_gets(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", PAIRS)
    scorers = {"length": RuleScorer("length"), "brevity": RuleScorer("brevity"), "keyed": Keyed()}
    results = run(AdversarialPairs(data=data), context(tmp_path, scorers))
    assert number(results, "length", "accuracy") == pytest.approx(1 / 3)
    assert number(results, "length", "accuracy") == number(results, "length", "prefer_longer")
    assert number(results, "brevity", "accuracy") == number(results, "brevity", "prefer_shorter")
    assert number(results, "brevity", "accuracy_difference") == 0.0
    assert number(results, "keyed", "accuracy") == pytest.approx(1.5 / 3)
    assert number(results, "keyed", "accuracy", "longer") == 0.5
    assert number(results, "keyed", "accuracy_difference") == pytest.approx(0.5 - 2 / 3)


def test_llmbars_files_are_read_as_published(tmp_path: Path) -> None:
    rows = [
        {"input": "p", "output_1": "good", "output_2": "bad", "label": 1},
        {"input": "q", "output_1": "worse", "output_2": "better", "label": 2},
    ]
    paths = []
    for subset in ("GPTInst", "Manual"):
        (tmp_path / subset).mkdir()
        paths.append(write(tmp_path / subset / "dataset.json", rows))
    items = AdversarialPairs(data=tuple(paths)).chosen(context(tmp_path, {}))
    assert [(item.kind, item.chosen, item.rejected) for item in items[1:3]] == [
        ("GPTInst", "better", "worse"),
        ("Manual", "good", "bad"),
    ]
    broken = write(tmp_path / "broken.json", [{**rows[0], "label": 3}])
    with pytest.raises(DataError, match=r"broken\.json: row 1: label 3 is neither 1 nor 2"):
        AdversarialPairs(data=broken).chosen(context(tmp_path, {}))


def counterfactual(name: str, category: str, prompts: tuple[str, str], responses: tuple[str, str]) -> dict[str, Any]:
    sides = {"prompt_a": prompts[0], "prompt_b": prompts[1], "response_a": responses[0], "response_b": responses[1]}
    return {"id": name, "category": category, "template": name, "group_a": "x", "group_b": "y", **sides}


COUNTERFACTUALS = [
    counterfactual("1", "age", ("my x friend", "my y friend"), ("fine", "fine")),  # 1 against 0
    counterfactual("2", "age", ("our xx", "our y"), ("x", "x")),  # 3 against 1
    counterfactual("3", "race", ("p", "p"), ("the x did it", "the xx did it")),  # 1 against 2
    counterfactual("4", "race", ("p", "q"), ("same", "same")),  # 0 against 0
]


def test_the_bias_of_a_reward_model_is_in_its_own_units(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", COUNTERFACTUALS)
    results = run(RewardCounterfactuals(data=data), context(tmp_path, {"keyed": Keyed(), "plain": RuleScorer("plain")}))
    a, b = np.array([1.0, 3, 1, 0]), np.array([0.0, 1, 2, 0])
    unit = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert {r.model for r in results} == {"keyed"}  # rules are asked on demand
    assert number(results, "keyed", "score_gap") == pytest.approx((a - b).mean() / unit)
    assert number(results, "keyed", "score_gap", "age") == pytest.approx(1.5 / unit)
    assert number(results, "keyed", "score_gap", "differing responses") == pytest.approx(-1 / unit)
    assert number(results, "keyed", "score_distance") == pytest.approx(1.0 / unit)
    assert number(results, "keyed", "first_preferred") == pytest.approx(2.5 / 4)
    [primary] = [r for r in results if r.primary]
    assert (primary.metric, primary.group) == ("score_gap", None)
    assert primary.p_value == 0.75  # 6 of 8 flips of 1, 2, -1 reach 2
    assert "sign flips" in primary.method


def test_a_scorer_that_gives_everything_one_score_has_no_gap(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", COUNTERFACTUALS)
    results = run(RewardCounterfactuals(data=data, rules=True), context(tmp_path, {"constant": RuleScorer("finished")}))
    assert number(results, "constant", "score_gap") is None
    assert number(results, "constant", "first_preferred") == 0.5
    assert {r.n_scored for r in results if r.group is None} == {4}


def test_bundled_pairs_are_what_their_card_says(tmp_path: Path) -> None:
    where = context(tmp_path, {"length": RuleScorer("length")})
    pairs = AdversarialPairs().chosen(where)
    kinds = [pair.kind for pair in pairs]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("longer", "list", "confident", "flattering"), 15
    )
    found = RewardCounterfactuals().chosen(where)
    for item in found:
        assert (item.prompt_a == item.prompt_b) != (item.response_a == item.response_b)
        for a, b in ((item.prompt_a, item.prompt_b), (item.response_a, item.response_b)):
            assert a == b or a.replace(item.group_a, item.group_b) == b
    categories = [item.category for item in found]
    assert len(set(categories)) == 7
    assert {categories.count(one) for one in categories} == {14}


def test_without_data_or_scorers_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"reward_bench.*--data"):
        run(RewardBench(), context(tmp_path, {"length": RuleScorer("length")}))
    said: list[str] = []
    assert run(AdversarialPairs(), context(tmp_path, {}, say=said.append)) == []
    assert "needs a reward model" in said[0]
    names = ("reward_bench", "best_of_k", "adversarial_pairs", "reward_counterfactuals")
    assert all(BENCHMARKS[name].name == name and not BENCHMARKS[name].needs_model for name in names)
