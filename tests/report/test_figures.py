"""Figures: readable at column width, the same bytes every time, no trace in matplotlib's settings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image
from report.fake_results import result

from alignment.evaluation.result import EvalResult
from alignment.report import Run
from alignment.report.canvas import PALETTE, WIDTH, look, style
from alignment.report.curves import training_curves
from alignment.report.dots import heatmap, lengths, win_rates
from alignment.report.figures import DRAWINGS, write_figures
from alignment.report.load import LogPoint
from alignment.report.svg import inline_svg

NAMES = {
    "training_curves",
    "reward_margins",
    "optimisation",
    "win_rates",
    "heatmap",
    "lengths",
    "reliability",
    "reward_groups",
}


@pytest.fixture(scope="module")
def folder(built: Path) -> Path:
    return built / "figures"


def test_every_figure_is_there_twice(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in NAMES for kind in ("pdf", "png")}


def test_png_is_300_dpi_at_column_width(folder: Path) -> None:
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == round(WIDTH * 300)
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert not image.text  # no software, no date


def test_pdf_embeds_truetype_and_no_date(folder: Path) -> None:
    for path in folder.glob("*.pdf"):
        data = path.read_bytes()
        assert b"/Type3" not in data
        assert b"/CIDFontType2" in data
        assert b"/FontFile2" in data
        assert b"CreationDate" not in data
        assert b"/MediaBox [ 0 0 237.6 " in data


def settings() -> dict[str, object]:
    """matplotlib's settings but the backend, which a mere look would choose."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_no_setting_of_matplotlib_is_changed(run: Run, tmp_path: Path) -> None:
    before = settings()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "text.usetex": False}):
        theirs = settings()
        with style():
            assert matplotlib.rcParams["font.size"] == 8
            assert matplotlib.rcParams["axes.grid"] is False
        assert settings() == theirs
    write_figures(replace(run, logs={}, results=run.results[7:10]), tmp_path)
    assert settings() == before


def test_text_is_8_points_and_there_is_no_title(run: Run) -> None:
    with style():
        for draw in DRAWINGS:
            drawing = draw(run)
            assert drawing is not None
            assert drawing.figure.get_suptitle() == ""
            assert all(axes.get_title() == "" for axes in drawing.figure.axes)
            texts = drawing.figure.findobj(matplotlib.text.Text)
            assert {text.get_fontsize() for text in texts if text.get_text()} == {8}


