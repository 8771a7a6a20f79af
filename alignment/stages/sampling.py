"""What the stages share that sample answers from a policy: settings, drawing, and the records of what was drawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from alignment.errors import RecipeError
from alignment.preferences.record import Generator, Message, PreferenceRecord, Response
from alignment.runs import DataUse, RunContext
from alignment.stages.empty_answers import is_empty
from alignment.stages.prompts import PromptRow, Prompts, prompt_rows
from alignment.stages.reference_answers import references
from alignment.stages.settings import DataNeed, Found, Made, StageSettings, hand_off
from reward.context import context_length

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec

PROMPTS = "prompts"  # the role of the data set


class SamplingSettings(StageSettings):
    """`data`: records, of which only the prompts are read (and reference answers, by rules that need one).

    `limit`: at most so many prompts, in the order of their records' ids, which are content hashes: an order that does
    not depend on the file. `start`: how many of that order to pass over; behind the last one comes the first again. In
    a `repeat` whose rounds go on from each other, each round starts where the one before ended.
    """

    model: str = "auto"  # auto: the last policy made before this stage, or the base model
    data: str
    split: Literal["train", "validation", "test", "all"] = "train"
    n: int = Field(4, ge=1)  # answers to each prompt
    limit: int | None = Field(None, ge=1)
    start: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(64, ge=1)
    max_prompt_length: int = Field(512, ge=1)  # tokens
    long_prompts: Literal["drop", "error"] = "drop"  # prompts above it: counted and reported, or an error

    @classmethod
    def in_round(cls, given: dict[str, Any], number: int) -> dict[str, Any]:
        limit, start = given.get("limit"), given.get("start", 0)
        if not isinstance(limit, int) or not isinstance(start, int):
            return given  # every round takes all prompts, or the settings will be refused
        return given | {"start": start + (number - 1) * limit}

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        if self.start and self.limit is None:
            raise RecipeError(f"{stage}: start: has no effect without a limit; give both or leave it out")
        return {"model": hand_off(self.model, stage, earlier, "policy")}

    def data_inputs(self) -> dict[str, DataNeed]:
        return {PROMPTS: DataNeed(self.data, self.split, "prompts")}

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        references(found.records, spec.criterion)  # of which the stage asks, too, whether the criterion is clear


class Answers(NamedTuple):
    """A prompt's answers in the order they were drawn, and the record of the different ones."""

    texts: list[str]  # n
    finished: list[bool]  # n: ended before max_new_tokens
    record: PreferenceRecord  # without judgements; split, group and source are those of the prompt's record


class Asked(NamedTuple):
    """A policy and the prompts it is to answer."""

    model: Any
    tokenizer: Any
    found: Prompts  # all that can be used
    rows: list[PromptRow]  # those of this stage's part
    use: DataUse


class Sampled(NamedTuple):
    """Answers to every prompt that was taken, reference answers by prompt, and what became of the prompts."""

    answers: list[Answers]
    references: dict[str, str]
    use: DataUse

    def metrics(self) -> dict[str, float]:
        """Counts of what was drawn."""
        texts = [text for each in self.answers for text in each.texts]
        finished = [ended for each in self.answers for ended in each.finished]
        return {
            "prompts": float(len(self.answers)),
            "answers": float(len(texts)),
            "merged": float(self.merged),
            "empty": float(self.empty),
            "finished_share": sum(finished) / len(finished),
        }

    @property
    def cut(self) -> int:
        """Answers that max_new_tokens ended."""
        return sum(not ended for each in self.answers for ended in each.finished)

    @property
    def empty(self) -> int:
        """Answers that say nothing."""
        return sum(is_empty(text) for each in self.answers for text in each.texts)

    @property
    def merged(self) -> int:
        """Answers that said what an earlier one to the same prompt had said."""
        return sum(len(each.texts) - len(each.record.responses) for each in self.answers)


def stage_seed(context: RunContext) -> int:
    """The seed and the stage's name in one number: two stages of a run draw differently."""
    return int.from_bytes(hashlib.sha256(f"{context.seed}\0{context.stage}".encode()).digest()[:4])


