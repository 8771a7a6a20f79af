"""Results as lines: the overview stays one, and the whole table has the groups."""

from __future__ import annotations

from typing import Any

from alignment.commands.result_lines import overview, table
from alignment.evaluation.result import EvalResult


def row(model: str, metric: str, value: float, **more: Any) -> EvalResult:
    fields = {"benchmark": "bbq", "version": 1, "ci_low": value - 1, "ci_high": value + 1, "n_unscored": 0, "seed": 0}
    fields |= {"n_scored": 40, "higher_is_better": True, "samples_path": None, "suite": "bias", "method": "bootstrap"}
    return EvalResult(model=model, metric=metric, value=value, **fields | more)


LEVELS = [row(model, "accuracy", value, primary=True) for model, value in (("sft", 50.0), ("dpo", 60.0))]
CHANGE = row("dpo", "accuracy_difference", 10.0, compared_to="sft")
GROUPS = [
    row("sft", "accuracy", 40.0, group="Age"),
    row("dpo", "accuracy", 70.0, group="Age"),
    row("dpo", "accuracy_difference", 30.0, group="Age", compared_to="sft"),
]


def test_groups_and_their_changes_are_not_in_the_overview() -> None:
    results = [*LEVELS, CHANGE, *GROUPS]
    assert overview(results) == overview([*LEVELS, *GROUPS, CHANGE]) == overview([*LEVELS, CHANGE])
    assert len(overview(results)) == 4  # heading, two models, what changes are from
    [line] = [line for line in table(results) if "Age" in line and "accuracy_difference" in line]
    assert line.split()[:6] == ["dpo", "bbq", "Age", "accuracy_difference", "sft", "30.0000"]


def test_a_value_without_an_interval_says_so_and_why() -> None:
    bare: dict[str, Any] = {"ci_low": None, "ci_high": None, "compared_to": "sft"}
    why = "paired difference; no item changed, resampling cannot say how sure that is: no interval"
    same = row("dpo", "accuracy_difference", 0.0, **bare, method=why)
    of_group = same.model_copy(update={"group": "Age", "method": f"{why}; items are occupations"})
    usual = row(
        "dpo", "accuracy_difference", 3.0, compared_to="sft", group="SES", method="paired difference, bootstrap"
    )
    lines = table([*LEVELS, usual, of_group])
    [line] = [line for line in lines if "Age" in line]
    assert line.split()[5:] == ["0.0000", "share", "none", "40", "0"]
    assert lines[-1] == f"accuracy_difference: {why}"
    for told in (lines, overview([*LEVELS, same])):
        assert not any("None" in one or "nan" in one for one in told)
    assert overview([*LEVELS, same])[2].split()[-3:] == ["0.0000", "none", "40"]
