"""Two-turn questions in MT-Bench's manner (Zheng et al. 2023, arXiv 2306.05685), each answer rated 1..10 by a judge.

The published questions are read as they are (`question.jsonl`), by `data`; the default are 24 of our own, whose
ratings are not comparable with published ones, nor are those of any judge but the one that was published. Answers are
greedy for every category, where MT-Bench samples writing and roleplay at temperature 0.7.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample, samples_by
from alignment.evaluation.benchmarks.items import ItemBenchmark
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.benchmarks.probes import Item
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import mean_interval, paired_difference
from alignment.evaluation.stored.rows import Row

QUESTIONS = "bundled:probes/conversations.jsonl"
TURNS = 2


class Question(Item):
    """What the user says in both turns, and reference answers to some."""

    category: str
    turns: list[str]
    reference: list[str] = Field(default_factory=list)  # of the first turn, or of both

    @field_validator("turns")
    @classmethod
    def _two(cls, value: list[str]) -> list[str]:
        if len(value) != TURNS or not all(turn.strip() for turn in value):
            raise ValueError("a question has two turns, neither of them empty")
        return value

    @field_validator("reference")
    @classmethod
    def _as_many(cls, value: list[str]) -> list[str]:
        if len(value) > TURNS:
            raise ValueError("there are more reference answers than turns")
        return value


@dataclass(frozen=True)
class MtBenchAnswers(ItemBenchmark):
    """The answers that mt_bench has judged: kept apart from the ratings, so another judge makes none again."""

    data: str | tuple[str, ...] = QUESTIONS

    name = "mt_bench_answers"
    suite = "helpfulness"
    version = 1
    same = ("question",)

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[Any]:
        """Rows {id or question_id, category, turns, reference}; DataError names the row."""
        found = []
        for row in rows:
            values = dict(row.values)
            values.setdefault("id", str(values.get("question_id", "")))
            try:
                found.append(Question.model_validate(values))
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in problem["loc"])
                raise DataError(f"{row.where}: {where}: {problem['msg']}") from error
        return found

    def item_id(self, item: Any) -> str:
        return str(item.id)

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"max_new_tokens": context.settings.max_new_tokens}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.generation.generate import generate

        assert model is not None
        questions = self.chosen(context)
        said: list[list[dict[str, str]]] = [[] for _ in questions]
        answers: list[list[str | None]] = [[] for _ in questions]
        for turn in range(TURNS):
            open_ones = [i for i in range(len(questions)) if None not in answers[i]]
            for i in open_ones:
                said[i] += [{"role": "user", "content": questions[i].turns[turn]}]
            settings = context.settings
            replies = generate(
                *model,
                [said[i] for i in open_ones],
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                bf16=settings.bf16,
                say=lambda line, turn=turn: context.say(f"{subject}: turn {turn + 1}: {line}"),  # type: ignore[misc]
            )
            for i, reply in zip(open_ones, replies, strict=True):
                answers[i].append(None if reply is None else reply.text)
                said[i] += [{"role": "assistant", "content": "" if reply is None else reply.text}]
        return [
            {"id": one.id, "question": one.model_dump(mode="json"), "answers": [*some, None][:TURNS]}
            for one, some in zip(questions, answers, strict=True)
        ]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        return []  # answers have no numbers before they are judged


@dataclass(frozen=True)
class MtBench(Benchmark):
    """Mean rating (1..10) over both turns, per turn and per category, clustered by question."""

    data: str | tuple[str, ...] = QUESTIONS
    limit: Annotated[int, Field(ge=1)] | None = None

    name = "mt_bench"
    suite = "helpfulness"
    version = 1
    needs_model = False
    judged = True
    identity = ("id", "turn")
    same = ("category",)

    def answered(self) -> MtBenchAnswers:
        return MtBenchAnswers(data=self.data, limit=self.limit)

    def subjects(self, context: EvalContext) -> Sequence[str]:
        return list(context.models)

    def skipped(self, context: EvalContext) -> str:
        return "it needs a policy that answers"

    def prepare(self, context: EvalContext) -> None:
        self.answered().prepare(context)

    def settings(self, context: EvalContext) -> dict[str, Any]:
        assert context.judge is not None
        return {"judge": context.judge.identity}

    def inputs(self, context: EvalContext) -> Any:
        return self.settings(context)

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        assert context.judge is not None
        rows = [(row, turn) for row in context.answers[subject] for turn in range(TURNS)]
        asked = [(row, turn) for row, turn in rows if row["answers"][turn] is not None]
        grades = iter(
            context.judge.grade(
                [_conversation(row, turn) for row, turn in asked],
                [row["answers"][turn] for row, turn in asked],
                [_reference(row["question"], turn) for row, turn in asked],
            )
        )
        samples = []
        for row, turn in rows:
            grade = next(grades) if row["answers"][turn] is not None else None
            samples.append(
                {
                    "id": row["id"],
                    "turn": turn + 1,
                    "category": row["question"]["category"],
                    "judge": context.judge.name,
                    "rating": None if grade is None else grade.rating,
                    "reply": None if grade is None else grade.text,
                }
            )
        return samples

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        items: dict[Hashable, ItemValue] = {
            (row["id"], row["turn"]): ItemValue(row["rating"], row["id"]) for row in rows
        }
        return [Measure("score", items, "points")]

    def measures_by_group(self, rows: Sequence[Sample]) -> Mapping[str, Sequence[Measure]]:
        return {category: self.measures(own) for category, own in samples_by(rows, "category").items()}

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        results = []
        for subject, rows in samples.items():
            results += self._levels(context, subject, rows)
            if subject != context.baseline and context.baseline in samples:
                before = samples[context.baseline]
                results.append(self._change(context, subject, rows, before))
                results += [
                    self._change(context, subject, own, before, category)
                    for category, own in samples_by(rows, "category").items()
                ]
        return results

    def _levels(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> list[EvalResult]:
        by = f"rating 1-10 by judge {rows[0]['judge']}"
        parts: list[tuple[str, str | None, list[Sample], str]] = [("score", None, list(rows), by)]
        for turn in range(1, TURNS + 1):
            some = [row for row in rows if row["turn"] == turn]
            parts.append((f"score_turn_{turn}", None, some, f"{by}, turn {turn}"))
        for category, own in samples_by(rows, "category").items():
            parts.append(("score", category, own, by))
        results = []
        for metric, group, some, label in parts:
            rated = [row for row in some if row["rating"] is not None]
            mean = mean_interval([r["rating"] for r in rated], [r["id"] for r in rated], seed=context.seed)
            unread = sum(row["reply"] is not None for row in some) - len(rated)
            more: dict[str, Any] = {
                "group": group,
                "unit": "points",
                "higher_is_better": True,
                "primary": metric == "score" and group is None,
                "label": label,
                "method": f"{mean.method}; {unread} replies without a rating",
            }
            results.append(self.result(context, subject, metric, mean, len(some) - len(rated), **more))
        return results

    def _change(
        self,
        context: EvalContext,
        subject: str,
        rows: Sequence[Sample],
        baseline: Sequence[Sample],
        category: str | None = None,
    ) -> EvalResult:
        there = {(row["id"], row["turn"]): row["rating"] for row in baseline}
        both = [
            (row["rating"], other, row["id"])
            for row in rows
            if row["rating"] is not None and (other := there.get((row["id"], row["turn"]))) is not None
        ]
        mine, theirs, questions = ([one[column] for one in both] for column in range(3))
        change = paired_difference(mine, theirs, questions, seed=context.seed)
        more = {"unit": "points", "higher_is_better": True, "compared_to": context.baseline, "group": category}
        return self.result(context, subject, "score_difference", change, len(rows) - len(both), **more)


def _conversation(row: Sample, turn: int) -> list[dict[str, str]]:
    """What was said up to the answer of a turn."""
    messages = []
    for earlier in range(turn):
        messages.append({"role": "user", "content": row["question"]["turns"][earlier]})
        messages.append({"role": "assistant", "content": row["answers"][earlier]})
    return [*messages, {"role": "user", "content": row["question"]["turns"][turn]}]


def _reference(question: Sample, turn: int) -> str | None:
    given = question["reference"]
    return given[turn] if turn < len(given) else None
