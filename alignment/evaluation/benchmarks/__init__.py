"""Every benchmark there is. Adding one is one file and one row.

Names are those of results and of the samples' folders; a suite is all benchmarks that name it.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignment.evaluation.benchmarks.benchmark import Benchmark
from alignment.evaluation.benchmarks.bias_pairs import BiasPairs
from alignment.evaluation.benchmarks.bits_per_byte import BitsPerByte
from alignment.evaluation.benchmarks.multiple_choice import MultipleChoice
from alignment.evaluation.benchmarks.reward_accuracy import RewardAccuracy
from alignment.evaluation.benchmarks.win_rate import WinRate

BENCHMARKS: Mapping[str, Benchmark] = {
    "reward_accuracy": RewardAccuracy(),
    "win_rate": WinRate(),
    "bias_pairs": BiasPairs(),
    "bits_per_byte": BitsPerByte(),
    "multiple_choice": MultipleChoice(),
}
