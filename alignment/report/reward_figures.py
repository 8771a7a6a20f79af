"""The reward model as figures: its reliability diagram, and its accuracy by group of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.evaluation.result import EvalResult
from alignment.report.canvas import INK, PAPER, Drawing, look, panels
from alignment.report.display import count, shown, visible
from alignment.report.load import Run
from alignment.report.reward import Bin, RewardQuality, reward_quality
from alignment.report.tables import sections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITH_INTERVALS = 3  # models in one reliability diagram up to which intervals can be told apart
MARKERS = ("o", "s", "^", "D", "v", "P")
VALUES = 6  # of a dimension, in the figure; the table has all
FEWEST = 10  # pairs of a group in the figure
Dimensions = dict[str, dict[str, list[EvalResult]]]  # dimension -> value -> a result per model
LABEL = 24  # characters in a line of a row's label


def _quality(run: Run) -> RewardQuality:
    return reward_quality(sections(run.results)["reward_quality"])


def reliability(run: Run) -> Drawing | None:
    """Share of the votes for the order given over the confidence in it, and below how many pairs that is."""
    quality = _quality(run)
    by_model = {model: [b for b in quality.bins if b.model == model] for model in quality.models}
    by_model = {model: bins for model, bins in by_model.items() if bins}
    if not by_model:
        return None
    figure, [axes, below] = panels(2, 3.3 + _legend_height(list(by_model)), sharex=True, ratios=[3.4, 1])
    axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    lows = [0.5]
    for index, (model, bins) in enumerate(by_model.items()):
        marker = MARKERS[index % len(MARKERS)]
        lows += _points(run, axes, model, bins, marker, intervals=len(by_model) <= WITH_INTERVALS)
    _bars(run, below, by_model)
    axes.set_ylim(max(0.0, min(lows) - 0.04), 1.03)
    axes.set_ylabel("votes for that order (%)")
    below.set_xlim(0.49, 1.01)
    below.set_xlabel("confidence in the order given (%)")
    below.set_ylabel("pairs")
    for axis in (axes.yaxis, below.xaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:.0f}")
    axes.tick_params(labelbottom=False)
    _legend(figure, list(by_model))
    figure.align_ylabels([axes, below])
    points = [
        f"{model} at {shown(b.stated).value}: {words.value} {words.interval}, n = {words.n}"
        for model, bins in by_model.items()
        for b, words in ((b, shown(b.observed)) for b in bins)
    ]
    alt = "Reliability of the reward model: votes for the order it gives by its confidence, with 95% intervals. "
    return Drawing("reliability", alt + "; ".join(points) + ".", figure)


def _points(run: Run, axes: Axes, model: str, bins: Sequence[Bin], marker: str, *, intervals: bool) -> list[float]:
    """One model's points, joined, with their intervals if wanted; returns every share that was drawn."""
    colour, _ = look(run, model)
    x, y = [_stated(b) for b in bins], [b.observed.value or 0.0 for b in bins]
    axes.plot(x, y, marker, color=colour, linestyle="-", markersize=4, label=_short(model))
    for at, r in zip(x, [b.observed for b in bins], strict=True):
        if intervals and r.ci_low is not None and r.ci_high is not None:
            axes.plot([at, at], [r.ci_low, r.ci_high], color=colour, solid_capstyle="butt")
            y += [r.ci_low, r.ci_high]
    return y


def _stated(one: Bin) -> float:
    """The mean confidence of a bin; a bin that is there has pairs, so it has one."""
    return one.stated.value or 0.0


def _bars(run: Run, axes: Axes, by_model: dict[str, list[Bin]]) -> None:
    """How many pairs stand behind each point, under it; the bars of several models side by side."""
    width = min(0.02, 0.07 / len(by_model))
    for index, (model, bins) in enumerate(by_model.items()):
        places = [_stated(b) + width * (index - (len(by_model) - 1) / 2) for b in bins]
        axes.bar(places, [b.observed.n_scored for b in bins], width, color=look(run, model)[0])
    axes.locator_params(axis="y", nbins=3, integer=True)


