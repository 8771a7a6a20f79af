"""The page's sections of suites, the matrix of forgetting and the frontier."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from report.fake_suites import TASKS, write_suites

from alignment.evaluation.statistics import holm
from alignment.report import Run, load_run
from alignment.report.forgetting import matrix
from alignment.report.frontier_figure import frontier_drawings, not_shown
from alignment.report.story import summary
from alignment.report.suites import adjusted_p, from_several, lines, p_text, suite_table
from alignment.report.tables import sections


@pytest.fixture(scope="module")
def report(built_suites: Path) -> Path:
    return built_suites


@pytest.fixture(scope="module")
def run(report: Path) -> Run:
    return load_run(report.parent)


def test_levels_and_changes_stand_on_one_line(run: Run) -> None:
    adjusted = adjusted_p(run.results)
    found = lines(sections(run.results)["safety"], adjusted)
    assert [(one.metric, one.model) for one in found[:3]] == [
        ("XSTest: complies, safe prompts", model) for model in ("base", "sft", "dpo")
    ]
    assert found[0].change is None
    assert found[2].level is not None
    assert found[2].change is not None
    assert (found[2].level.value, found[2].change.value) == (63.2, pytest.approx(-28.0))
    assert p_text(found[0]) == ""


def test_a_reader_is_told_which_model_changes_are_from(report: Path, run: Run) -> None:
    assert "and its change from base over the same items" in (report / "index.html").read_text(encoding="utf-8")
    assert "Change: from base, over the same items" in (report / "tables" / "suite_safety.tex").read_text("utf-8")
    results = sections(run.results)["safety"]
    first = next(r for r in results if r.compared_to)
    mixed = [r.model_copy(update={"compared_to": "sft"}) if r is first else r for r in results]
    table = suite_table("safety", "Safety", mixed, mixed)
    assert table is not None
    assert "Change: from sft or base, over the same items" in table.caption
    named = [row[0] for row in table.rows if "(change from" in row[0]]
    assert [name.partition(" (")[2] for name in named if "from sft" in name] == ["change from sft or base)"]
    assert any(name.endswith(" (change from base)") for name in named)
    assert from_several(lines(mixed, {}))
    assert not from_several(lines(results, {}))


def test_the_summary_begins_with_win_rates_and_leaves_out_a_mean_of_one_benchmark(run: Run) -> None:
    mean = next(r for r in run.results if r.benchmark == "forgetting" and r.primary and r.compared_to)
    rates = [r.model_copy(update={"compared_to": "sft"}) if "win_rate" in r.metric else r for r in run.results]
    leads = [part.lead for part in summary(replace(run, results=tuple(rates))) if part.lead]
    named = [lead for lead in leads if "forgetting" in lead]
    assert named
    assert "win rate" in leads[0].lower()
    one = [r.model_copy(update={"n_scored": 1}) if r.metric == mean.metric else r for r in run.results]
    alone = [part.lead for part in summary(replace(run, results=tuple(one)))]
    assert not set(named) & set(alone)


def test_p_values_are_corrected_over_every_test_of_the_page_once(run: Run) -> None:
    tested = [r for r in run.results if r.p_value is not None and r.benchmark != "forgetting"]
    taxes = [r for r in run.results if r.p_value is not None and r.benchmark == "forgetting"]
    assert taxes  # they repeat the tests of their benchmarks
    adjusted = adjusted_p(run.results)
    overall, groups = ([r for r in tested if (r.group is None) == whole] for whole in (True, False))
    for family in (overall, groups):
        assert len(family) > 8
        assert [adjusted[id(r)] for r in family] == holm([r.p_value for r in family])
    assert len(adjusted) == len(tested)


def test_the_matrix_is_the_results(run: Run) -> None:
    found = matrix(run)
    assert found is not None
    assert (found.models, found.origin) == (("base", "sft", "dpo"), "base")
    names = {row.name: row for row in found.benchmarks}
    assert len(names) == len(TASKS) + 2
    assert not names["Bits per byte"].averaged
    sciq = names["Sciq accuracy"]
    assert [score.result.value for score in sciq.scores if score.result] == pytest.approx([0.88, 0.856, 0.85])
    assert sciq.scores[0].tax is None
    assert sciq.scores[2].tax is not None
    assert sciq.scores[2].tax.value == pytest.approx(0.03)
    assert sciq.scores[2].step == -2  # 3.0 of a half-interval of 1.5 points, lost
    gsm8k = names["gsm8k accuracy"].scores[1]
    assert gsm8k.result is not None
    assert gsm8k.result.value is None
    assert gsm8k.step is None


def test_what_is_undefined_is_empty_with_its_reason(report: Path, run: Run) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "Forgetting (F) is undefined: no score of gsm8k." in page
    assert "The frontier leaves out sft: no score of gsm8k." in page
    assert not_shown(run) == ["The frontier leaves out sft: no score of gsm8k."]
    [drawing] = frontier_drawings(run)
    assert "base by rules: 0.00, 0.0" in drawing.alt
    assert "dpo by rules: +0.12" in drawing.alt
    assert "sft by" not in drawing.alt


def test_every_suite_has_its_section_and_files(report: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    for suite in ("helpfulness", "safety", "reward", "factuality"):
        assert f'<h2 id="{suite}">' in page
        assert f'<a href="#{suite}">' in page
        assert (report / "tables" / f"{suite}.csv").is_file()
    with (report / "tables" / "suite_safety.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(io.StringIO(stream.read())))
    changed = [row for row in rows if row["compared_to"]]
    assert all(float(row["p_value"]) <= float(row["p_benjamini_hochberg"]) <= float(row["p_holm"]) for row in changed)
    assert {path.name for path in (report / "figures").glob("frontier.*")} == {"frontier.pdf", "frontier.png"}
    assert "<b>rm</b>" not in page
    assert "<i>told" not in page
    assert "\u202e" not in page


def test_an_old_run_has_no_matrix(run: Run) -> None:
    old = replace(run, results=tuple(r for r in run.results if r.benchmark != "forgetting"))
    assert matrix(old) is None
    assert frontier_drawings(old) == []
    assert not_shown(old) == []


def test_the_frontier_over_seeds(tmp_path: Path) -> None:
    from dataclasses import replace

    from alignment.errors import DataError
    from alignment.report.frontier_figure import save_frontier

    one = load_run(write_suites(tmp_path / "one"))
    runs = [one, replace(one, manifest=replace(one.manifest, seed=7))]
    for ending in ("pdf", "png", "svg"):
        save_frontier(runs, tmp_path / f"frontier.{ending}")
        assert (tmp_path / f"frontier.{ending}").stat().st_size > 1000
    with pytest.raises(DataError, match=r"a figure is written as .pdf, .png, .svg"):
        save_frontier(runs, tmp_path / "frontier.txt")
    with pytest.raises(DataError, match="no frontier: every run needs"):
        save_frontier([one, replace(runs[1], results=())], tmp_path / "x.pdf")
