"""A reward model on HH-RLHF pairs against TRL's RewardTrainer."""

import sys

from compare import Benchmark, main
from settings import Settings

DATA = "hh_rlhf_harmless/harmless-base.jsonl.gz"

BENCHMARK = Benchmark(
    name="reward_pairs",
    title=__doc__,
    script=__file__,
    quick=Settings(data=DATA, batch=4, max_length=256, steps=2, repeats=1),
    full=Settings(data=DATA, batch=8, max_length=512),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
