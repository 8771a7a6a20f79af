import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from comparison.fake_evaluation import (
    EVALUATE,
    answered,
    change_results,
    chosen,
    ranked,
    write_evaluation,
    write_run,
)

from alignment.comparison.paired import compare
from alignment.comparison.rows import PairedTable
from alignment.comparison.sides import pairs, read_operand
from alignment.errors import DataError
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import Benchmark
from alignment.evaluation.benchmarks.items import StoredBenchmarkRun
from alignment.evaluation.statistics import (
    mcnemar_exact,
    paired_difference,
    paired_standard_error,
    ratio_interval,
    ratio_standard_error,
    sign_flip_test,
)
from alignment.report.load import load_run

BIAS = [
    {"id": f"b{i}", "category": "age", "stereotypical": -float(i % 4), "counter": -1.5 if i else None} for i in range(9)
]
BITS = [{"id": f"t{i}", "bits": 10.0 + i * i % 7 if i else None, "bytes": 5 + i, "tokens": 3} for i in range(9)]
RIGHT = [True, True, True, False, True, False, True, True, None, True]
BEFORE = [True, False, False, False, False, True, True, False, True, True]


BOTH = {"a": chosen([True, False, True]), "b": chosen([True, True, True])}

# Macro-averages and tables of many players: no mean over items stands behind them.
WITHOUT_ITEMS = {"human_wins", "judge_agreement", "best_of_k"}


def compared(*operands: str | Path, **options: object) -> PairedTable:
    return compare(pairs([read_operand(str(one)) for one in operands]), seed=0, **options)  # type: ignore[arg-type]


def test_every_benchmark_says_what_its_items_are_worth() -> None:
    for name, benchmark in BENCHMARKS.items():
        kind = type(benchmark)
        says = kind.measures not in (Benchmark.measures, StoredBenchmarkRun.measures)
        if isinstance(benchmark, StoredBenchmarkRun):
            own = (kind.paired, kind.measured) != (StoredBenchmarkRun.paired, StoredBenchmarkRun.measured)
            says = says or own
        assert says != (name in WITHOUT_ITEMS), name
        assert benchmark.identity, name


def test_an_evaluation_is_compared_as_a_run_is(tmp_path: Path) -> None:
    samples = {"multiple_choice": {"hf:org/a@main": chosen(BEFORE), "sft@1": chosen(RIGHT)}}
    out = write_evaluation(tmp_path / "out", samples)
    run = write_run(tmp_path / "run", samples)
    rows = [compared(f"{place}:hf:org/a@main", f"{place}:sft@1").rows for place in (out, run)]
    assert rows[0] == rows[1]
    assert (rows[0][0].a, rows[0][0].b) == ("hf:org/a@main", "sft@1")
    assert {row.difference for row in compared(out, run).rows} == {0.0}  # models of one name
    with pytest.raises(DataError, match="no samples of a model 'sft@2'; nearest: sft@1"):
        read_operand(f"{out}:sft@2")
    next(out.glob("samples/multiple_choice/sft*.jsonl")).unlink()
    with pytest.raises(DataError, match="missing; evaluate again with --out"):
        read_operand(str(out))


@pytest.mark.parametrize(
    ("benchmark", "rows"),
    [
        ("reward_accuracy", ranked(1, missing=[3])),
        ("win_rate", answered(1)),
        ("bias_pairs", BIAS),
        ("bits_per_byte", BITS),
        ("multiple_choice", chosen(RIGHT)),
    ],
)
def test_the_means_of_item_values_are_the_results(benchmark: str, rows: list, tmp_path: Path) -> None:
    """What is compared is what the evaluation printed, with as many items scored and not scored."""
    run = load_run(write_run(tmp_path, {benchmark: {"m": rows}}))
    printed = {r.metric: r for r in run.results if r.group is None}
    shared = 0
    for measure in BENCHMARKS[benchmark].measures(rows):
        if measure.metric in printed:
            scored = [item for item in measure.items.values() if item.value is not None]
            result = printed[measure.metric]
            assert result.value == pytest.approx(sum(i.value or 0 for i in scored) / sum(i.weight for i in scored))
            assert (result.n_scored, result.n_unscored) == (len(scored), len(measure.items) - len(scored))
            assert (result.unit, result.higher_is_better) == (measure.unit, measure.higher_is_better)
            shared += 1
    assert shared


