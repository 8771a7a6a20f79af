"""What best-of-n and rejection sampling share: answers that are drawn and scored, and what choosing the best gains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from alignment.errors import DataError
from alignment.preferences.record import Annotator, PreferenceRecord, record_id
from alignment.runs import DataUse, RunContext
from alignment.scorer_names import OVERALL
from alignment.stages.empty_answers import is_empty, refuse_silence
from alignment.stages.sampling import (
    Answers,
    Sampled,
    SamplingSettings,
    cut_note,
    merged_note,
    prepare,
    sample_answers,
)
from alignment.stages.scoring import Reward, ScorerTerm, check_references, scorer_inputs
from alignment.stages.settings import Found, Made

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec
    from alignment.stages.judging import Scores


EMPTY = "every answer empty"
NOTHING = "every answer empty or cut off"


class ScoredSamplingSettings(SamplingSettings):
    """Sampling, and the scorer that chooses. Empty answers are scored, counted and left out of the records.

    `finished_only`: so are answers that max_new_tokens cut off, which would be imitated as if they had ended.
    """

    reward: Reward = "auto"
    finished_only: bool = False
    share_prefixes: bool = True

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        return super().model_inputs(stage, earlier) | scorer_inputs(self.reward, stage, earlier)

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        check_references(stage, found.records, spec, self.reward)


class Scored(NamedTuple):
    """Answers, the scores of each prompt's different ones, and the scorer."""

    sampled: Sampled
    scores: list[Scores]
    annotator: Annotator
    finished_only: bool = False

    def use(self, prompts: int, why: str) -> DataUse:
        """What became of the prompts: `prompts` gave records; the others had nothing to, or are counted under `why`."""
        silent = sum(said is None for said in self.said())
        without = {NOTHING if self.finished_only else EMPTY: silent, why: len(self.sampled.answers) - silent - prompts}
        dropped = {**self.sampled.use.dropped, **{reason: count for reason, count in without.items() if count}}
        return replace(self.sampled.use, n_used=prompts, dropped=dropped)

    def said(self) -> list[tuple[PreferenceRecord, Scores] | None]:
        """Each prompt's record of the answers to hand on, and their scores; None where there are none."""
        found: list[tuple[PreferenceRecord, Scores] | None] = []
        for answers, scores in zip(self.sampled.answers, self.scores, strict=True):
            record = answers.record
            texts = handed_on(answers, self.finished_only)
            kept = [place for place, response in enumerate(record.responses) if response.text() in texts]
            responses = tuple(record.responses[place] for place in kept)
            update = {"responses": responses, "id": record_id(record.prompt, responses)}
            own = {name: [values[place] for place in kept] for name, values in scores.items()}
            found.append((record.model_copy(update=update), own) if kept else None)
        return found

    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the draws."""
        left_out = {"empty": self.sampled.empty, "cut-off": self._cut_off()}
        notes = tuple(f"{count} {what} answers were left out" for what, count in left_out.items() if count)
        fix = "raise max_new_tokens or set finished_only: true"
        return merged_note(self.sampled) + notes + (() if self.finished_only else cut_note(self.sampled, fix))

    def _cut_off(self) -> int:
        """Answers that say something and are left out because they did not end."""
        found = [(text, handed_on(each, self.finished_only)) for each in self.sampled.answers for text in each.texts]
        return sum(not is_empty(text) and text not in texts for text, texts in found)


def handed_on(answers: Answers, finished_only: bool) -> set[str]:
    """Texts that may be imitated: none that is empty, nor, with `finished_only`, one that was cut off at every draw."""
    drawn = zip(answers.texts, answers.finished, strict=True)
    return {text for text, ended in drawn if not is_empty(text) and (ended or not finished_only)}


def sample_and_score(context: RunContext, settings: ScoredSamplingSettings, watch: Sequence[ScorerTerm] = ()) -> Scored:
    """Draws and scores; what is in `watch` is scored too. What a scorer lacks is known before anything is drawn.

    Raises as `prepare`, `load_scorer`, `check_prompts`, `sample_answers`, `refuse_silence` and `CheckedScorer.score`,
    and DataError where `finished_only` leaves nothing.
    """
    from alignment.stages.judging import annotator, score
    from alignment.stages.scoring import check_prompts, load_scorer, load_watch

    asked = prepare(context, settings)
    scorer = load_scorer(context, settings.reward, asked.found.references, settings.share_prefixes)
    watcher = load_watch(context, watch, asked.found.references, settings.share_prefixes)
    check_prompts(asked.rows, scorer, watcher, answer_tokens=settings.max_new_tokens)
    sampled = sample_answers(context, settings, asked)
    empty = [is_empty(text) for answers in sampled.answers for text in answers.texts]
    refuse_silence([row.id for row in asked.rows for _ in range(settings.n)], empty)
    if settings.finished_only and not any(handed_on(answers, True) for answers in sampled.answers):
        raise DataError(
            f"{context.stage}: finished_only: none of {len(empty)} answers ended and says something; raise "
            f"max_new_tokens, which is {settings.max_new_tokens}"
        )
    del asked  # the policy's memory is the scorers' now
    scores = score([answers.record for answers in sampled.answers], scorer, watcher)
    return Scored(sampled, scores, annotator(context, settings.reward), settings.finished_only)


def every_score(answers: Answers, scores: Mapping[str, Sequence[float]], criterion: str) -> list[float]:
    """Scores of all n answers (n,); answers that said the same have the same."""
    texts = [response.text() for response in answers.record.responses]
    by_text = dict(zip(texts, scores[criterion], strict=True))
    return [by_text[text] for text in answers.texts]


def gains(scored: Scored, n: int) -> dict[str, float]:
    """What the best of k answers scores, and its KL at most, for k = 1, 2, 4, ... and n.

    best_of_k/score, best_of_k/kl_bound (nats) and best_of_k/scores/NAME for everything else that was scored, under the
    same choice: what is not handed on is chosen only where all k are such. See `reward.overoptimisation`.
    """
    from reward.overoptimisation import best_of_n, bon_kl

    table = {
        name: [every_score(a, s, name) for a, s in zip(scored.sampled.answers, scored.scores, strict=True)]
        for name in scored.scores[0]
    }
    order = [
        _ranks(a, row, scored.finished_only) for a, row in zip(scored.sampled.answers, table[OVERALL], strict=True)
    ]
    found: dict[str, float] = {}
    for k in sorted({*(2**power for power in range(n.bit_length())), n}):
        for name, values in table.items():
            label = "score" if name == OVERALL else f"scores/{name}"
            found[f"best_of_{k}/{label}"] = best_of_n(order, values, k)[1]
        found[f"best_of_{k}/kl_bound"] = bon_kl(k)
    return found


def _ranks(answers: Answers, scores: Sequence[float], finished_only: bool) -> list[float]:
    """What a prompt's n answers are chosen by: their scores, with those that are not handed on below all others."""
    below, texts = math.nextafter(min(scores), -math.inf), handed_on(answers, finished_only)
    return [score if text in texts else below for text, score in zip(answers.texts, scores, strict=True)]


def gain_lines(found: Mapping[str, float], n: int) -> list[str]:
    """The gains in words, one line per k."""
    lines = []
    for k in range(1, n + 1):
        score, bound = found.get(f"best_of_{k}/score"), found.get(f"best_of_{k}/kl_bound")
        if score is not None:
            lines.append(f"best of {k}: mean score {score:.4f}, KL at most {bound:.5f} nats")
    return lines
