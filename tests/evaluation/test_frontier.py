"""Points of the frontier, of one run over items and of several over seeds."""

from typing import Any

import pytest

from alignment.evaluation.frontier import BY_DEFINITION, frontier, over_runs
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import over_seeds


def result(model: str, benchmark: str, metric: str, value: float | None, against: str) -> EvalResult:
    bounds: dict[str, Any] = {
        "ci_low": None if value is None else value - 1,
        "ci_high": None if value is None else value + 1,
    }
    row = {
        "model": model,
        "benchmark": benchmark,
        "metric": metric,
        "value": value,
        "compared_to": against,
        "version": 1,
    }
    more = {"n_scored": 9, "n_unscored": 0, "seed": 0, "higher_is_better": True, "samples_path": None}
    return EvalResult.model_validate(row | bounds | more)


def run(kept: float | None, gained: float) -> list[EvalResult]:
    return [
        result("sft", "forgetting", "acc_difference", -0.5, "base"),
        result("dpo", "forgetting", "acc_difference", kept, "base"),
        result("base", "win_rate", "score_difference/rm", -2.0, "sft"),
        result("dpo", "win_rate", "score_difference/rm", gained, "sft"),
        result("dpo", "win_rate", "score_difference/rm", 9.0, "base"),  # against another: not of this plot
        result("dpo", "win_rate", "win_rate/rm", 0.7, "sft"),
    ]


def test_seeds_that_agree_are_points_without_an_interval() -> None:
    found = over_runs({1: run(-3.0, 1.5), 2: run(-3.0, 1.5)})
    assert found is not None
    point = next(point for point in found.points if point.model == "dpo")
    assert (point.kept.value, point.kept.low, point.gained.value, point.gained.high) == (-3.0, None, 1.5, None)
    assert "all 2 seeds alike" in point.kept.method


def test_origin_and_baseline_are_zero_by_definition() -> None:
    found = frontier(run(-3.0, 1.5))
    assert found is not None
    assert (found.origin, found.baseline) == ("base", "sft")
    points = {point.model: point for point in found.points}
    assert {m: (p.kept.value, p.gained.value) for m, p in points.items()} == {
        "base": (0.0, -2.0),
        "sft": (-0.5, 0.0),
        "dpo": (-3.0, 1.5),
    }
    assert (points["dpo"].kept.low, points["dpo"].gained.high) == (-4.0, 2.5)
    assert points["base"].kept.method == points["sft"].gained.method == BY_DEFINITION
    assert points["base"].kept.low is None


def test_nothing_to_plot_is_none_and_undefined_stays_undefined() -> None:
    assert frontier([]) is None
    assert frontier(run(1.0, 1.0)[:2]) is None
    found = frontier(run(None, 1.5))
    assert found is not None
    assert {point.model: point.kept.value for point in found.points}["dpo"] is None


def test_over_seeds_the_run_is_the_unit() -> None:
    found = over_runs({1: run(-3.0, 1.0), 2: run(-1.0, 2.0), 3: run(-2.0, 1.2)})
    assert found is not None
    dpo = next(point for point in found.points if point.model == "dpo")
    assert dpo.kept == over_seeds({1: -3.0, 2: -1.0, 3: -2.0}).interval
    assert dpo.gained.value == pytest.approx(1.4)
    assert "3 seeds" in dpo.gained.method
    assert next(p for p in found.points if p.model == "base").kept.method == BY_DEFINITION
    assert over_runs({1: run(-3.0, 1.0), 2: []}) is None
    other = [r.model_copy(update={"compared_to": "dpo"}) for r in run(-3.0, 1.0)]
    with pytest.raises(ValueError, match="measure from different models"):
        over_runs({1: run(-3.0, 1.0), 2: other})