def test_right_and_wrong_answers(tmp_path: Path) -> None:
    """Item 8 has no likelihoods in one: nine are compared; gained 1, 2, 4, 7 and lost 5."""
    run = write_run(tmp_path, {"multiple_choice": {"sft": chosen(BEFORE), "dpo": chosen(RIGHT)}})
    row = next(row for row in compared(f"{run}:sft", f"{run}:dpo").rows if row.metric == "acc")
    new, old = ([float(bool(x)) for i, x in enumerate(side) if i != 8] for side in (RIGHT, BEFORE))
    expected = paired_difference(new, old, list(range(9)), seed=0)
    assert (row.a, row.b, row.n_common, row.n_unscored, row.n_only_a) == ("sft", "dpo", 9, 1, 0)
    assert (row.difference, row.ci_low, row.ci_high) == (expected.value, expected.low, expected.high)
    assert row.standard_error == pytest.approx(paired_standard_error(new, old))
    assert (row.gained, row.lost) == (4, 1)
    assert row.p == row.mcnemar_p == mcnemar_exact(4, 1)
    assert row.p_adjusted == pytest.approx(min(1.0, 2 * mcnemar_exact(4, 1)))  # acc and acc_norm change alike
    assert row.correction == "Holm over 2 tests"
    assert row.value_b == pytest.approx(row.value_a + row.difference)  # type: ignore[operator]


@pytest.mark.parametrize("missing", [{"sft": [8]}, {"dpo": [1, 2]}, {"sft": [0, 8], "dpo": [0, 3]}], ids=str)
def test_no_common_item_is_lost(missing: dict[str, list[int]], tmp_path: Path) -> None:
    """However an item is unscored: by one model, by the other, by both."""
    rng = random.Random(0)
    sides = {}
    for model in ("sft", "dpo"):
        rows = [
            {"id": f"q{i}", "prompt": "?", "gold": "#### 1", "solution": rng.choice(("#### 1", "#### 2"))}
            | {"n_tokens": 3, "finished": True}
            for i in range(10)
        ]
        sides[model] = [row | {"solution": None} if i in missing.get(model, ()) else row for i, row in enumerate(rows)]
    run = write_run(tmp_path, {"gsm8k": sides})
    (row,) = compared(f"{run}:sft", f"{run}:dpo").rows
    lost = {i for some in missing.values() for i in some}
    assert (row.n_common, row.n_unscored) == (10 - len(lost), len(lost))
    printed = next(r for r in load_run(run).results if r.metric == "accuracy_difference")
    assert (printed.n_scored, printed.n_unscored) == (row.n_common, row.n_unscored)
    assert (row.gained, row.lost, row.unit) != (None, None, "percent")  # right or wrong, in percent


def bench(right: Sequence[bool], subsets: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"id": f"{subset}/{i}", "subset": subset, "prompt": str(i), "scores": [float(one), 0.5]}
        for i, (one, subset) in enumerate(zip(right, subsets, strict=True))
    ]


def test_reward_bench_is_compared_over_four_sections_or_not_at_all(tmp_path: Path) -> None:
    subsets = ("alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm")
    old, new = bench([True, True, False, False], subsets), bench([True, True, True, False], subsets)
    run = write_run(tmp_path / "whole", {"reward_bench": {"a": old, "b": new}})
    (row,) = compared(f"{run}:a", f"{run}:b").rows
    assert row.difference == pytest.approx(0.25)
    less = write_run(tmp_path / "less", {"reward_bench": {"a": old, "b": new[:3]}, "multiple_choice": BOTH})
    table = compared(f"{less}:a", f"{less}:b")
    reason = "reward_bench: score: left out, no scored pair of Reasoning: it is of all four sections"
    assert {row.benchmark for row in table.rows} == {"multiple_choice"}
    assert reason in table.notes
    with pytest.raises(DataError, match=f"nothing to compare; .*{reason}"):
        compared(f"{less}:a", f"{less}:b", benchmarks=["reward_bench"])


