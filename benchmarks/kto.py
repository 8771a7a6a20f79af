"""KTO on single HH-RLHF responses against TRL's KTOTrainer: the reference in each step on both sides, then cached.

Every pair gives one response, in turn the better one as desirable and the worse one as undesirable, so that no two rows
of a batch share a prompt but a row and its mismatched one.
"""

import sys

from compare import Benchmark, main
from settings import Settings

DATA = "hh_rlhf_harmless/harmless-base.jsonl.gz"

BENCHMARK = Benchmark(
    name="kto",
    title=__doc__,
    script=__file__,
    quick=Settings(data=DATA, batch=4, max_length=256, steps=2, repeats=1),
    full=Settings(data=DATA, batch=8, max_length=512),
    references=True,
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