def reward_groups(run: Run) -> Drawing | None:
    """Accuracy by group of pairs as dots with 95% intervals, a row per group; the smallest groups are left out."""
    results = [r for r in _quality(run).groups if r.value is not None and r.n_scored >= FEWEST]
    if not results:
        return None
    models = list(dict.fromkeys(r.model for r in results))
    dimensions: Dimensions = {}
    for result in results:
        dimension, value = _dimension(result)
        dimensions.setdefault(dimension, {}).setdefault(value, []).append(result)
    dimensions = {name: dict(list(groups.items())[:VALUES]) for name, groups in dimensions.items()}
    pitch = max(1.0, 0.2 + 0.4 * len(models))  # of a row, in lines of text
    lines = sum(bool(name) + pitch * len(groups) for name, groups in dimensions.items())
    figure, [axes] = panels(1, 0.6 + 0.2 * lines + (_legend_height(models) if len(models) > 1 else 0))
    _rows(run, axes, dimensions, models, pitch)
    if len(models) > 1:
        for index, model in enumerate(models):
            marker = MARKERS[index % len(MARKERS)]
            axes.plot([], [], marker, color=look(run, model)[0], markersize=4.5, label=_short(model))
        _legend(figure, models)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    lows = [x for r in results for x in (r.value, r.ci_low) if x is not None]
    axes.set_xlim(max(-0.02, min([0.45, *lows]) - 0.03), 1.02)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}")
    axes.set_xlabel("accuracy (%)", loc="right")
    told = [f"{r.model}, {r.group}: {shown(r).value} {shown(r).interval}, n = {r.n_scored}" for r in results]
    return Drawing("reward_groups", "Accuracy of the reward model by group of pairs. " + "; ".join(told) + ".", figure)


def _rows(run: Run, axes: Axes, dimensions: Dimensions, models: Sequence[str], pitch: float) -> None:
    """A heading per dimension, a row per value; the models' dots stand above each other within a row."""
    y = 0.0
    labels: list[tuple[float, str]] = []
    for heading, groups in dimensions.items():
        if heading:
            place = (0.01, y + 0.5)
            text = axes.annotate(
                _short(heading), place, xycoords=("figure fraction", "data"), va="center", fontweight="bold"
            )
            text.set(in_layout=False, annotation_clip=False)
            text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.5})  # the line at 50% passes behind it
            y += 1
        for value, results in groups.items():
            for result in results:
                index = models.index(result.model)
                at = y + 0.1 + (pitch - 0.2) * (index + 0.5) / len(models)
                colour = look(run, result.model)[0]
                if result.ci_low is not None and result.ci_high is not None:
                    axes.plot([result.ci_low, result.ci_high], [at, at], color=colour, solid_capstyle="butt")
                assert result.value is not None  # the caller leaves undefined results to the table
                axes.plot([result.value], [at], MARKERS[index % len(MARKERS)], color=colour, markersize=4)
            labels.append((y + pitch / 2, f"{_short(value)} ({count(max(r.n_scored for r in results))})"))
            y += pitch
    axes.set_ylim(y + 0.1, -0.1)
    axes.set_yticks([at for at, _ in labels], [label for _, label in labels])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def _columns(models: Sequence[str]) -> int:
    """Of the legend: two only where the names fit beside each other."""
    return 2 if max(len(_short(model)) for model in models) <= LABEL // 2 else 1


def _legend_height(models: Sequence[str]) -> float:
    """Inches."""
    return 0.16 * -(-len(models) // _columns(models))


def _legend(figure: Figure, models: Sequence[str]) -> None:
    """Which model is which, above the panels and as wide as the figure."""
    figure.legend(loc="outside upper left", ncols=_columns(models), borderaxespad=0.2, columnspacing=1.2)


def _dimension(result: EvalResult) -> tuple[str, str]:
    """`annotators: one` as its two parts; a group without a dimension has an empty one."""
    dimension, found, value = (result.group or "").partition(": ")
    return (dimension, value) if found else ("", dimension)


def _short(text: str) -> str:
    """A label that leaves room for the dots; the table has the whole name."""
    return visible(text) if len(visible(text)) <= LABEL else visible(text)[: LABEL - 1] + "…"