def test_nothing_to_draw_draws_nothing(run: Run, tmp_path: Path) -> None:
    assert write_figures(replace(run, results=(), logs={}), tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_win_rates_are_where_the_numbers_are(run: Run) -> None:
    with style():
        drawing = win_rates(run)
        assert drawing is not None
        [axes] = drawing.figure.axes
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        drawn = [(dot.get_xdata()[0], dot.get_markerfacecolor() == "#ffffff") for dot in dots]
        wins = [r for r in run.results if r.metric.startswith("win_rate/")]
        assert drawn == [
            (r.value, r.metric == "win_rate/reward") for r in sorted(wins, key=lambda r: "reward" in r.metric)
        ]
        bars = [
            tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
        ]
        assert (wins[0].ci_low, wins[0].ci_high) in bars
        assert [0.5, 0.5] in [list(line.get_xdata()) for line in axes.lines]
        assert "61.7% [55.1, 68.2]" in drawing.alt


def test_a_win_rate_without_an_interval_is_drawn_inside_the_axes(run: Run) -> None:
    bare = {"value": 0.9, "ci_low": None, "ci_high": None}
    lone = tuple(r.model_copy(update=bare) for r in run.results if r.metric == "win_rate/rules")
    with style():
        drawing = win_rates(replace(run, results=lone))
        assert drawing is not None
        low, high = drawing.figure.axes[0].get_xlim()
        assert low < 0.45
        assert high > 0.9
        assert "90.0% no interval" in drawing.alt
        assert "None" not in drawing.alt


def test_a_model_keeps_its_colour(run: Run) -> None:
    assert [look(run, name)[0] for name in ("sft", "reward", "dpo")] == list(PALETTE[:3])
    assert look(run, "base")[0] not in PALETTE
    assert look(run, "length")[0] == PALETTE[3]


def test_undefined_results_are_not_drawn(run: Run) -> None:
    with style():
        lost = tuple(r.model_copy(update={"value": None}) for r in run.results)
        assert win_rates(replace(run, results=lost)) is None
        assert lengths(replace(run, results=lost)) is None


def test_a_diverged_run_is_drawn_with_gaps(run: Run, tmp_path: Path) -> None:
    values = [0.7, math.nan, math.inf, 0.6]
    log = tuple(LogPoint(step, "train", None, {"loss": value}) for step, value in enumerate(values))
    broken = replace(run, logs={"dpo": log})
    with style():
        drawing = training_curves(broken)
        assert drawing is not None
        [line, *_] = drawing.figure.axes[0].lines
        assert [math.isfinite(y) for y in line.get_ydata()] == [True, False, False, True]
    assert set(write_figures(replace(broken, results=()), tmp_path)) == {"training_curves"}


def test_names_are_neither_mathematics_nor_markup(run: Run, tmp_path: Path) -> None:
    evil = "$x_1$ <script>\u202e</svg> \\frac"
    rows = [
        result(evil, "win_rate", f"win_rate/{evil}", 0.6, 0.1, 9, compared_to="base", primary=True),
        result(evil, "win_rate", "length_chars", 600.0, 1.0, 9, unit="characters", label=evil),
    ]
    results = tuple(EvalResult.model_validate(row) for row in rows)
    drawings = write_figures(replace(run, results=results, logs={}), tmp_path)
    assert set(drawings) == {"win_rates", "heatmap", "lengths"}
    for svg in drawings.values():
        assert "<script" not in svg
        assert "\u202e" not in svg
        assert "$x_1$" in "".join(ElementTree.fromstring(svg).itertext())


def test_many_models_with_long_names_fit(run: Run) -> None:
    names = [f"dpo-beta-0.0{i}-conservative-ablation" for i in range(6)]
    rows = [
        result(name, bench, "acc", 0.5, 0.1, 9, primary=True, label=f"{bench} accuracy normalised by bytes")
        for name in names
        for bench in ("arc_easy", "truthfulqa_mc1")
    ]
    rows += [result(name, "win_rate", "win_rate/x", 0.6, 0.1, 9, compared_to=names[0]) for name in names[1:]]
    many = replace(run, results=tuple(EvalResult.model_validate(row) for row in rows), generations=())
    with style():
        for draw in (heatmap, win_rates):
            drawing = draw(many)
            assert drawing is not None
            drawing.figure.draw_without_rendering()
            box = drawing.figure.get_tightbbox()
            width, height = drawing.figure.get_size_inches()
            assert box.x0 >= -0.01
            assert box.y0 >= -0.01
            assert box.x1 <= width + 0.01
            assert box.y1 <= height + 0.01


def test_svg_is_cut_down_to_what_a_page_may_hold(run: Run, tmp_path: Path) -> None:
    svg = write_figures(replace(run, logs={}, results=run.results[7:10]), tmp_path)["win_rates"]
    assert "style=" not in svg
    assert "http" not in svg
    assert "<style" not in svg
    assert "#0072b2" not in svg
    assert "var(--series-1)" in svg
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert not {"width", "height"} & set(root.attrib)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert ids
    assert all(one.startswith("win_rates-") for one in ids)


def test_svg_styles_become_attributes() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt"><metadata/>'
        '<defs><style type="text/css">*{}</style><path id="m"/></defs><use xlink:href="#m" clip-path="url(#c)"/>'
        "<text style=\"font: bold 8px 'DejaVu Sans'; fill: #0072B2; text-anchor: middle\">a</text></svg>"
    )
    assert inline_svg(svg, "f", 'say "hi"') == (
        '<svg role="img" aria-label="say &quot;hi&quot;"><defs><path id="f-m" /></defs>'
        '<use href="#f-m" clip-path="url(#f-c)" />'
        '<text font-weight="bold" font-size="8" fill="var(--series-1)" text-anchor="middle">a</text></svg>'
    )


def test_margins_show_the_reward_model_and_the_policy(run: Run) -> None:
    """The two stages log them under different names."""
    from alignment.report.curves import reward_margins

    drawing = reward_margins(run)
    assert drawing is not None
    legend = {line.get_label() for line in drawing.figure.axes[0].get_lines()}
    assert {"reward", "dpo"} <= {str(label) for label in legend}


def test_lengths_are_those_of_the_answers(run: Run) -> None:
    """A gap of lengths between groups is in characters too, and is no length."""
    rows = [
        result("dpo", "win_rate", "response_characters", 600.0, 1.0, 9, unit="characters"),
        result("dpo", "counterfactuals", "length_gap", -3.0, 1.0, 9, unit="characters"),
    ]
    with style():
        drawing = lengths(replace(run, results=tuple(EvalResult.model_validate(row) for row in rows)))
    assert drawing is not None
    assert "600" in drawing.alt
    assert "3" not in drawing.alt.removeprefix("Mean response lengths with 95% intervals. ")
