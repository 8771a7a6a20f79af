"""The heat map's levels, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report.fake_results import result

from alignment.evaluation.result import EvalResult
from alignment.report import Run
from alignment.report.heat import heat_grid


def grid_of(run: Run, *rows: dict[str, Any]) -> Any:
    results = tuple(EvalResult.model_validate({"primary": True, **row}) for row in rows)
    return heat_grid(replace(run, results=results, generations=()))


@pytest.mark.parametrize(
    ("value", "higher_is_better", "level"),
    [
        (0.50, True, 0),
        (0.549, True, 0),
        (0.551, True, 1),
        (0.601, True, 2),
        (0.701, True, 3),
        (0.449, True, -1),
        (0.449, False, 1),
        (0.701, False, -3),
        (0.449, None, -1),
    ],
)
def test_level_in_half_intervals_of_the_base(run: Run, value: float, higher_is_better: bool | None, level: int) -> None:
    base, model = (
        result(name, "b", "acc", v, 0.05, 9, higher_is_better=higher_is_better)
        for name, v in (("base", 0.5), ("sft", value))
    )
    [row] = grid_of(run, base, model).rows
    assert [cell.level for cell in row.cells] == [0, level]
    assert row.directed == (higher_is_better is not None)


def test_a_comparison_is_measured_by_its_own_interval_from_its_null(run: Run) -> None:
    row = result("sft", "win_rate", "win_rate/x", 0.617, 0.06, 9, compared_to="base")
    [row] = grid_of(run, row).rows
    assert [(cell.text, cell.level) for cell in row.cells] == [("ref.", None), ("61.7%", 1)]


def test_what_is_missing_or_undefined_has_no_level(run: Run) -> None:
    base = result("base", "b", "acc", None, 0, 0, n_unscored=3)
    grid = grid_of(run, base, result("sft", "b", "acc", 0.5, 0.1, 9), result("base", "c", "acc", 0.5, 0.0, 9),
                   result("dpo", "c", "acc", 0.6, 0.1, 9))  # fmt: skip
    assert grid.models == ("base", "sft", "dpo")
    first, second = grid.rows
    assert [(cell.text, cell.level) for cell in first.cells] == [("n/a", None), ("50.0%", None), ("–", None)]
    assert [cell.level for cell in second.cells] == [0, None, None]  # an interval of width 0 measures nothing


def test_without_an_interval_only_no_difference_has_a_level(run: Run) -> None:
    bare = {"ci_low": None, "ci_high": None, "compared_to": "base"}
    wins = [result(name, "win_rate", "win_rate/x", v, 0, 9, **bare) for name, v in (("sft", 0.5), ("dpo", 0.8))]
    [row] = grid_of(run, *wins).rows
    assert [cell.level for cell in row.cells] == [None, 0, None]


def test_a_metric_of_one_model_is_not_in_the_grid(run: Run) -> None:
    grid = heat_grid(run)
    assert grid is not None
    assert grid.models == ("base", "sft", "dpo")
    assert "Pair accuracy" not in {row.name for row in grid.rows}


def test_no_grid_without_two_models(run: Run) -> None:
    assert grid_of(run, result("base", "b", "acc", 0.5, 0.1, 9)) is None
