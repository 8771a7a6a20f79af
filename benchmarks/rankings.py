"""A reward model on rankings of four answers (QA-Feedback) against TRL's RewardTrainer on the six pairs of each.

Only questions without a tie are taken, so that every record has six pairs and the mean over pairs is the mean over
records on both sides; a batch of the peer holds all pairs of its records.
"""

import sys

from compare import Benchmark, main
from settings import Settings

DATA = "qa_feedback/dev_feedback.json"

BENCHMARK = Benchmark(
    name="rankings",
    title=__doc__,
    script=__file__,
    quick=Settings(data=DATA, batch=1, max_length=512, steps=1, repeats=1, max_tokens_per_forward=2048),
    full=Settings(data=DATA, batch=1, max_length=640, steps=4, max_tokens_per_forward=2048),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
