"""The matrix's measures against the papers' formulas and by hand, and their intervals."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext
from alignment.evaluation.benchmarks.forgetting.bits_per_byte import BitsPerByte
from alignment.evaluation.benchmarks.forgetting.lm_eval_task import LmEvalTask
from alignment.evaluation.benchmarks.forgetting.multiple_choice import MultipleChoice
from alignment.evaluation.forgetting import summarise
from alignment.evaluation.lineage import chain, starts
from alignment.evaluation.metrics import forgetting as metrics
from alignment.evaluation.paired_tests import group_values, item_values, with_p_values
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import mcnemar_exact


class Other(MultipleChoice):
    """A second benchmark of the same kind."""

    name = "other"


TASKS = (LmEvalTask("lm_eval:mine"), LmEvalTask("lm_eval:other"))
BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in (MultipleChoice(), Other(), BitsPerByte(), *TASKS)}


def context(tmp_path: Path, *models: str, **more: Any) -> EvalContext:
    named = dict.fromkeys(models, "")
    start: dict[str, Any] = {"load": None, "out_dir": tmp_path, "seed": 3, "baseline": models[0], "origin": models[0]}
    return EvalContext(named, **(start | more))


def chosen(right: list[bool | None]) -> list[dict[str, Any]]:
    logprobs = {True: [-1.0, -2.0], False: [-2.0, -1.0], None: [None, -1.0]}
    row = {"choices": ["yes", "nope"], "answer": 0}
    return [{"id": f"q{i}", **row, "logprobs": logprobs[one]} for i, one in enumerate(right)]


def drawn(seed: int, share: float, n: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return chosen([rng.random() < share for _ in range(n)])


def bits(extra: float) -> list[dict[str, Any]]:
    return [{"id": f"t{i}", "bits": 10.0 + i % 3 + extra, "bytes": 5 + i, "tokens": 3} for i in range(9)]


def evaluated(
    told: EvalContext, samples: dict[str, dict[str, list[dict[str, Any]]]]
) -> tuple[list[EvalResult], list[EvalResult]]:
    """Results of the benchmarks, and those of forgetting."""
    used = [BENCHMARKS[name] for name in samples]
    results = [result for benchmark in used for result in benchmark.score(told, samples[benchmark.name])]
    values = item_values(used, samples)
    results = with_p_values(told, results, values, group_values(used, samples))
    return results, summarise(told, results, values)


def find(results: list[EvalResult], model: str, metric: str, group: str | None = None) -> EvalResult:
    [found] = [r for r in results if (r.model, r.metric, r.group) == (model, metric, group)]
    return found


def test_with_the_task_of_every_stage_it_is_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 3, 5):
        matrix, untrained = rng.random((size, size)), rng.random(size)
        found = metrics.transfer(matrix, range(size), untrained)
        rows = matrix.tolist()
        assert found["acc"] == pytest.approx(metrics.average_accuracy(rows))
        assert found["bwt"] == pytest.approx(metrics.backward_transfer(rows))
        assert found["forgetting"] == pytest.approx(metrics.forgetting(rows))
        assert found["fwt"] == pytest.approx(metrics.forward_transfer(rows, untrained.tolist()))
        # the untrained model as stage 0 of the chain: the same, but for its part in the best stage before the last
        longer = metrics.transfer(np.vstack([untrained, matrix]), range(1, size + 1))
        assert longer["bwt"] == pytest.approx(found["bwt"])
        assert longer["fwt"] == pytest.approx(found["fwt"])
        best = np.maximum(matrix[:-1].max(0), untrained)[:-1]
        assert longer["forgetting"] == pytest.approx((best - matrix[-1, :-1]).mean())


def test_all_learned_at_the_origin_by_hand() -> None:
    scores = np.array([[0.5, 0.8], [0.7, 0.6], [0.6, 0.5]])
    found = metrics.transfer(scores, [0, 0])
    assert found["acc"] == pytest.approx(0.55)
    assert found["bwt"] == pytest.approx((0.1 - 0.3) / 2)
    assert found["forgetting"] == pytest.approx((0.1 + 0.3) / 2)
    assert np.isnan(found["fwt"])
    alone = metrics.transfer(scores[:1], [0, 0])
    assert alone["acc"] == pytest.approx(0.65)
    assert np.isnan([alone["bwt"], alone["forgetting"]]).all()


def test_measures_and_taxes_of_a_chain(tmp_path: Path) -> None:
    right = {"base": [True] * 6 + [False] * 4, "sft": [True] * 8 + [False] * 2, "dpo": [True] * 5 + [False] * 5}
    other = {"base": [True] * 4, "sft": [True, False] * 2, "dpo": [True, True, True, False]}
    samples = {
        "multiple_choice": {m: chosen(one) for m, one in right.items()},
        "other": {m: chosen(one) for m, one in other.items()},
        "bits_per_byte": {m: bits(extra) for m, extra in (("base", 0.0), ("sft", 1.0), ("dpo", -1.0))},
    }
    told = context(tmp_path, "base", "sft", "dpo", starts={"sft": "base", "dpo": "sft"})
    results, made = evaluated(told, samples)
    # R = [[60, 100], [80, 50], [50, 75]] percent; bits per byte is kept apart
    assert find(made, "base", "acc").value == pytest.approx(80)
    assert find(made, "dpo", "acc").value == pytest.approx(62.5)
    assert find(made, "dpo", "bwt").value == find(made, "dpo", "acc_difference").value == pytest.approx(-17.5)
    assert find(made, "dpo", "forgetting").value == pytest.approx(((80 - 50) + (100 - 75)) / 2)
    assert find(made, "sft", "forgetting").value == pytest.approx(((60 - 80) + (100 - 50)) / 2)
    fwt = find(made, "dpo", "fwt")
    assert (fwt.value, fwt.method) == (None, "undefined: no benchmark is learned after the first stage (learned_at)")
    tax = find(made, "dpo", "alignment_tax", "multiple_choice")
    change = find([r for r in results if r.benchmark == "multiple_choice"], "dpo", "acc_difference")
    assert (tax.value, tax.ci_low, tax.ci_high) == (pytest.approx(0.1), -change.ci_high, -change.ci_low)  # type: ignore[operator]
    assert tax.p_value == change.p_value == mcnemar_exact(0, 1)
    rise = find(made, "sft", "alignment_tax", "bits_per_byte")
    change = find(results, "sft", "bits_per_byte_difference")
    assert (rise.value, rise.ci_low, rise.ci_high) == (change.value, change.ci_low, change.ci_high)
    assert rise.value is not None
    assert rise.value > 0
    assert "learned" not in find(made, "dpo", "bwt").method
    assert {r.model for r in made if r.metric != "acc"} == {"sft", "dpo"}
    assert [r.metric for r in made if r.primary] == ["acc_difference"] * 2


def test_what_a_stage_taught_is_counted_from_there(tmp_path: Path) -> None:
    right = {"base": [True, False, False, False], "sft": [True, True, False, False], "dpo": [True, True, True, False]}
    samples = {"multiple_choice": {m: chosen(one) for m, one in right.items()}, "other": {}}
    samples["other"] = {m: chosen(one[::-1]) for m, one in right.items()}
    told = context(tmp_path, *right, starts={"sft": "base", "dpo": "sft"}, learned_at={"other": "dpo"})
    _, made = evaluated(told, samples)
    assert find(made, "dpo", "bwt").value == pytest.approx(50)  # multiple_choice alone: from 25 to 75
    assert find(made, "dpo", "forgetting").value == pytest.approx(50 - 75)
    assert find(made, "dpo", "fwt").value == pytest.approx(50 - 25)  # what sft knew of it beyond base
    assert find(made, "sft", "fwt").value is None
    assert find(made, "dpo", "acc_difference").value == pytest.approx(50)


def test_models_beside_each_other_are_no_stages_of_each_other(tmp_path: Path) -> None:
    right = {"base": [True, False], "dpo": [True, True], "ppo": [False, False]}
    samples = {"multiple_choice": {m: chosen(one) for m, one in right.items()}}
    beside = context(tmp_path, *right, starts={"dpo": "base", "ppo": "base"})
    _, made = evaluated(beside, samples)
    assert find(made, "ppo", "forgetting").value == pytest.approx(50)
    assert "along base > ppo" in find(made, "ppo", "bwt").method
    _, made = evaluated(replace(beside, starts={"dpo": "base", "ppo": "dpo"}), samples)
    assert find(made, "ppo", "forgetting").value == pytest.approx(100)
    assert chain("x", "base", {"x": "y", "y": "x"}) == ["base", "y", "x"]


def test_the_interval_of_one_benchmark_is_that_of_its_difference(tmp_path: Path) -> None:
    samples = {"multiple_choice": {"base": drawn(1, 0.6, 300), "dpo": drawn(2, 0.5, 300)}}
    results, made = evaluated(context(tmp_path, "base", "dpo"), samples)
    change, bwt = find(results, "dpo", "acc_difference"), find(made, "dpo", "bwt")
    assert bwt.value == pytest.approx(100 * (change.value or 0))
    assert [bwt.ci_low, bwt.ci_high] == pytest.approx(
        [100 * (change.ci_low or 0), 100 * (change.ci_high or 0)], abs=0.8
    )
    forgot = find(made, "dpo", "forgetting")
    assert (forgot.ci_low, forgot.ci_high) == pytest.approx((-(bwt.ci_high or 0), -(bwt.ci_low or 0)))
    assert "benchmarks fixed" in bwt.method


def test_measures_that_no_resample_moves_have_no_interval(tmp_path: Path) -> None:
    """Both models give the same answers: no change, no forgetting; and a benchmark that is all right has its Wilson."""
    answers = drawn(1, 0.6, 40)
    results, made = evaluated(context(tmp_path, "base", "dpo"), {"multiple_choice": {"base": answers, "dpo": answers}})
    for metric in ("acc_difference", "bwt", "forgetting"):
        measure = find(made, "dpo", metric)
        assert (measure.value, measure.ci_low, measure.ci_high) == (0.0, None, None)
        assert "resamples of items agree, resampling cannot say how sure that is: no interval" in measure.method
    assert find(made, "dpo", "acc").ci_low is not None
    tax = find(made, "dpo", "alignment_tax", "multiple_choice")
    assert (tax.value, tax.ci_low, tax.ci_high) == (0.0, None, None)
    assert "no item changed" in tax.method
    right = {m: chosen([True] * 9) for m in ("base", "dpo")}
    results, made = evaluated(context(tmp_path, "base", "dpo"), {"multiple_choice": right})
    assert (find(made, "dpo", "acc").value, find(made, "dpo", "acc").ci_low) == (100.0, None)
    assert 0.6 < (find(results, "dpo", "acc").ci_low or 0) < 1.0


def test_two_benchmarks_of_one_variance_halve_it(tmp_path: Path) -> None:
    """The mean of two independent changes has 1/√2 of the error of each."""
    pair = {"base": drawn(1, 0.6, 400), "dpo": drawn(2, 0.5, 400)}
    _, one = evaluated(context(tmp_path, "base", "dpo"), {"multiple_choice": pair})
    _, two = evaluated(context(tmp_path, "base", "dpo"), {"multiple_choice": pair, "other": pair})
    widths = [(r.ci_high or 0) - (r.ci_low or 0) for r in (find(m, "dpo", "acc_difference") for m in (one, two))]
    assert widths[1] / widths[0] == pytest.approx(0.5**0.5, rel=0.08)


def scored_by_its_own(metric: str, *values: float) -> list[dict[str, Any]]:
    """Samples of a task of lm-evaluation-harness."""
    row = {"doc_hash": "", "target": "", "responses": [], "items": {}, "higher_is_better": {metric: True}}
    return [{"id": str(i), "metrics": {metric: value}, **row} for i, value in enumerate(values)]


def test_points_have_a_tax_and_are_not_averaged(tmp_path: Path) -> None:
    """The score of a task's own is in 0..1 for one model by chance, in 0..100 for the other by definition."""
    mine = {"base": scored_by_its_own("score", 0.0, 1.0, 1.0), "dpo": scored_by_its_own("score", 0.0, 35.0, 70.0)}
    accuracy = {"base": scored_by_its_own("acc", 1.0, 1.0, 0.0), "dpo": scored_by_its_own("acc", 1.0, 0.0, 0.0)}
    results, made = evaluated(context(tmp_path, "base", "dpo"), {"lm_eval:mine": mine, "lm_eval:other": accuracy})
    tax = find(made, "dpo", "alignment_tax", "lm_eval:mine")
    assert (tax.value, tax.unit) == (pytest.approx(2 / 3 - 35), "points")
    assert find(made, "dpo", "acc").value == pytest.approx(100 / 3)
    assert "over 1 benchmarks (lm_eval:other)" in find(made, "dpo", "acc").method
    assert find(results, "dpo", "acc_difference").p_value == mcnemar_exact(0, 1)


