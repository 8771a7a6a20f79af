"""Policy optimisation in the report: seeds told from rounds, numbers that are the log's, hostile answers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from report.fake_policy import SEEDS, STEPS, ppo_folder, ppo_log, samples, write_policy_run
from report.fake_run import write_jsonl

from alignment.errors import DataError
from alignment.report import Run, load_run
from alignment.report.canvas import style
from alignment.report.curves import training_curves
from alignment.report.figures import write_figures
from alignment.report.html import render
from alignment.report.load import LogPoint, Sample
from alignment.report.paper import all_tables
from alignment.report.policy import (
    Metric,
    ends,
    groups,
    kl_target,
    measured,
    metrics,
    policy_table,
    series,
    shown_answers,
)
from alignment.report.policy_figures import figure_name, policy_drawings
from alignment.report.tables import to_csv, to_latex
from alignment.stages.scoring import ScorerTerm

REWARD = Metric("objective/scores", "Reward")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_policy_run(tmp_path_factory.mktemp("policy") / "quickstart"))


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return render(run, dict.fromkeys(("policy_ppo", "policy_ppo_update", "study_overoptimisation"), "<svg></svg>"))


def test_seeds_are_one_group_and_rounds_that_go_on_are_not(run: Run, tmp_path: Path) -> None:
    [group] = groups(run)
    assert (group.name, group.kind, group.seeds) == ("ppo", "ppo", True)
    assert [stage.name for stage in group.stages] == ["ppo_1", "ppo_2", "ppo_3"]
    rounds = load_run(write_policy_run(tmp_path / "quickstart", rounds=True))
    assert [(group.name, group.seeds) for group in groups(rounds)] == [
        ("ppo_1", False),
        ("ppo_2", False),
        ("ppo_3", False),
    ]


def test_seeds_have_the_same_settings(run: Run) -> None:
    def with_settings(*changes: dict[str, object]) -> list[tuple[str, list[str]]]:
        given = {f"ppo_{seed}": change for seed, change in zip(SEEDS, changes, strict=True)}
        stages = tuple(
            replace(s, settings={**s.settings, **given[s.name]}) if s.name in given else s for s in run.manifest.stages
        )
        names = tuple(replace(stages[0], name=f"reward_{seed}", kind="reward") for seed in SEEDS)
        found = groups(replace(run, manifest=replace(run.manifest, stages=(*names, *stages))))
        return [(group.name, [s.name for s in group.stages]) for group in found]

    everyone = [("ppo", ["ppo_1", "ppo_2", "ppo_3"])]
    rounds = [{"seed": s, "name": f"ppo_{s}", "reward": [{"model": f"reward_{s}"}]} for s in SEEDS]
    assert with_settings(*rounds) == everyone
    assert with_settings({}, {}, {"kl_coef": 2.0}) == [("ppo", ["ppo_1", "ppo_2"]), ("ppo_3", ["ppo_3"])]
    assert len(with_settings(*({"trainer": {"seed": s}, "data": f"other_{s}"} for s in SEEDS))) == 3


def test_two_experiments_of_several_seeds_have_names_of_their_own(run: Run) -> None:
    ppo = [s for s in run.manifest.stages if s.kind == "ppo"]
    more = [replace(s, name=f"ppo_{i}", settings={**s.settings, "kl_coef": 9.0}) for i, s in enumerate(ppo[:2], 4)]
    logs = dict(run.logs) | {s.name: run.logs["ppo_1"] for s in more}
    found = groups(replace(run, manifest=replace(run.manifest, stages=(*ppo, *more)), logs=logs))
    assert [group.name for group in found] == ["ppo_1+ppo_2+ppo_3", "ppo_4+ppo_5"]


@pytest.mark.parametrize(
    "watched",
    [
        {"models": ["a", "b"]},
        {"model": "hf:org/name@1:x"},
        {"model": "path:/a/gold/"},
        {"model": "auto"},
        {"rule": "plain"},
        {"model": "gold", "name": "mine"},
    ],
)
def test_what_is_watched_is_marked_whatever_it_is(run: Run, watched: dict[str, object]) -> None:
    label = ScorerTerm.model_validate(watched).label
    [group] = groups(run)
    stages = tuple(replace(s, settings={**s.settings, "watch": [watched]}) for s in group.stages)
    logs = {s.name: (LogPoint(1, "train", None, {f"objective/scores/{label}": 1.0}),) for s in stages}
    titles = [metric.title for metric in metrics(replace(run, logs=logs), replace(group, stages=stages))]
    assert titles == [f"{label} (watched)"]


def test_a_stage_without_a_log_and_other_kinds_are_no_groups(run: Run) -> None:
    logs = {name: log for name, log in run.logs.items() if name != "ppo_2"}
    [group] = groups(replace(run, logs=logs))
    assert [stage.name for stage in group.stages] == ["ppo_1", "ppo_3"]
    none = {name: log for name, log in logs.items() if not name.startswith("ppo")}
    assert groups(replace(run, logs=none)) == []
    assert policy_table(replace(run, logs=none)) is None


def test_metrics_are_those_that_were_logged(run: Run) -> None:
    [group] = groups(run)
    titles = [metric.title for metric in metrics(run, group)]
    assert titles[:3] == ["Reward", "finished (watched)", "KL (nats per answer)"]
    # objective/scores/reward is objective/scores itself
    assert "reward" not in titles
    assert "Ensemble disagreement" not in titles
    # nor where every seed has a scorer of its own
    own = {
        name: tuple(
            replace(p, metrics=dict(p.metrics) | {f"objective/scores/of_{name}": p.metrics["objective/scores"]})
            for p in log
        )
        for name, log in run.logs.items()
        if name.startswith("ppo")
    }
    assert [metric.title for metric in metrics(replace(run, logs=dict(run.logs) | own), group)] == titles
    assert kl_target(group.stages[0]) == 6.0
    assert kl_target(replace(group.stages[0], settings={"ppo": {"adaptive_kl": None}})) is None
    assert kl_target(replace(group.stages[0], settings={})) is None


def test_null_is_left_out_and_not_finite_breaks_the_line(run: Run) -> None:
    values = series(run, "ppo_1", "val/explained_variance")
    assert list(values) == list(range(2, STEPS + 1))  # step 1 logged null
    log = (
        LogPoint(1, "train", None, {"objective/scores": math.inf}),
        LogPoint(2, "eval", None, {"objective/scores": 1.0}),
    )
    found = series(replace(run, logs={"ppo_1": log}), "ppo_1", "objective/scores")
    assert list(found) == [1]
    assert math.isnan(found[1])


def test_both_ends_are_means_of_the_window(run: Run) -> None:
    scores = [row["objective/scores"] for row in ppo_log(1)]
    found = ends(run, "ppo_1", REWARD)
    assert found is not None
    assert (found.window, found.n) == (10, STEPS)
    assert found.first == pytest.approx(sum(scores[:10]) / 10)
    assert found.last == pytest.approx(sum(scores[-10:]) / 10)
    short = replace(run, logs={"ppo_1": run.logs["ppo_1"][:5]})
    found = ends(short, "ppo_1", REWARD)
    assert found is not None
    assert (found.window, found.first, found.last) == (1, scores[0], scores[4])
    once = ends(replace(run, logs={"ppo_1": run.logs["ppo_1"][:1]}), "ppo_1", REWARD)
    assert once is not None
    assert (once.first, once.last) == (scores[0], None)
    assert ends(run, "ppo_1", Metric("objective/score_spread", "")) is None


def test_the_table_has_the_mean_over_seeds_and_every_seed(run: Run) -> None:
    table = policy_table(run)
    assert table is not None
    reward = table.rows[:4]
    assert [row[:3] for row in reward] == [
        ("Reward", "ppo, mean of 3", "10 of 48"),
        ("", "ppo_1", "10 of 48"),
        ("", "ppo_2", "10 of 48"),
        ("", "ppo_3", "10 of 48"),
    ]
    mean, *seeds = table.records[:4]
    for key in ("first", "last", "change"):
        assert mean[key] == pytest.approx(sum(float(str(row[key])) for row in seeds) / 3)
    assert all(len(row) == len(table.header) == len(table.align) for row in table.rows)
    # a seed that lacks a metric leaves the others without a mean
    fewer = dict(run.logs) | {"ppo_2": run.logs["ppo_2"][:1]}
    rows = policy_table(replace(run, logs=fewer))
    assert rows is not None
    assert [row[1:] for row in rows.rows[:3]][1][3:] == ("n/a", "n/a")
    assert rows.rows[0][1] == "ppo_1"


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (None, "", False, "n/a"),
        (math.nan, "", False, "not finite"),
        (0.0, "", True, "0.000"),
        (0.5, "share", False, "50.0%"),
        (-0.1, "share", True, "−10.0 pp"),
        (1.25, "", True, "+1.250"),
        (0.00012, "", False, "1.2e−4"),
        (-0.00012, "", True, "−1.2e−4"),
    ],
)
def test_numbers(value: float | None, unit: str, signed: bool, text: str) -> None:
    assert measured(value, unit, signed=signed).replace("\u202f", " ") == text


def test_panels_are_where_the_numbers_are(run: Run) -> None:
    with style():
        drawings = policy_drawings(run)
        assert [drawing.name for drawing in drawings] == ["policy_ppo", "policy_ppo_update"]
        by_title = {
            axes.get_title(loc="left"): axes
            for drawing in drawings
            for axes in drawing.figure.axes
            if axes.get_visible()
        }
        assert list(by_title)[:3] == ["Reward", "finished (watched)", "KL (nats per answer)"]
        *thin, strong = by_title["Reward"].lines
        assert [list(line.get_ydata()) for line in thin] == [
            [row["objective/scores"] for row in ppo_log(seed)] for seed in SEEDS
        ]
        means = [sum(values) / 3 for values in zip(*(line.get_ydata() for line in thin), strict=True)]
        assert list(strong.get_ydata()) == pytest.approx(means)
        assert strong.get_linewidth() > 2 * thin[0].get_linewidth()
        [band] = by_title["KL (nats per answer)"].patches
        assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((4.8, 7.2))
        assert by_title["Explained variance"].get_ylim()[0] == -1.0
        assert max(by_title["Ended by itself (%)"].lines[0].get_ydata()) == pytest.approx(90)
        assert "ppo_3 from" in drawings[0].alt
        for drawing in drawings:
            drawing.figure.draw_without_rendering()
            box, (width, height) = drawing.figure.get_tightbbox(), drawing.figure.get_size_inches()
            assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
            assert -0.01 <= box.y0 <= box.y1 <= height + 0.01


def test_a_single_stage_is_one_line_and_a_fixed_kl_has_no_band(run: Run) -> None:
    stages = tuple(
        replace(stage, settings={"ppo": {"adaptive_kl": None}}) if stage.name == "ppo_1" else stage
        for stage in run.manifest.stages
        if stage.name not in ("ppo_2", "ppo_3")
    )
    with style():
        [first, _] = policy_drawings(replace(run, manifest=replace(run.manifest, stages=stages)))
        assert first.name == "policy_ppo_1"
        reward, *_ = first.figure.axes
        assert len(reward.lines) == 1
        kl = next(axes for axes in first.figure.axes if axes.get_title(loc="left").startswith("KL"))
        assert not kl.patches


def test_their_loss_is_not_among_the_other_losses(run: Run) -> None:
    logs = dict(run.logs) | {
        "ppo_1": (LogPoint(1, "train", None, {"loss": 0.1}), LogPoint(2, "train", None, {"loss": 0.2}))
    }
    with style():
        drawing = training_curves(replace(run, logs=logs))
        assert drawing is not None
        assert "ppo" not in drawing.alt


def test_names_are_no_paths(run: Run) -> None:
    [group] = groups(run)
    evil = replace(group, name="../../" + "x" * 300 + "<script>")
    assert figure_name(evil).startswith("policy_______xxx")
    assert len(figure_name(evil, update=True)) < 60


def test_answers_of_the_first_a_middle_and_the_last_step(run: Run) -> None:
    assert sorted({sample.step for sample in run.answers["ppo_1"]}) == [1, 30, STEPS]
    shown = shown_answers(run.answers["ppo_1"])
    assert shown[0].id == "pr-000"
    assert [answer.step for answer in shown[0].answers] == [1, 30, STEPS]  # followed through training
    assert shown[0].answers[0].response == "Answer 0 of seed 1 at step 1."  # the first of two answers to it
    assert len(shown) == 4
    assert {answer.step for one in shown for answer in one.answers} == {1, 30, STEPS}


def test_prompts_that_come_up_once_are_taken_from_every_step() -> None:
    samples = [Sample(step, f"pr-{step}-{n}", (), "text", 1.0) for step in (1, 2, 3) for n in range(9)]
    shown = shown_answers(samples)
    assert [one.answers[0].step for one in shown] == [1, 2, 3, 1]
    assert shown_answers([]) == []


def test_the_section(page: str) -> None:
    section = page.split('id="policy"')[1].split('<section aria-labelledby="overoptimisation"')[0]
    assert "ppo: proximal policy optimisation, 3 seeds" in section
    assert 'id="figure-policy_ppo"' in section
    assert "Grey band: the KL target ± 20%." in section
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section
    assert "<script" not in section
    assert "⟨U+202E⟩" in section
    assert "more characters</summary>" in section
    assert 'href="../stages/ppo_1-1c3d5e7f9a1b/samples.jsonl"' in section
    # no score of an answer that has none, no KL of one without
    assert "None" not in section
    assert "; cut at the limit" in section
    assert '<a href="#policy">Policy optimisation</a>' in page


def test_a_run_without_such_stages_has_no_such_section(run: Run) -> None:
    logs = {name: log for name, log in run.logs.items() if not name.startswith("ppo")}
    page = render(replace(run, logs=logs, studies=()), {})
    assert 'id="policy"' not in page
    assert "#policy" not in page
    assert "#overoptimisation" not in page


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": "x"}, r"samples\.jsonl: line 1: step"),
        (samples(1)[0] | {"score": "high"}, r"samples\.jsonl: line 1: score"),
        ({"step": 1, "id": "a", "prompt": [], "score": None}, r"samples\.jsonl: line 1: response"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    folder = write_policy_run(tmp_path / "quickstart")
    write_jsonl(folder / ppo_folder(1) / "samples.jsonl", [row])
    with pytest.raises(DataError, match=message):
        load_run(folder)


def test_an_empty_file_of_samples_shows_none(tmp_path: Path) -> None:
    folder = write_policy_run(tmp_path / "quickstart")
    (folder / ppo_folder(1) / "samples.jsonl").write_text("")
    run = load_run(folder)
    assert run.answers["ppo_1"] == ()


def test_every_table_and_figure_has_its_files(
    run: Run, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.report.figures.DRAWINGS", ())  # the others have their own tests
    names = {"policy_ppo", "policy_ppo_update", "study_overoptimisation"}
    assert set(write_figures(run, tmp_path)) == names
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("pdf", "png")}
    assert all(f'href="figures/{name}.pdf"' in page for name in names)
    tables = {table.name: table for table in all_tables(run)}
    for name in ("policy_optimisation", "overoptimisation"):
        assert f'href="tables/{name}.csv"' in page
        assert to_csv(tables[name]).count("\n") == len(tables[name].rows) + 1
        assert to_latex(tables[name]).count("\\\\") >= len(tables[name].rows)
