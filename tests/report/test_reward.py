"""The reward model's section: every result in one place, words and figures that say what the numbers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report.fake_results import result

from alignment.evaluation.result import EvalResult
from alignment.report import Run
from alignment.report.canvas import style
from alignment.report.html import render
from alignment.report.reward import RewardQuality, reward_quality, reward_tables, told
from alignment.report.reward_figures import FEWEST, reliability, reward_groups
from alignment.report.tables import sections


@pytest.fixture(scope="module")
def quality(run: Run) -> RewardQuality:
    return reward_quality(sections(run.results)["reward_quality"])


def several(run: Run, names: list[str]) -> Run:
    """The run with its reward model's results under more names."""
    own = [r for r in run.results if r.model == "reward" and r.benchmark == "reward_accuracy"]
    copies = [r.model_copy(update={"model": name}) for name in names for r in own]
    return replace(run, results=tuple(copies))


def result_of(metric: str, group: str | None) -> EvalResult:
    return EvalResult.model_validate(result("reward", "reward_accuracy", metric, 0.5, 0.1, 9, group=group))


def test_every_result_is_in_one_place(run: Run, quality: RewardQuality) -> None:
    told_apart = [*quality.overall, *quality.groups]
    told_apart += [r for one in quality.bins for r in (one.stated, one.observed)]
    told_apart += [r for one in quality.annotators for r in (one.own, one.shared, one.others) if r is not None]
    assert sorted(map(repr, told_apart)) == sorted(map(repr, sections(run.results)["reward_quality"]))
    assert (len(quality.groups), len(quality.bins), len(quality.annotators)) == (7, 5, 2)
    assert quality.models == ("reward",)


def test_half_a_point_and_a_strange_group_are_not_lost() -> None:
    pairs = [
        ("reliability", "50% to 60%"),
        ("stated_confidence", "60% to 70%"),
        ("annotator_accuracy_shared", "x"),
        ("annotator_ceiling", "x"),
        ("new", "y"),
    ]
    results = [result_of(metric, group) for metric, group in pairs]
    split = reward_quality(results)
    assert sorted(map(repr, split.overall)) == sorted(map(repr, results))
    assert (split.groups, split.bins, split.annotators) == ((), (), ())


def test_the_words_are_the_numbers(quality: RewardQuality) -> None:
    [(model, words)] = told(quality).items()
    assert model == "reward"
    assert words.replace("\xa0", " ").split("; ") == [
        "orders 71.2% [66.8, 75.7] of the 400 pairs that a majority decided as that majority does",
        "50% is chance, preferring the shorter response gives 45.2% and one annotator agrees with the majority of the "
        "others on 78.1%. It prefers the longer response in 63.1% of the pairs of unequal length, the annotators in "
        "54.8%. Its mean confidence in an order is 71.2%, and 64.1% of the votes agree",
        "the expected calibration error is 6.3% [4.2, 8.4].",
    ]


def test_what_is_undefined_is_not_put_into_words(quality: RewardQuality) -> None:
    lost = tuple(
        r.model_copy(update={"value": None}) if r.metric in ("annotator_agreement", "longer_preferred") else r
        for r in quality.overall
    )
    [words] = told(replace(quality, overall=lost)).values()
    assert "50% is chance and preferring the shorter response gives 45.2%." in words
    assert "longer" not in words
    assert "None" not in words
    assert told(replace(quality, overall=())) == {}


def test_tables_of_the_breakdowns(quality: RewardQuality) -> None:
    tables = {table.name: table for table in reward_tables(quality, "run q")}
    assert tables["reward_calibration"].rows[:2] == (
        ("reward", "50% to 60%", "54.8%", "53.1%", "[43.9, 62.3]", "96"),
        ("", "60% to 70%", "65.1%", "60.2%", "[51.9, 68.5]", "118"),
    )
    own, shared, others = ("69.0% [63.0, 75.0]", "185"), ("68.0% [62.0, 74.0]", "177"), ("77.0% [71.0, 83.0]", "177")
    assert tables["reward_annotators"].rows[1] == ("", "b_ob", *own, *shared, *others)
    for table in tables.values():
        assert all(len(row) == len(table.header) == len(table.align) for row in table.rows)
    alone = replace(quality.annotators[0], shared=None, others=None)
    assert reward_tables(replace(quality, annotators=(alone,)), "")[-1].rows[0][-4:] == ("n/a", "", "n/a", "")
    undefined = alone.own.model_copy(update={"value": None, "method": "nobody else judged these pairs"})
    table = reward_tables(replace(quality, annotators=(replace(alone, others=undefined),)), "")[-1]
    assert table.rows[0][-2] == "n/a"
    assert table.caption.endswith("nobody else judged these pairs.")


