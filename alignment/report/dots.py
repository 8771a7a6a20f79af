"""Results as figures: win rates and lengths as dots with intervals, and the heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from alignment.evaluation.result import EvalResult
from alignment.report.canvas import BETTER, FULL_WIDTH, GREY, INK, NEUTRAL, PAPER, WIDTH, WORSE, Drawing, look, panels
from alignment.report.display import LENGTH_UNITS, metric_name, null_value, scorer, shown, subject, visible
from alignment.report.heat import Cell, Row, heat_grid
from alignment.report.load import Run
from alignment.report.tables import by_metric, sections, training_scorers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = 20  # characters in a line of a row's label
HEADING = 40  # characters in a line of a heading


def win_rates(run: Run) -> Drawing | None:
    """Win rates as dots with 95% intervals around the line at one half; open dots for the training reward model."""
    results = [r for r in sections(run.results)["win_rates"] if null_value(r) == 0.5 and r.group is None]
    results = [r for r in results if r.value is not None]
    if not results:
        return None
    groups = dict(by_metric(results))
    own = training_scorers(run)
    headings = sum(len(wrap(visible(name), HEADING)) for name in groups)
    figure, [axes] = panels(1, 0.6 + 0.2 * (_pitch(results) * len(results) + headings))
    _dots(run, axes, groups, open_dots=own)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    low = min([0.45, *(x for r in results for x in (r.value, r.ci_low) if x is not None)])
    high = max([0.55, *(x for r in results for x in (r.value, r.ci_high) if x is not None)])
    axes.set_xlim(max(-0.02, low - 0.03), min(1.02, high + 0.03))
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f}")
    marked = any(scorer(r) in own for r in results)
    axes.set_xlabel("win rate (%)" + ("; open: scored by the\nreward model of this run" if marked else ""), loc="right")
    told = [f"{metric_name(r)}, {subject(r)}: {shown(r).value} {shown(r).interval}" for r in results]
    return Drawing("win_rates", "Win rates with 95% intervals; the line marks 50%. " + "; ".join(told) + ".", figure)


def lengths(run: Run) -> Drawing | None:
    """Mean response lengths with 95% intervals, a panel per unit, each from zero."""
    answers = [r for r in run.results if r.benchmark == "win_rate" and r.unit in LENGTH_UNITS]  # not gaps of lengths
    results = [r for r in answers if r.group is None and r.compared_to is None and r.value is not None]
    by_unit = {u: rows for u in LENGTH_UNITS if (rows := [r for r in results if r.unit == u])}
    if not by_unit:
        return None
    sizes = [len(rows) * _pitch(rows) for rows in by_unit.values()]
    height = 0.2 + sum(0.4 + 0.2 * size for size in sizes)
    figure, sheets = panels(len(by_unit), height, ratios=[s + 0.5 for s in sizes])
    for (unit, rows), axes in zip(by_unit.items(), sheets, strict=True):
        _dots(run, axes, {"": rows})
        axes.set_xlim(left=0)
        axes.set_xlabel(f"mean response length ({unit})", loc="right")
    told = [f"{subject(r)}: {shown(r).value} {shown(r).interval} {r.unit}" for r in results]
    return Drawing("lengths", "Mean response lengths with 95% intervals. " + "; ".join(told) + ".", figure)


def _wrapped(text: str) -> str:
    """A label over as many lines as it needs beside the dots."""
    return "\n".join(wrap(visible(text), LABEL)) or " "


def _pitch(results: Sequence[EvalResult]) -> float:
    """Room for a row, in rows of one line: as much as the longest label needs."""
    return 0.3 + 0.7 * max(_wrapped(subject(r)).count("\n") + 1 for r in results)


def _dots(
    run: Run, axes: Axes, groups: Mapping[str, Sequence[EvalResult]], *, open_dots: frozenset[str] = frozenset()
) -> None:
    """One row per result under its group's heading (if it has one), top to bottom; a model keeps its colour."""
    pitch = max(_pitch(rows) for rows in groups.values())
    rows_at: list[tuple[float, str]] = []
    y = -0.5
    for heading, rows in groups.items():
        for line in wrap(visible(heading), HEADING):
            place = (0.01, y + 0.5)
            text = axes.annotate(line, place, xycoords=("figure fraction", "data"), va="center", fontweight="bold")
            text.set(in_layout=False, annotation_clip=False)
            text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.5})  # the line at 50% passes behind it
            y += 1
        for result in rows:
            at = y + pitch / 2
            colour, _ = look(run, result.model)
            assert result.value is not None  # both callers leave undefined results to the tables
            if result.ci_low is not None and result.ci_high is not None:
                axes.plot([result.ci_low, result.ci_high], [at, at], color=colour, solid_capstyle="butt")
            face = PAPER if scorer(result) in open_dots else colour
            axes.plot([result.value], [at], "o", markersize=4.5, color=colour, markerfacecolor=face)
            rows_at.append((at, _wrapped(subject(result))))
            y += pitch
    axes.set_ylim(y + 0.1, -0.6)
    axes.set_yticks([at for at, _ in rows_at], [label for _, label in rows_at])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def heatmap(run: Run) -> Drawing | None:
    """Models as columns, primary metrics as rows; the colour says how far from the base, the text the value."""
    grid = heat_grid(run)
    if grid is None:
        return None
    names = [_wrapped(row.name) for row in grid.rows]
    heights = [max(2, name.count("\n") + 1) * 0.145 + 0.07 for name in names]
    longest = max(len(visible(model)) for model in grid.models)
    turned = longest * len(grid.models) > 24  # characters that fit over the cells of one column
    width = WIDTH if len(grid.models) <= 5 else FULL_WIDTH
    figure, [axes] = panels(1, sum(heights) + 0.62 + (0.075 * longest if turned else 0), width=width)
    y, centres = 0.0, []
    for row, height in zip(grid.rows, heights, strict=True):
        for x, cell in enumerate(row.cells):
            _cell(axes, x, y, height, row, cell)
        centres.append(y + height / 2)
        y += height
    axes.set_xlim(0, len(grid.models))
    axes.set_ylim(y, 0)
    axes.xaxis.tick_top()
    axes.set_xticks([x + 0.5 for x in range(len(grid.models))], [visible(m) for m in grid.models])
    if turned:
        axes.tick_params(axis="x", rotation=90)
    axes.set_yticks(centres, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(
        f"blue: better, orange: worse than {visible(grid.base)};\nstronger from 1, 2, 4 half-intervals on", loc="right"
    )
    told = [
        f"{row.name}: " + ", ".join(f"{m} {c.text}" for m, c in zip(grid.models, row.cells, strict=True))
        for row in grid.rows
    ]
    return Drawing("heatmap", "Primary metrics by model. " + "; ".join(told) + ".", figure)


def _cell(axes: Axes, x: int, y: float, height: float, row: Row, cell: Cell) -> None:
    from matplotlib.patches import Rectangle

    colours = NEUTRAL if not row.directed else BETTER if (cell.level or 0) > 0 else WORSE
    face = colours[abs(cell.level) - 1] if cell.level else PAPER
    axes.add_patch(Rectangle((x, y), 1, height, facecolor=face, edgecolor=GREY, linewidth=0.4))
    axes.text(x + 0.5, y + height / 2, visible(cell.text), ha="center", va="center", color=INK)