def test_one_metric_in_two_units_is_refused(tmp_path: Path) -> None:
    told, samples = context(tmp_path, "base", "dpo"), {m: chosen([True, False]) for m in ("base", "dpo")}
    results, _ = evaluated(told, {"multiple_choice": samples})
    mixed = [r.model_copy(update={"unit": "points"}) if r.model == "dpo" else r for r in results]
    with pytest.raises(DataError, match="multiple_choice: acc: in share for base, in points for dpo; a benchmark must"):
        summarise(told, mixed, {})


def test_undefined_is_said_and_is_no_zero(tmp_path: Path) -> None:
    samples = {"multiple_choice": {"base": chosen([True, None]), "dpo": chosen([None, None])}}
    _, made = evaluated(context(tmp_path, "base", "dpo"), samples)
    assert find(made, "dpo", "bwt").value is None
    assert find(made, "dpo", "bwt").method == "undefined: no score of multiple_choice"
    tax = find(made, "dpo", "alignment_tax", "multiple_choice")
    assert (tax.value, tax.n_scored) == (None, 0)
    _, made = evaluated(context(tmp_path, "base"), {"multiple_choice": {"base": chosen([True])}})
    assert made == []
    told = context(tmp_path, "base", "dpo")
    results, _ = evaluated(told, {"multiple_choice": {m: chosen([True, False]) for m in ("base", "dpo")}})
    [bwt] = [r for r in summarise(told, results, {}) if r.metric == "bwt"]
    assert (bwt.value, bwt.ci_low) == (0.0, None)
    assert "no interval: multiple_choice keeps no item values of acc" in bwt.method