def test_the_diagram_is_where_the_numbers_are(run: Run, quality: RewardQuality) -> None:
    with style():
        drawing = reliability(run)
        assert drawing is not None
        axes, below = drawing.figure.axes
        [points] = [line for line in axes.lines if line.get_marker() == "o"]
        assert list(points.get_xdata()) == [one.stated.value for one in quality.bins]
        assert list(points.get_ydata()) == [one.observed.value for one in quality.bins]
        drawn = [tuple(line.get_ydata()) for line in axes.lines]
        assert all((one.observed.ci_low, one.observed.ci_high) in drawn for one in quality.bins)
        assert (0.5, 1) in drawn  # the diagonal
        assert [bar.get_height() for bar in below.patches] == [96, 118, 92, 70, 44]
        assert "reward at 94.1%: 80.0% [66.4, 93.6], n = 44" in drawing.alt


def test_groups_are_where_the_numbers_are_and_the_smallest_are_left_to_the_table(
    run: Run, quality: RewardQuality
) -> None:
    small = [r.model_copy(update={"n_scored": FEWEST - 1}) if "as long" in (r.group or "") else r for r in run.results]
    with style():
        drawing = reward_groups(replace(run, results=tuple(small)))
        assert drawing is not None
        [axes] = drawing.figure.axes
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert sorted(dots) == sorted(r.value for r in quality.groups if "as long" not in (r.group or ""))
        assert "as long" not in drawing.alt
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels[:2] == ["several, of one mind (132)", "several, divided (268)"]


@pytest.mark.parametrize("count", [2, 6])
def test_several_reward_models_are_told_apart_and_fit(run: Run, count: int) -> None:
    names = [f"plackett-luce-{n}" if count == 2 else f"pl-{n}" for n in range(count)]
    with style():
        for draw in (reliability, reward_groups):
            drawing = draw(several(run, names))
            assert drawing is not None
            drawing.figure.draw_without_rendering()
            [legend] = drawing.figure.legends
            assert [text.get_text() for text in legend.get_texts()] == names
            looks = {(line.get_marker(), line.get_color()) for line in legend.get_lines()}
            assert len(looks) == count
            box = drawing.figure.get_tightbbox()
            width, height = drawing.figure.get_size_inches()
            assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
            assert -0.01 <= box.y0 <= box.y1 <= height + 0.01


def test_names_are_text(run: Run) -> None:
    evil = "$x_1$ <script>\u202e</svg> a long name that goes on and on"
    strange = several(run, [evil])
    groups = tuple(
        r.model_copy(update={"group": f"dataset: {evil}"}) if r.metric == "accuracy" and r.group else r
        for r in strange.results
    )
    with style():
        drawing = reward_groups(replace(strange, results=groups))
        assert drawing is not None
        [label, *_] = [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()]
        assert "\u202e" not in label
        assert len(label) < 40
    page = render(replace(strange, results=groups), {})
    assert "<script" not in page


def test_a_run_without_a_reward_model_says_so(run: Run) -> None:
    without = replace(run, results=tuple(r for r in run.results if r.benchmark != "reward_accuracy"))
    with style():
        assert reliability(without) is None
        assert reward_groups(without) is None
    section = render(without, {}).split('id="reward-quality"')[1].split("</section>")[0]
    assert "Not evaluated in this run." in section
    assert "<details" not in section


def test_the_section_does_not_flood_the_page(built: Path, run: Run) -> None:
    page = (built / "index.html").read_text(encoding="utf-8")
    summary = page.split('id="summary"')[1].split("</section>")[0]
    assert "unequal length" not in summary
    section = page.split('id="reward-quality"')[1].split("</section>")[0]
    folded = section.split('<details class="more"><summary>By ')[1:]
    assert [part.split("</summary>")[0] for part in folded] == ["annotator", "group of pairs"]
    # with several models the points of the diagram are folded too
    many = render(several(run, ["a", "b"]), {})
    assert '<details class="more"><summary>By confidence' in many
    assert "2 reward models" not in many
    assert "Tables and figures have 4 reward models." in render(several(run, list("abcd")), {})
