"""What a chain of stages forgets: a matrix of scores, R[i][j] = score on task j after stage i.

Stage i is the one that trained task i, so the matrix is square with T rows; b_j is the untrained model's score. No
number here has an interval: one matrix is one sequence of trainings. Repeat the chain with other seeds, or compare two
models of it over the same items, for an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Row = Sequence[float | None]
Matrix = Sequence[Row]  # None: not measured


def average_accuracy(matrix: Matrix) -> float | None:
    """ACC = 1/T Σ_j R[T][j] (Lopez-Paz & Ranzato 2017, eq. 2). None when a score it needs is missing."""
    check(matrix)
    return _mean(list(matrix[-1])) if matrix else None


def backward_transfer(matrix: Matrix) -> float | None:
    """BWT = 1/(T-1) Σ_{j<T} (R[T][j] - R[j][j]) (eq. 3). Negative: forgotten. None for one task."""
    check(matrix)
    return _mean([_minus(matrix[-1][j], matrix[j][j]) for j in range(len(matrix) - 1)])


def forward_transfer(matrix: Matrix, baseline: Row | None) -> float | None:
    """FWT = 1/(T-1) Σ_{j>=2} (R[j-1][j] - b_j) (eq. 4): what a task gains before it is trained.

    None for one task or without a baseline. (The authors' code divides by T.)
    """
    check(matrix, baseline)
    if baseline is None:
        return None
    return _mean([_minus(matrix[j - 1][j], baseline[j]) for j in range(1, len(matrix))])


def forgetting(matrix: Matrix) -> float | None:
    """F = 1/(T-1) Σ_{j<T} (max_{l<T} R[l][j] - R[T][j]) (Chaudhry et al. 2018, eq. 2). None for one task.

    The best stage before the last counts, earlier than the task's own training too. Where one of those earlier scores
    is missing (`from_training`) it is max_{j<=l<T} for all tasks: a task was not evaluated before it was trained.
    None where a score from its training on is missing: it may be the best one.
    """
    check(matrix)
    own = from_training(matrix)
    drops: list[float | None] = []
    for j in range(len(matrix) - 1):
        before = [row[j] for row in matrix[j if own else 0 : -1]]
        known = [score for score in before if score is not None]
        drops.append(_minus(max(known), matrix[-1][j]) if len(known) == len(before) else None)
    return _mean(drops)


def from_training(matrix: Matrix) -> bool:
    """Whether F counts a task's stages from its own training on: a score above the diagonal is missing that F is of."""
    return any(row[j] is None for i, row in enumerate(matrix) for j in range(i + 1, len(matrix) - 1))


def alignment_tax(before: Row, after: Row) -> list[float | None]:
    """score(before) - score(after), task by task: what alignment cost. Averages hide changes that offset each other."""
    return [_minus(b, a) for b, a in zip(before, after, strict=True)]


def transfer(scores: Floats, learned: Sequence[int], untrained: Floats | None = None) -> Mapping[str, Floats]:
    """ACC, BWT, F and FWT of scores (..., stages T, tasks), whatever stage taught what; NaN is undefined.

    `learned[j]` is the stage that taught task j. Where stage j taught task j, and no score is missing (NaN), these are
    the functions above.

    ACC = mean_j R[T][j]
    BWT = mean_{j: learned_j < T} R[T][j] - R[learned_j][j]                    (Lopez-Paz & Ranzato, eq. 3)
    F   = mean_{j: learned_j < T} max_{l<T} R[l][j] - R[T][j]                  (Chaudhry et al., eq. 2)
    FWT = mean_{j learned after the first stage} R[learned_j - 1][j] - b_j     (Lopez-Paz & Ranzato, eq. 4)
    `untrained` is b (..., benchmarks), and stage 0 a training then; None: stage 0 is the untrained model itself.
    """
    import numpy as np

    last, t = scores[..., -1, :], scores.shape[-2] - 1
    none = np.full(scores.shape[:-2], np.nan)
    before = [j for j, stage in enumerate(learned) if stage < t]
    first = 0 if untrained is not None else 1
    base = untrained if untrained is not None else scores[..., 0, :]
    later = [j for j, stage in enumerate(learned) if stage > first]
    at = [learned[j] for j in before]
    ahead = [learned[j] - 1 for j in later]
    return {
        "acc": last.mean(-1) if len(learned) else none,
        "bwt": (last[..., before] - scores[..., at, before]).mean(-1) if before else none,
        "forgetting": (scores[..., :-1, before].max(-2) - last[..., before]).mean(-1) if before else none,
        "fwt": (scores[..., ahead, later] - base[..., later]).mean(-1) if later else none,
    }


def check(matrix: Matrix, baseline: Row | None = None) -> None:
    """Raises ValueError unless the matrix is square, has a baseline for every task, and all its numbers are finite."""
    size = len(matrix)
    for stage, row in enumerate(matrix, 1):
        if len(row) != size:
            raise ValueError(
                f"the matrix must be square: {size} rows, but row {stage} has {len(row)} scores; null is one that was "
                "not measured"
            )
    if baseline is not None and len(baseline) != size:
        raise ValueError(f"{len(baseline)} baseline scores for {size} tasks")
    for row in (*matrix, baseline or ()):
        if any(score is not None and not abs(score) < float("inf") for score in row):
            raise ValueError("a score is not finite; null is a score that was not measured")


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
