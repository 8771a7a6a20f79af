"""DPO on HH-RLHF pairs against TRL's DPOTrainer: the reference in each step on both sides, then cached on both."""

import sys

from compare import Benchmark, main
from settings import Settings

DATA = "hh_rlhf_harmless/harmless-base.jsonl.gz"

BENCHMARK = Benchmark(
    name="dpo",
    title=__doc__,
    script=__file__,
    quick=Settings(data=DATA, batch=4, max_length=256, steps=1, repeats=1),
    full=Settings(data=DATA, batch=8, max_length=512),
    references=True,
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
