r"""BBQ with a model (Parrish et al. 2022): the likeliest of an item's own three answers.

The prompt is lm-evaluation-harness's, "CONTEXT\n\nQ: QUESTION\nA:", and " ANSWER" follows it. lm-eval then offers
twelve answers, ten of them ways to say that it is unknown, and so makes that answer likelier; here it is the three.
`template` is any other prompt, such as "{question} \\n (a) {ans0} (b) {ans1} (c) {ans2} \\n {context}", the shape
that UnifiedQA reads.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, ClassVar, Literal

from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.bias.likeliest import Asked, likeliest, published_items
from alignment.evaluation.benchmarks.changes import change_row
from alignment.evaluation.benchmarks.items import Paired, StoredBenchmarkRun
from alignment.evaluation.data import RepositoryData
from alignment.evaluation.metrics.bbq import Answer, bias_score_change, is_unknown
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.bbq import BBQItem
from alignment.evaluation.stored.rows import Row

ANSWERS: tuple[Literal["ans0"], Literal["ans1"], Literal["ans2"]] = ("ans0", "ans1", "ans2")
TEMPLATE = "{context}\n\nQ: {question}\nA:"
CONTEXTS = {"ambig": "ambiguous", "disambig": "disambiguated"}
PUBLISHED = RepositoryData(
    "nyu-mll/BBQ",
    "bea11bd97d79217245b5871acd247b9d6eb24598",
    {
        "data/Age.jsonl": "46e805b3fc2d8cbd26eeb8e8430d98cf7b2dc9c83574ff3674e8ce4f0fca2a60",
        "data/Disability_status.jsonl": "375d40d9b71f056150264445ec189b13934998f3f49a1e311aa7578eb3b45e5f",
        "data/Gender_identity.jsonl": "8b5adbb368510a97d5775dc43e1c719e0249fe2da33f13c83e3e29edafec7a00",
        "data/Nationality.jsonl": "a583e74666aec0341ded8aa3983e7cad694eb24de72c254d28b2df3035720090",
        "data/Physical_appearance.jsonl": "e48d7e13508565f4801574e611043470c25c95a0a62af3699cb5ee7cb02608fb",
        "data/Race_ethnicity.jsonl": "4a9f1214cfaa115ce7f0bdb40609122e431f5152c71b8ca64d665e483b946ae6",
        "data/Race_x_SES.jsonl": "af8e2ae3d0e5be9ebcbfe7149e591d47ff649e263307f4548f7fb12f6a6d83e8",
        "data/Race_x_gender.jsonl": "e5dbba782f8c4e25b99dd5470b5136e2db73dbf401cf6d4a5a3ed31b02f95696",
        "data/Religion.jsonl": "cb9555f9f3454a52cd2df85956b59bd7fcca5aa922c8527693b1164d08417616",
        "data/SES.jsonl": "9f92754bb037b0982604b9112705fb81d60a19d9e759c67e4a85e484a070f528",
        "data/Sexual_orientation.jsonl": "2c71036b9e7584fe589c42aef32c1a42bc01b9a5e9b1b8704342630cdb08cefd",
    },
)  # all 58,492 items


class BBQQuestion(BBQItem):
    """A published item."""

    context: str
    question: str


@dataclass(frozen=True)
class BBQRun(StoredBenchmarkRun):
    """Bias scores and accuracies of both contexts, with their changes.

    `template` has the places {context} and {question}, and may have {ans0}, {ans1}, {ans2}. `per_byte` divides the
    log-likelihood of an answer by its bytes. `limit` chooses pairs of groups of a template: all their items (both
    contexts, both polarities, both orders of the names) are taken together.
    """

    template: str = TEMPLATE
    per_byte: bool = False

    name = "bbq"
    suite = "bias"
    version = 1
    hub = PUBLISHED
    identity = ("category", "example_id")
    same = ("question_index", "question_polarity", "context_condition", *ANSWERS, "label")
    higher_is_better: ClassVar[Mapping[str, bool]] = {"accuracy_ambiguous": True, "accuracy_disambiguated": True}

    def __post_init__(self) -> None:
        places = {place for _, place, _, _ in Formatter().parse(self.template) if place is not None}
        if not {"context", "question"} <= places <= {"context", "question", *ANSWERS}:
            raise ValueError(
                f"template: has the places {sorted(places)}; it needs {{context}} and {{question}}, and may have "
                "{ans0}, {ans1}, {ans2}"
            )

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[BBQQuestion]:
        return published_items(rows, BBQQuestion)

    def item_id(self, item: BBQQuestion) -> str:
        return _id(item)

    def limit_keys(self, items: Sequence[BBQQuestion]) -> list[str]:
        keys = []
        for item in items:
            tags = item.answer_info
            named = sorted(getattr(item, name) for name in ANSWERS if not is_unknown(tags.get(name) or []))
            keys.append("\n".join((item.category, item.question_index, *named)))
        return keys

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"template": self.template, "per_byte": self.per_byte}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        assert model is not None
        items = self.chosen(context)
        asked = [Asked(self._prompt(item), tuple(f" {getattr(item, name)}" for name in ANSWERS)) for item in items]
        return [
            {**item.model_dump(exclude={"model"}), "logprobs": found.logprobs, "prediction": found.position}
            for item, found in zip(items, likeliest(context, model, asked, by_byte=self.per_byte), strict=True)
        ]

    def _prompt(self, item: BBQQuestion) -> str:
        return self.template.format(**{name: getattr(item, name) for name in ("context", "question", *ANSWERS)})

    def paired(self, items: Sequence[BBQItem]) -> Mapping[str, Paired]:
        found: dict[str, dict[str, tuple[float | None, Hashable]]] = {}
        found.update((f"accuracy_{name}", {}) for name in CONTEXTS.values())
        for item in items:
            answer = item.answer()
            value = None if answer is None else float(answer.correct)
            found[f"accuracy_{CONTEXTS[item.context_condition]}"][_id(item)] = (value, item.cluster)
        return found

    def changes_of_sets(
        self,
        context: EvalContext,
        subject: str,
        own: Sequence[BBQItem],
        baseline: Sequence[BBQItem],
        group: str | None = None,
    ) -> list[EvalResult]:
        """Those of the bias scores."""
        results = []
        for condition, name in CONTEXTS.items():
            here, there = (_answers(items, condition) for items in (own, baseline))
            both = [item for item, answer in here.items() if answer and there.get(item)]
            answers = ([answer for item in both if (answer := side[item])] for side in (here, there))
            change = bias_score_change(*answers, scaled=condition == "ambig", seed=context.seed)
            missing = len(here.keys() | there.keys()) - len(both)
            metric = f"bias_score_{name}"
            results.append(change_row(self, context, subject, metric, change, missing=missing, group=group))
        return results


def _id(item: BBQItem) -> str:
    return f"{item.category} {item.example_id}"


def _answers(items: Sequence[BBQItem], condition: str) -> dict[str, Answer | None]:
    return {_id(item): item.answer() for item in items if item.context_condition == condition}
