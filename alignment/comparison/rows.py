"""What a comparison over items is: one row per metric and pair of models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PairedRow:
    """b - a of one metric, over the items that both have a value for, or of one statistic of all of them.

    `p` is exact McNemar's where items are right or wrong and independent, else of sign flips of items or clusters;
    `p_adjusted` is corrected over all rows without a group, or over all of groups, which repeat parts of the others.
    None is undefined, and the method beside it says why.
    `gained` and `lost`: items that b has right and a wrong, and the other way round; None where items are not 0 or 1.
    `mde`, `units_needed` and `design_effect` are those of detectable.py.
    """

    benchmark: str
    version: int | None
    metric: str
    group: str | None  # whose items alone; None: all
    unit: str
    higher_is_better: bool | None
    a: str
    b: str
    value_a: float | None
    value_b: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    method: str
    standard_error: float | None
    n_common: int
    n_clusters: int | None  # None: the method of a statistic of the whole set says what is resampled
    n_unscored: int  # items of both that one of them has no value for
    n_only_a: int
    n_only_b: int
    gained: int | None
    lost: int | None
    mcnemar_p: float | None
    p: float | None
    p_method: str
    p_adjusted: float | None = None
    correction: str = ""
    mde: float | None = None
    units_needed: int | None = None
    design_effect: float | None = None


@dataclass(frozen=True)
class PairedTable:
    """All rows, and what was left out and why."""

    rows: tuple[PairedRow, ...]
    notes: tuple[str, ...]
