"""Numbers with their errors: pure functions, a seed for everything that is drawn.

Intervals are 95%. No data gives no number (`value` None, never 0), and one independent item gives a number without an
interval. No interval has zero width, which would claim certainty: where all items are right (or wrong) a share has
Wilson's, and any other number that every resample, item or seed gives alike has none, and `method` says so.

intervals.py          what a number is (Interval, Estimate), Wilson's interval of a share
bootstrap.py          means, shares, ratios, differences, any statistic: percentile or BCa, t of few clusters
standard_errors.py    naive, clustered and paired errors, and the t intervals made of them
difference_tests.py   McNemar's test and the paired permutation test, over items or clusters
corrections.py        Holm and Benjamini-Hochberg over all cells of a table
seeds.py              seeds as the unit: what training again would change
power.py              minimum detectable effect, power, design effect, intracluster correlation
"""

from typing import TYPE_CHECKING

from alignment.evaluation.statistics.bootstrap import (
    RESAMPLES,
    BootstrapMethod,
    mean_interval,
    paired_difference,
    rate_interval,
    ratio_interval,
    share_interval,
    statistic_interval,
)
from alignment.evaluation.statistics.clusters import Clusters
from alignment.evaluation.statistics.corrections import CORRECTIONS, benjamini_hochberg, holm
from alignment.evaluation.statistics.difference_tests import McNemar, mcnemar, mcnemar_exact, sign_flip_test
from alignment.evaluation.statistics.intervals import NO_DATA, Estimate, Interval, bounded, unsure, wilson
from alignment.evaluation.statistics.power import (
    design_effect,
    error_paired,
    error_unpaired,
    intracluster_correlation,
    minimum_detectable_effect,
    paired_share_deviation,
    power,
    share_deviation,
    units_needed,
)
from alignment.evaluation.statistics.seeds import SeedDifference, SeedSummary, difference_over_seeds, over_seeds
from alignment.evaluation.statistics.standard_errors import (
    clustered_standard_error,
    error_interval,
    paired_error_interval,
    paired_standard_error,
    ratio_standard_error,
    standard_error,
)

if TYPE_CHECKING:
    from alignment.evaluation.statistics.clusters import Floats as Floats
    from alignment.evaluation.statistics.clusters import Indices as Indices

__all__ = [
    "CORRECTIONS",
    "NO_DATA",
    "RESAMPLES",
    "BootstrapMethod",
    "Clusters",
    "Estimate",
    "Interval",
    "McNemar",
    "SeedDifference",
    "SeedSummary",
    "benjamini_hochberg",
    "bounded",
    "clustered_standard_error",
    "design_effect",
    "difference_over_seeds",
    "error_interval",
    "error_paired",
    "error_unpaired",
    "holm",
    "intracluster_correlation",
    "mcnemar",
    "mcnemar_exact",
    "mean_interval",
    "minimum_detectable_effect",
    "over_seeds",
    "paired_difference",
    "paired_error_interval",
    "paired_share_deviation",
    "paired_standard_error",
    "power",
    "rate_interval",
    "ratio_interval",
    "ratio_standard_error",
    "share_deviation",
    "share_interval",
    "sign_flip_test",
    "standard_error",
    "statistic_interval",
    "units_needed",
    "unsure",
    "wilson",
]