def test_item_values_are_computed_once_a_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, {"multiple_choice": {"sft": chosen(BEFORE), "dpo": chosen(RIGHT)}})
    kind, asked = type(BENCHMARKS["multiple_choice"]), []
    measures = kind.measures
    monkeypatch.setattr(kind, "measures", lambda self, rows: asked.append(len(rows)) or measures(self, rows))
    compared(f"{run}:sft", f"{run}:dpo")
    assert asked == [10, 10]


def test_a_metric_of_one_side_alone_is_said(tmp_path: Path) -> None:
    without = [row | {"scores": {"plain": 1.0}} for row in answered(2)]
    run = write_run(tmp_path, {"win_rate": {"a": answered(1), "b": without}})
    table = compared(f"{run}:a", f"{run}:b")
    assert "score/rm" not in [row.metric for row in table.rows]
    assert "win_rate: score/rm: left out, one of a and b has no value of it" in table.notes


def test_pairs_of_responses_are_clustered(tmp_path: Path) -> None:
    a, b = ranked(1, 0.3), ranked(2, 2.0)
    run = write_run(tmp_path, {"reward_accuracy": {"bt": a, "pl": b}})
    (row,) = compared(f"{run}:bt", f"{run}:pl").rows
    x, y = ([i.value for i in BENCHMARKS["reward_accuracy"].measures(rows)[0].items.values()] for rows in (a, b))
    clusters = [f"g{i // 2}" for i in range(12) for _ in range(3)]
    assert (row.n_common, row.n_clusters) == (36, 6)
    assert row.standard_error == pytest.approx(paired_standard_error(y, x, clusters))  # type: ignore[arg-type]
    assert row.p == sign_flip_test(y, x, clusters, seed=0).value  # type: ignore[arg-type]
    assert row.mcnemar_p == mcnemar_exact(row.gained or 0, row.lost or 0)
    assert "clusters" in row.method


def test_a_ratio_is_compared_as_a_ratio(tmp_path: Path) -> None:
    other = [row | {"bits": row["bits"] and row["bits"] + 1.0} for row in BITS]
    run = write_run(tmp_path, {"bits_per_byte": {"base": BITS, "sft": other}})
    (row,) = compared(f"{run}:base", f"{run}:sft").rows
    printed = next(r for r in load_run(run).results if r.metric == "bits_per_byte_difference")
    assert row.difference == pytest.approx(8 / sum(range(6, 14)))
    assert row.difference == printed.value
    expected = ratio_interval([1.0] * 8, list(range(6, 14)), seed=0)
    assert (row.ci_low, row.ci_high) == pytest.approx((expected.low, expected.high))
    assert row.standard_error == pytest.approx(ratio_standard_error([1.0] * 8, list(range(6, 14))))


def test_items_of_one_side_are_counted_not_compared(tmp_path: Path) -> None:
    samples = {"bt": ranked(1)[2:], "pl": ranked(2)[:-3]}
    run = write_run(tmp_path, {"reward_accuracy": samples})
    (row,) = compared(f"{run}:bt", f"{run}:pl").rows
    assert (row.n_common, row.n_only_a, row.n_only_b) == (7 * 3, 3, 2)


def test_models_of_one_name_in_two_runs(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, {"reward_accuracy": {"rm": ranked(i), "other": ranked(i + 5)}})
        for i, name in enumerate("ab")
    ]
    rows = compared(*runs).rows
    assert [(row.a, row.b) for row in rows] == [(f"{runs[0]}:{m}", f"{runs[1]}:{m}") for m in ("rm", "other")]
    files = [run / EVALUATE / "samples/reward_accuracy/rm.jsonl" for run in runs]
    (row,) = compared(*files).rows
    assert (row.a, row.difference, row.version) == (str(files[0]), rows[0].difference, 3)


