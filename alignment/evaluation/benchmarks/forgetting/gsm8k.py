"""GSM8K by generation in chat (Cobbe et al. 2021): zero-shot, or after worked examples.

The number after the last `####` counts, or the last number of the answer: the rule of `alignment score gsm8k` and of
the verifiable reward. Worked examples are the project's own, never problems of the data set. A small model mostly
needs more tokens than the default: see the share of answers that end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from alignment.evaluation.benchmarks.answered import AnsweredBenchmark, Messages, parsed, user
from alignment.evaluation.benchmarks.benchmark import EvalContext, Sample
from alignment.evaluation.benchmarks.items import Paired, StoredBenchmarkRun
from alignment.evaluation.benchmarks.measures import Measure
from alignment.evaluation.data import HubData
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.gsm8k import GSM8KItem
from alignment.evaluation.stored.rows import Row
from reward.verifiable import MARK, final_number

INSTRUCTION = f"Think step by step, and end with a line of its own that is {MARK} followed by the answer as a number."
EXAMPLES = (
    (
        "A baker makes 6 trays of 8 rolls and sells all but 5 of the rolls. How many rolls does she sell?",
        "She makes 6 * 8 = 48 rolls.\nShe sells 48 - 5 = 43 rolls.\n#### 43",
    ),
    (
        "Omar reads 12 pages a day from Monday to Friday and 20 pages on Saturday. How many pages does he read?",
        "From Monday to Friday he reads 5 * 12 = 60 pages.\nWith Saturday it is 60 + 20 = 80 pages.\n#### 80",
    ),
    (
        "A bus starts with 15 people. At the first stop 7 get on and 3 get off. How many people are in it then?",
        "With those who get on it is 15 + 7 = 22 people.\nWithout those who get off it is 22 - 3 = 19 people.\n#### 19",
    ),
    (
        "A coat costs $90. In the sale it is a third cheaper, and Lena has a voucher of $10. What does she pay?",
        "A third of the price is 90 / 3 = 30 dollars, so it costs 90 - 30 = 60 dollars.\n"
        "With the voucher she pays 60 - 10 = 50 dollars.\n#### 50",
    ),
    (
        "Two taps fill a tank of 240 litres. One gives 7 litres a minute, the other 5. How many minutes does it take?",
        "Together they give 7 + 5 = 12 litres a minute.\nIt takes 240 / 12 = 20 minutes.\n#### 20",
    ),
)


class Problem(BaseModel):
    """A row of the data set: the worked answer ends in `#### 18`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str = Field(min_length=1)
    answer: str

    @field_validator("answer")
    @classmethod
    def _ends_in_a_number(cls, value: str) -> str:
        if final_number(value) is None:
            raise ValueError("the worked answer has no final number")
        return value


@dataclass(frozen=True)
class GSM8KRun(AnsweredBenchmark, StoredBenchmarkRun):
    """accuracy and the share of answers without a number. `shots`: worked examples before the problem, none to five."""

    shots: Annotated[int, Field(ge=0, le=len(EXAMPLES))] = 0

    name = "gsm8k"
    suite = "forgetting"
    version = 1
    same = ("prompt", "gold")
    hub = HubData("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "test", "main")
    answer_key = "solution"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"accuracy": True}

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[Problem]:
        """`question` and `answer`, as the file and the hub have them."""
        return parsed(rows, Problem)

    def item_id(self, item: Problem) -> str:
        """Problems have no names: the beginning of the question's SHA-256."""
        return hashlib.sha256(item.question.encode()).hexdigest()[:16]

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {**super().settings(context), "shots": self.shots}

    def conversations(self, item: Problem) -> list[tuple[Sample, Messages]]:
        messages: Messages = []
        for question, answer in EXAMPLES[: self.shots]:
            messages += [*user(f"{question}\n\n{INSTRUCTION}"), {"role": "assistant", "content": answer}]
        messages += user(f"{item.question}\n\n{INSTRUCTION}")
        return [({"id": self.item_id(item), "prompt": item.question, "gold": item.answer}, messages)]

    def paired(self, items: Sequence[GSM8KItem]) -> Mapping[str, Paired]:
        """By position: an item of `alignment score` has no name, and all models answer the same list."""
        right = [
            None if item.solution is None else float(final_number(item.solution) == final_number(item.gold))
            for item in items
        ]
        return {"accuracy": {str(position): (value, str(position)) for position, value in enumerate(right)}}

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        """By the problems' names: another evaluation may have asked fewer."""
        ids = [row["id"] for row in rows]
        return [
            replace(
                measure,
                items={
                    ids[int(str(at))]: replace(item, cluster=ids[int(str(at))]) for at, item in measure.items.items()
                },
            )
            for measure in super().measures(rows)
        ]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        """Changes are from the model that forgetting is measured from."""
        results = super().score(replace(context, baseline=context.forgetting_reference()), samples)
        return results + [self.ended(context, subject, rows) for subject, rows in samples.items()]
