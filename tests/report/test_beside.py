"""Changes by group stand beside the levels of their groups, on the page and in the paper's tables."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from report.fake_suites import CATEGORIES

from alignment.report import Run, load_run
from alignment.report.beside import beside, reading, whole_table
from alignment.report.suites import adjusted_p, p_words
from alignment.report.tables import RECORD_FIELDS, methods, results_table, sections, to_csv


@pytest.fixture(scope="module")
def report(built_suites: Path) -> Path:
    return built_suites


@pytest.fixture(scope="module")
def run(report: Path) -> Run:
    return load_run(report.parent)


def test_every_change_is_beside_its_own_level(run: Run) -> None:
    results = sections(run.results)["bias"]
    found = beside(results)
    changes = [r for r in results if r.compared_to is not None]
    assert len(changes) == 2 * (1 + len(CATEGORIES))
    assert sorted(map(repr, [*found.rows, *found.changes.values()])) == sorted(map(repr, results))
    assert not any(r.compared_to for r in found.rows)
    for level in found.rows:
        change = found.change(level)
        assert (change is None) == (level.benchmark == "bias_pairs" or level.model == "base")
        if change is not None:
            assert (change.model, change.group) == (level.model, level.group)
            assert change.metric == f"{level.metric}_difference"
    assert found.against == "base"


def test_without_changes_by_group_every_result_is_a_row(run: Run) -> None:
    results = [r for r in sections(run.results)["bias"] if r.group is None or r.compared_to is None]
    found = beside(results)
    assert (found.rows, found.changes) == (tuple(results), {})
    assert whole_table("bias", "B", results, run.results) == results_table("bias", "B", results)


def test_what_is_compared_with_no_model_is_a_row(run: Run) -> None:
    results = sections(run.results)["bias"]
    other = [r.model_copy(update={"compared_to": "the shorter answer"}) if r.compared_to else r for r in results]
    assert beside(other).changes == {}


def test_the_table_has_a_row_per_level_and_every_number(run: Run) -> None:
    results = sections(run.results)["bias"]
    table = whole_table("bias", "Bias", results, run.results)
    assert len(table.rows) == sum(r.compared_to is None for r in results)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == len(results)
    assert set(rows[0]) == {*RECORD_FIELDS, "p_holm", "p_benjamini_hochberg"}
    holm = adjusted_p(run.results)
    told = {(r["model"], r["metric"], r["group"]): r["p_holm"] for r in rows}
    for r in results:
        known = holm.get(id(r))
        assert told[r.model, r.metric, r.group or ""] == ("" if known is None else repr(known))
    by_row = {row[1:3]: row[-3:] for row in table.rows if row[0] != "Stereotype share"}
    assert by_row["sft", "Disability status"][0] == "−3.0\u202fpp"
    assert by_row["dpo", "SES <i>x</i>"] == ("n/a", "", "")
    assert "Change: from base, over the same items" in table.caption


def test_the_page_says_them_in_the_row_of_the_group(report: Path, run: Run) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    part = page[page.index('id="table-bias"') : page.index('<h2 id="forgetting">')]
    assert len(re.findall(r"<tr><th scope=\"row\"", part)) == sum(
        r.compared_to is None for r in sections(run.results)["bias"]
    )
    assert "SES &lt;i&gt;x&lt;/i&gt;" in part
    assert "<i>x</i>" not in page
    row = next(one for one in part.split("<tr>") if "</span>Disability status" in one and "sft, " in one)
    assert "−3.0" in row
    assert "[−5.5, −0.5]" in row
    assert "change over 59" in row
    overview = page[page.index('id="table-suite-bias"') : page.index('id="table-bias"')]
    assert "Disability" not in overview


def test_what_is_said_of_a_level_and_its_change(run: Run) -> None:
    found = beside(sections(run.results)["bias"])
    rows = {(r.model, r.group): (r, found.change(r)) for r in found.rows if r.benchmark == "bbq"}
    assert reading(*rows["base", "Age"]) == ""
    assert reading(*rows["sft", "Age"]) == "change over 59"
    assert "n/a: difference of bias scores: undefined" in reading(*rows["dpo", CATEGORIES[-1]])
    level, change = rows["sft", "Age"]
    assert found.p(level, {id(change): 0.01}) == p_words(0.01) == "0.010*"
    assert found.p(level, {}) == found.p(rows["base", "Age"][0], {}) == ""


def test_methods_of_many_groups_are_counted(run: Run) -> None:
    results = [r for r in sections(run.results)["bias"] if r.benchmark == "bbq" and r.compared_to]
    counted = [r.model_copy(update={"method": f"ratio; {n} items"}) for n, r in enumerate(results)]
    name = "Change: BBQ: bias score, ambiguous contexts"
    assert methods(counted) == [
        (f"{name}, sft vs base", "ratio; 0 items"),
        (f"{name}, 10 of 12 numbers", "ratio"),
        (f"{name}, dpo vs base", "ratio; 6 items"),
    ]