def test_scorers_of_one_name_are_not_always_one(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", {"win_rate": {"dpo": answered(1)}}, scorers={"rm": "key1"})
    b = write_run(tmp_path / "b", {"win_rate": {"dpo": answered(2)}}, scorers={"rm": "key2"})
    table = compared(a, b)
    assert "score/plain" in [row.metric for row in table.rows]
    assert "score/rm" not in [row.metric for row in table.rows]
    assert any("score/rm: left out" in note for note in table.notes)
    c = write_run(tmp_path / "c", {"win_rate": {"dpo": answered(2)}}, scorers={"rm": "key1"})
    assert "score/rm" in [row.metric for row in compared(a, c).rows]


def test_metrics_and_benchmarks_can_be_chosen(tmp_path: Path) -> None:
    samples = {"win_rate": {"x": answered(1), "y": answered(2)}, "multiple_choice": {"x": chosen([True, False])}}
    run = write_run(tmp_path, samples | {"bias_pairs": {"x": BIAS, "y": BIAS}})
    table = compared(f"{run}:x", f"{run}:y", metrics=["ended_share"], correction="Benjamini-Hochberg")
    assert [row.metric for row in table.rows] == ["ended_share"]
    assert table.rows[0].correction == "Benjamini-Hochberg over 1 tests"
    assert table.notes == ("multiple_choice: only x has it",)
    (bias, sizes) = compared(f"{run}:x", f"{run}:y", benchmarks=["bias_pairs"]).rows
    assert (bias.difference, bias.p, sizes.p) == (0.0, None, None)
    with pytest.raises(DataError, match="no benchmark in common among multiple_choice"):
        compared(f"{run}:x", f"{run}:y", benchmarks=["multiple_choice"])
    with pytest.raises(DataError, match="no metric acccuracy"):
        compared(f"{run}:x", f"{run}:y", metrics=["acccuracy"])


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    rows = ranked(1)
    a = write_run(tmp_path / "a", {"reward_accuracy": {"rm": rows}})
    moved = [row | {"id": f"other-{row['id']}"} for row in rows]
    b = write_run(tmp_path / "b", {"reward_accuracy": {"rm": moved}})
    with pytest.raises(DataError, match=r"share no items of reward_accuracy \(12 and 12\)"):
        compared(a, b)
    judged = [row | {"wins": [[0, 0, 0], [1, 0, 0], [1, 1, 0]]} for row in rows]
    with pytest.raises(DataError, match="item 'r0' of reward_accuracy differs in 'wins'"):
        compared(a, write_run(tmp_path / "c", {"reward_accuracy": {"rm": judged}}))
    change_results(b, version=1)
    with pytest.raises(DataError, match="versions 3 and 1 of reward_accuracy"):
        compared(a, b)
    change_results(a, version=1)
    with pytest.raises(DataError, match="hold version 1 of reward_accuracy, this installation reads 3"):
        compared(a, b)


def test_operands_that_are_wrong(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"reward_accuracy": {"bt": ranked(1), "pl": ranked(2)}})
    for text, message in (
        (str(tmp_path / "nowhere"), "not found; give a run's or an evaluation's folder, FOLDER:MODEL"),
        (f"{run}:plackett", "no samples of a model 'plackett'"),
        (str(run / "manifest.json"), "no samples file"),
        (str(write_run(tmp_path / "half", {}, status="running")), r"not finished \(running\)"),
        (str(write_run(tmp_path / "bare", {})), "evaluated nothing"),
    ):
        with pytest.raises(DataError, match=message):
            read_operand(text)
    with pytest.raises(DataError, match="one thing alone"):
        compared(run)
    with pytest.raises(DataError, match="compared with itself"):
        compared(run, run)
    other = write_run(tmp_path / "other", {"reward_accuracy": {"x": ranked(1)}})
    with pytest.raises(DataError, match="no model of the same name"):
        compared(run, other)
    path = run / EVALUATE / "samples/reward_accuracy/bt.jsonl"
    row = {key: ranked(1)[0][key] for key in ("id", "wins", "lengths", "group")}
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match="no samples of reward_accuracy as this version writes them"):
        compared(f"{run}:pl", f"{run}:bt")
