"""Supervised fine-tuning on the better responses of HH-RLHF: the sft stage's trainer against TRL's SFTTrainer."""

import sys

from compare import Benchmark, main
from settings import Settings

DATA = "hh_rlhf_harmless/harmless-base.jsonl.gz"

BENCHMARK = Benchmark(
    name="sft",
    title=__doc__,
    script=__file__,
    quick=Settings(data=DATA, batch=8, max_length=256, steps=2, repeats=1),
    full=Settings(data=DATA, batch=8, max_length=512),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