def test_differences_get_the_p_value_of_a_comparison(tmp_path: Path) -> None:
    samples = {"bits_per_byte": {"base": bits(0.0), "dpo": bits(0.5)}}
    results, _ = evaluated(context(tmp_path, "base", "dpo"), samples)
    assert find(results, "dpo", "bits_per_byte_difference").p_value == pytest.approx(2 / 2**9)
    assert find(results, "dpo", "bits_per_byte").p_value is None
    equal = {"multiple_choice": {m: chosen([True, False]) for m in ("base", "dpo")}}
    results, _ = evaluated(context(tmp_path, "base", "dpo"), equal)
    assert find(results, "dpo", "acc_difference").p_value is None  # nothing differs, nothing to test


def test_the_registry_knows_who_started_from_whom(tmp_path: Path) -> None:
    from alignment.registry import ModelRegistry

    registry = ModelRegistry(tmp_path / "registry")
    digests: dict[str, str] = {"base": "b" * 64}
    for name, parent in (("sft", "base"), ("middle", "sft"), ("dpo", "middle")):
        folder = tmp_path / name
        folder.mkdir()

        def fill(place: Path, name: str = name) -> None:
            (place / "weights").write_text(name)

        entry = registry.add(
            name,
            kind="policy",
            role="policy",
            parent="hf:a/b@main" if parent == "base" else f"{parent}@1",
            parent_digest=digests[parent],
            fill=fill,
        )
        digests[name] = entry.digest
    evaluated_models = {name: digests[name] for name in ("dpo", "base", "sft")}
    assert starts(evaluated_models, registry) == {"dpo": "sft", "sft": "base"}
    assert starts({"dpo": digests["dpo"], "other": "c" * 64}, registry) == {}
