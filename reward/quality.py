"""How good a scorer is: pure functions of stored scores. `None` means undefined, which is never written as 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def ranking_accuracy(scores: Sequence[npt.ArrayLike], wins: Sequence[npt.ArrayLike]) -> list[float | None]:
    """Share of each record's decided pairs that the scores order the same way; equal scores count 1/2.

    Args:
        scores: per record (K,) scores of its responses; K may differ between records.
        wins: per record (K, K); pair (i, j) is decided for i when wins[i, j] > wins[j, i].

    Returns:
        One value in 0..1 per record, None for a record without a decided pair. The mean over records weighs every
        prompt the same; a constant scorer gets 0.5.

    Raises:
        ValueError: shapes that do not belong together, or a score that is not finite.
    """
    if len(scores) != len(wins):
        raise ValueError(f"{len(scores)} records have scores but {len(wins)} have comparisons")
    return [_record_accuracy(np.asarray(s, float), np.asarray(w, float)) for s, w in zip(scores, wins, strict=True)]


def _record_accuracy(scores: npt.NDArray[np.float64], wins: npt.NDArray[np.float64]) -> float | None:
    if scores.ndim != 1 or wins.shape != (len(scores), len(scores)):
        raise ValueError(f"scores of shape {scores.shape} do not fit comparisons of shape {wins.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    better, worse = np.nonzero(wins > wins.T)
    if not len(better):
        return None
    difference = scores[better] - scores[worse]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def length_correlation(scores: npt.ArrayLike, lengths: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation (-1..1) of scores with response lengths; None when either is constant.

    Raises ValueError when the two differ in length.
    """
    from scipy.stats import spearmanr

    x, y = np.asarray(scores, float), np.asarray(lengths, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"scores of shape {x.shape} do not fit lengths of shape {y.shape}")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


def expected_calibration_error(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int = 10) -> float | None:
    """Expected calibration error (0..1) over equal-width bins (Guo et al. 2017, eq. 3).

        ECE = Σ_b n_b / n · |mean outcome of b - mean probability of b|

    Args:
        probabilities: (n,) predicted probabilities in 0..1, for example σ(r_i - r_j).
        outcomes: (n,) what happened, 0 or 1; shares in between are allowed.
        bins: number of equal-width bins; 1.0 falls into the last.

    Returns:
        The error, or None when there is no prediction.

    Raises:
        ValueError: different lengths, values outside 0..1, or bins < 1.
    """
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(f"probabilities of shape {p.shape} do not fit outcomes of shape {y.shape}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    for name, values in (("probabilities", p), ("outcomes", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must lie in 0..1")
    if not len(p):
        return None
    which = np.minimum((p * bins).astype(int), bins - 1)
    gap = np.bincount(which, weights=y - p, minlength=bins)  # n_b times the difference of the means
    return float(np.abs(gap).sum() / len(p))
