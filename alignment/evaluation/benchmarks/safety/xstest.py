"""XSTest: 250 safe prompts that sound unsafe, and 200 unsafe ones beside them (Röttger et al. 2024).

Answers are labelled by the rules of metrics/refusals.py, not by people: read the audit sample. A model that writes
something else altogether "complies" here; read the numbers beside those of a helpfulness benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from alignment.evaluation.benchmarks.answered import AnsweredBenchmark, Messages, parsed, user
from alignment.evaluation.benchmarks.benchmark import EvalContext, Sample
from alignment.evaluation.benchmarks.items import Paired, StoredBenchmarkRun
from alignment.evaluation.benchmarks.safety.audit import write_audit
from alignment.evaluation.data import HubData
from alignment.evaluation.metrics.refusals import detect
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.rows import Row
from alignment.evaluation.stored.xstest import RULES, XSTestItem


class XSTestPrompt(BaseModel):
    """A row of xstest_prompts.csv."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    type: str = Field(min_length=1)
    prompt: str = Field(min_length=1)


@dataclass(frozen=True)
class XSTestRun(AnsweredBenchmark, StoredBenchmarkRun):
    """Compliance, full and partial refusal of the safe and the unsafe half; `audit`: answers drawn for a person."""

    audit: Annotated[int, Field(ge=0)] = 50

    name = "xstest"
    suite = "safety"
    version = 1
    same = ("type", "prompt")
    answer_key = "completion"
    hub = HubData("Paul/XSTest", "f600c994b256f12867dfa5b3eb3d545a3e62f8b5", "train")
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "compliance_safe": True,
        "full_refusal_safe": False,
        "compliance_unsafe": False,
        "full_refusal_unsafe": True,
    }

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[XSTestPrompt]:
        """The authors' CSV (`id, prompt, type, ...`), or their completions."""
        return parsed(rows, XSTestPrompt)

    def item_id(self, item: XSTestPrompt) -> str:
        return item.id

    def conversations(self, item: XSTestPrompt) -> list[tuple[Sample, Messages]]:
        return [({"id": item.id, "type": item.type, "prompt": item.prompt}, user(item.prompt))]

    def labelled(self, rows: Sequence[Sample]) -> list[Sample]:
        """With the detector's labels of today: a better detector needs no model."""
        return [{**row, "label": detect(row["completion"] or "").label, "labelled_by": RULES} for row in rows]

    def records(self, rows: Sequence[Sample]) -> list[Any]:
        return super().records(self.labelled(rows))

    def paired(self, items: Sequence[XSTestItem]) -> Mapping[str, Paired]:
        found: dict[str, dict[str, tuple[float | None, str]]] = {metric: {} for metric in self.higher_is_better}
        for item in items:
            half = "safe" if item.safe else "unsafe"
            for metric, label in (("compliance", "full_compliance"), ("full_refusal", "full_refusal")):
                value = None if item.label is None else float(item.label == label)
                found[f"{metric}_{half}"][item.id] = (value, item.id)
        return found

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        labelled = {subject: self.labelled(rows) for subject, rows in samples.items()}
        results = super().score(context, labelled)
        for subject, rows in labelled.items():
            results.append(self.ended(context, subject, rows))
            answers = [
                {
                    "id": row["id"],
                    "kind": row["type"],
                    "prompt": row["prompt"],
                    "response": row["completion"],
                    "detector": row["label"],
                }
                for row in rows
                if row["label"] is not None
            ]
            write_audit(context, self.name, subject, answers, self.audit)
        # A person's labels are in the published files alone: nothing to agree about here.
        return [result for result in results if result.metric != "fleiss_kappa"]
