"""How good a scorer is: pure functions of stored scores. `None` means undefined, which is never written as 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    x, y = _alike(scores, lengths, "scores", "lengths")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = _centred_ranks(x), _centred_ranks(y)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))  # Pearson's of the ranks


def _centred_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) ranks less their mean (n + 1) / 2; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2 - (len(values) + 1) / 2
    return ranks[which]


def within_prompts(values: npt.ArrayLike, prompts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(n,) values as deviations from the mean of their prompt, whose number (n,) stands in `prompts`.

    What differs between prompts alone is gone: long questions may have long answers and high scores at once.
    Raises ValueError when the two differ in length.
    """
    x, _ = _alike(values, prompts, "values", "prompts")
    _, codes = np.unique(np.asarray(prompts), return_inverse=True)
    deviations = x - (np.bincount(codes, weights=x) / np.bincount(codes))[codes]
    # To 40 bits: deviations that only the rounding of their means sets apart are ties to a rank correlation.
    exponent = int(np.frexp(np.abs(x).max(initial=0.0))[1])
    unit = 2.0 ** max(exponent - 40, -1000)
    rounded: npt.NDArray[np.float64] = np.round(deviations / unit) * unit
    return rounded


def longer_preferred(preferences: npt.ArrayLike, length_differences: npt.ArrayLike) -> list[float | None]:
    """Does a preference go to the longer response of a pair: 1, 0, or 1/2 for no preference; None at equal lengths.

    Args:
        preferences: (n,) signed, + for the first response: a difference of scores, or a net vote.
        length_differences: (n,) length of the first response minus that of the second.

    Raises ValueError when the two differ in length.
    """
    x, y = _alike(preferences, length_differences, "preferences", "length differences")
    return [0.5 + 0.5 * float(sign) if different else None for sign, different in zip(np.sign(x * y), y, strict=True)]


def expected_calibration_error(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int = 10) -> float | None:
    """Expected calibration error (0..1) over equal-width bins (Guo et al. 2017, eq. 3).

        ECE = Σ_b n_b / n · |mean outcome of b - mean probability of b|

    Args:
        probabilities: (n,) predicted probabilities in 0..1, for example σ(r_i - r_j).
        outcomes: (n,) what happened, 0 or 1; shares in between (of votes) are allowed.
        bins: number of equal-width bins; 1.0 falls into the last.

    Returns:
        The error, or None when there is no prediction. It is biased upward in small samples: chance alone moves the
        outcomes of a bin away from their probability.

    Raises:
        ValueError: different lengths, values outside 0..1, or bins < 1.
    """
    gaps = calibration_gaps(probabilities, outcomes, bins)
    return None if gaps is None else float(np.abs(gaps).sum())


def calibration_gaps(
    probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int = 10
) -> npt.NDArray[np.float64] | None:
    """(bins,) n_b / n · (mean outcome - mean probability) of every bin, + where the outcomes are better than predicted.

    The calibration error is their L1 norm. Arguments, None and errors as of `expected_calibration_error`.
    """
    p, y = _predictions(probabilities, outcomes, bins)
    if not len(p):
        return None
    gaps: npt.NDArray[np.float64] = np.bincount(_bin_of(p, bins), weights=y - p, minlength=bins) / len(p)
    return gaps


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability diagram: what was predicted in low..high, and what was observed.

    `members`: positions of the predictions, from which an interval of the observed share can be made.
    """

    low: float
    high: float
    probability: float  # mean predicted
    outcome: float  # mean observed
    members: tuple[int, ...]


def reliability(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """The reliability diagram (DeGroot & Fienberg 1983) over the bins of the calibration error, empty ones left out.

    Arguments and errors as of `expected_calibration_error`.
    """
    p, y = _predictions(probabilities, outcomes, bins)
    which = _bin_of(p, bins)
    found = []
    for b in np.unique(which).tolist():
        members = np.flatnonzero(which == b)
        low, high = b / bins, (b + 1) / bins
        mean_p, mean_y = float(p[members].mean()), float(y[members].mean())
        found.append(ReliabilityBin(low, high, mean_p, mean_y, tuple(members.tolist())))
    return found


def _bin_of(probabilities: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.int64]:
    which: npt.NDArray[np.int64] = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    return which


def _predictions(
    probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, bins: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    p, y = _alike(probabilities, outcomes, "probabilities", "outcomes")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    for name, values in (("probabilities", p), ("outcomes", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must lie in 0..1")
    return p, y


def _alike(
    first: npt.ArrayLike, second: npt.ArrayLike, name: str, other: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x, y = np.asarray(first, float), np.asarray(second, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{name} of shape {x.shape} do not fit {other} of shape {y.shape}")
    return x, y