def prepare(context: RunContext, settings: SamplingSettings) -> Asked:
    """Loads the policy and its prompts. Raises as `prompt_rows`."""
    from alignment.stages import policy

    model, tokenizer = policy.load(context, None, False)
    length = context_length(model)
    found = prompt_rows(
        context, PROMPTS, tokenizer, settings.max_prompt_length, settings.max_new_tokens, length, settings.long_prompts
    )
    rows = window(found.rows, settings.start, settings.limit)
    use = found.use
    if len(rows) < len(found.rows):
        left = {**use.dropped, "not in this stage's part of the prompts": len(found.rows) - len(rows)}
        use = replace(use, n_used=len(rows), dropped=left)
    return Asked(model, tokenizer, found, rows, use)


def sample_answers(context: RunContext, settings: SamplingSettings, asked: Asked) -> Sampled:
    """Draws `n` answers to each prompt. What it draws for one prompt depends on no other prompt while top_p is 1.

    Raises as the generation does.
    """
    model, tokenizer, found, rows, use = asked
    context.say(f"{context.stage}: sampling {settings.n} answers to each of {len(rows)} prompts")
    drawn = _draw(context, settings, model, tokenizer, rows)
    generator = Generator(
        kind="model",
        name=context.inputs["model"],
        sampling=settings.model_dump(include={"temperature", "top_p", "max_new_tokens"}),
        seed=stage_seed(context),
    )
    answers = [_answers(found.records[row.id], one, generator) for row, one in zip(rows, drawn, strict=True)]
    return Sampled(answers, found.references, use)


def window(rows: Sequence[PromptRow], start: int, limit: int | None) -> list[PromptRow]:
    """`limit` rows from place `start` on, in the order of their ids, and round again from the first."""
    if limit is None:
        return list(rows)
    ordered = sorted(rows, key=lambda row: row.id)
    return [ordered[(start + k) % len(ordered)] for k in range(min(limit, len(ordered)))]


def _draw(
    context: RunContext, settings: SamplingSettings, model: Any, tokenizer: Any, rows: Sequence[PromptRow]
) -> list[list[tuple[str, bool]]]:
    """(text, finished) of every answer. Only without top-p can the prompts be run once for all their answers."""
    seed = stage_seed(context)

    def say(line: str) -> None:
        context.say(f"{context.stage}: {line}")

    if settings.top_p == 1:
        from alignment.training.rollouts import rollouts

        keys = [(seed, int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:4])) for row in rows]
        found = rollouts(
            model,
            tokenizer,
            [row.ids for row in rows],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            samples=settings.n,
            seeds=keys,
            ids=[row.id for row in rows],
            say=say,
        )
        return [[(answer.text, answer.finished) for answer in answers] for answers in found]
    from alignment.generation.generate import generate

    written = generate(
        model,
        tokenizer,
        [row.messages for row in rows for _ in range(settings.n)],
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=seed,
        say=say,
    )
    flat = [(answer.text, answer.finished) for answer in written if answer is not None]  # prompt_rows saw to the room
    return [flat[i : i + settings.n] for i in range(0, len(flat), settings.n)]


def _answers(record: PreferenceRecord, drawn: Sequence[tuple[str, bool]], generator: Generator) -> Answers:
    texts = [text for text, _ in drawn]
    made = PreferenceRecord(
        prompt=record.prompt,
        responses=tuple(
            Response(messages=(Message(role="assistant", content=text),), generator=generator)
            for text in Counter(texts)  # each once, in the order they came
        ),
        source=record.source,
        group_id=record.group_id,
        split=record.split,
    )
    return Answers(texts, [finished for _, finished in drawn], made)


def merged_note(sampled: Sampled) -> tuple[str, ...]:
    """What a reader should know of the draws."""
    count = sampled.merged
    return (f"{count} answers said the same as another to their prompt and were merged",) if count else ()


def cut_note(sampled: Sampled, fix: str = "raise max_new_tokens") -> tuple[str, ...]:
    """A record does not tell an answer that was cut off from one that ended, and training ends both."""
    cut, drawn = sampled.cut, sum(len(each.texts) for each in sampled.answers)
    what = f"{cut} of {drawn} answers were cut at max_new_tokens and would be imitated as ended; {fix}"
    return (what,) if cut else ()
