"""Over-optimisation studies in words and as a table: the coefficients of each curve, and where gold is highest."""

from __future__ import annotations

from collections.abc import Mapping

from alignment.report.display import NOT_AVAILABLE, count, grouped, visible
from alignment.report.study import Fit, Method, Study
from alignment.report.tables import Table

METHODS: dict[Method, str] = {"bon": "BoN", "ppo": "PPO"}
FORMULAS: dict[Method, str] = {"bon": "R = d (α − β d)", "ppo": "R = d (α − β log d)"}

FIELDS = (
    *("study", "method", "reward", "n_points", "n_seeds", "alpha", "alpha_se", "alpha_low", "alpha_high"),
    *("beta", "beta_se", "beta_low", "beta_high", "peak", "reason"),
)


def study_table(study: Study, name: str, of_run: str) -> Table:
    """A row per method and reward."""
    rows, records = [], []
    for fit in study.file.fits:
        far = max((point.d for point in study.points(fit.method)), default=0.0)
        rows.append((METHODS[fit.method], fit.reward, *_cells(fit, far), str(fit.n_seeds), count(fit.n_points)))
        record: Mapping[str, object] = {key: getattr(fit, key) for key in FIELDS if key != "study"}
        records.append({"study": study.stage, **record})
    return Table(
        name=name,
        caption=f"Over-optimisation: fitted curves ({of_run}). {small_print(study)}",
        header=("Method", "Reward", "α", "β", "Highest at d", "Seeds", "Points"),
        align="llrrrrr",
        rows=tuple(rows),
        records=tuple(records),
        fields=FIELDS,
    )


def small_print(study: Study) -> str:
    """What the coefficients are of, how they were made, and what was left out."""
    file = study.file
    laws = "; ".join(f"{METHODS[method]}: {formula}" for method, formula in FORMULAS.items())
    text = f"BoN is best-of-n. {laws}, d = √KL (Gao et al. 2022). {file.scale} Least squares. "
    if any(fit.alpha_low is not None for fit in file.fits):
        text += "Brackets: 95% intervals from resampling whole seeds; with few seeds they are too narrow. "
    else:
        text += "No intervals: they need at least two seeds. "
    left_out = [f"{visible(seed.ppo)} {count(seed.left_out)}" for seed in file.seeds if seed.left_out]
    if left_out:
        text += f"Logged steps left out, without a KL or a score: {', '.join(left_out)}. "
    undefined = [f"{METHODS[f.method]}, {f.reward}: {f.reason}" for f in file.fits if f.alpha is None]
    text += f"{NOT_AVAILABLE} for {'; '.join(undefined)}." if undefined else ""
    return text.strip()


def fit_words(fit: Fit) -> str:
    """`α 1.20, β 0.30`, or why there are none."""
    if fit.alpha is None or fit.beta is None:
        return f"undefined, {fit.reason}"
    return f"α {grouped(fit.alpha, 2)}, β {grouped(fit.beta, 2)}"


def told(study: Study) -> list[str]:
    """How far each method went, and whether gold turned on the way."""
    found = []
    for method, name in METHODS.items():
        points = study.points(method)
        gold = study.fit(method, "gold")
        if not points or gold is None or gold.alpha is None:
            continue
        far = max(point.d for point in points)
        found.append(f"Under {name}, policies went up to d = {grouped(far, 2)}. {_turn(gold, far)}")
    return found


def _turn(gold: Fit, far: float) -> str:
    """Where the fitted gold curve turns, and whether the seeds bear it out."""
    if gold.peak is None or gold.peak >= far:
        return "The fitted curve of the gold reward has no highest point within that distance."
    text = f"The fitted curve of the gold reward is highest at d = {grouped(gold.peak, 2)}"
    if gold.beta_low is None:
        return f"{text}; one seed gives no interval to judge that by."
    return f"{text} and falls from there." if gold.beta_low > 0 else f"{text}, but the interval of β holds 0."


def _cells(fit: Fit, far: float) -> tuple[str, str, str]:
    """α, β and the curve's highest point, which is named only where something was measured."""
    if fit.alpha is None or fit.beta is None:
        return NOT_AVAILABLE, NOT_AVAILABLE, NOT_AVAILABLE
    peak = "none" if fit.peak is None else grouped(fit.peak, 2) if fit.peak <= far else f"beyond {grouped(far, 2)}"
    alpha = _bounded(fit.alpha, fit.alpha_low, fit.alpha_high)
    return alpha, _bounded(fit.beta, fit.beta_low, fit.beta_high), peak


def _bounded(value: float, low: float | None, high: float | None) -> str:
    text = grouped(value, 2)
    return text if low is None or high is None else f"{text} [{grouped(low, 2)}, {grouped(high, 2)}]"
