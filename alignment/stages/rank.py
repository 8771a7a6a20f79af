"""Rankings of candidate answers: by a scorer, or by people, for whom the run stops and waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from alignment.errors import DataError
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.store import read_records, write_records
from alignment.preferences.tally import counted_judgements, declined
from alignment.preferences.views import plain, unusable
from alignment.runs import DataUse, RunContext, StageResult
from alignment.scorer_names import OVERALL
from alignment.stages.scoring import Reward, check_references, scorer_inputs
from alignment.stages.settings import DataNeed, Found, Made, StageSettings

if TYPE_CHECKING:
    from alignment.preferences.sources import DataSpec
    from alignment.stages.reference_answers import ReferenceAnswers

RECORDS, REFERENCES = "records", "references"  # roles of the data sets
TOO_FEW = "fewer than two different answers"
DECLINED = "skipped or taken back by everyone who saw it"
ROUND = "{round}"


class RankSettings(StageSettings):
    """`data`: records with candidate answers. What others said about them is left out; their splits stay.

    `by: annotators` writes the records that wait for judgements into the stage's folder and stops; `judged` is the
    file in which they come back. What comes back skipped or retracted by everyone is left out and counted. In a
    `repeat`, {round} in the path stands for the number of the round.
    """

    data: str
    split: Literal["train", "validation", "test", "all"] = "all"
    by: Literal["scorer", "annotators"] = "scorer"
    reward: Reward = "auto"
    tie_width: float = Field(0.0, ge=0)  # scores closer than this tie, equal ones always do
    references: str | None = None  # data with the reference answers for a rule that compares with one
    share_prefixes: bool = True
    judged: str | None = None

    @model_validator(mode="after")
    def one_judge(self) -> RankSettings:
        if (self.judged is not None) != (self.by == "annotators"):
            raise ValueError("`by: annotators` and `judged`, the file of their judgements, go together")
        given = self.model_fields_set & {"reward", "tie_width", "references"}
        if self.by == "annotators" and given:
            raise ValueError(f"{sorted(given)[0]}: people judge here, no scorer; leave it out")
        return self

    @classmethod
    def in_round(cls, given: dict[str, Any], number: int) -> dict[str, Any]:
        path = given.get("judged")
        return given | {"judged": path.replace(ROUND, str(number))} if isinstance(path, str) else given

    def model_inputs(self, stage: str, earlier: list[Made]) -> dict[str, str]:
        return scorer_inputs(self.reward, stage, earlier) if self.by == "scorer" else {}

    def data_inputs(self) -> dict[str, DataNeed]:
        needs = {RECORDS: DataNeed(self.data, self.split, "prompts")}
        return needs if self.references is None else needs | {REFERENCES: DataNeed(self.references, "all", "prompts")}

    def check_records(self, stage: str, role: str, found: Found, spec: DataSpec) -> None:
        if self.by == "scorer" and role == (RECORDS if self.references is None else REFERENCES):
            check_references(stage, found.records, spec, self.reward)

    def awaited(self) -> dict[str, str]:
        return {} if self.judged is None else {"judged": self.judged}


def check(stage: str, settings: RankSettings) -> None:
    """Nothing that only heavy libraries can tell."""


def run(context: RunContext, settings: RankSettings) -> StageResult:
    from alignment.stages.rows import load

    loaded = load(context, RECORDS)
    records, dropped = _comparable(loaded.records)
    if loaded.refused:
        dropped["refused by the importer"] = len(loaded.refused)
    spec = context.data[RECORDS]
    reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
    if not records:
        raise DataError(f"{spec.source}: none of {len(loaded.records)} records can be ranked: {reasons}")
    left_out = f"; {reasons}" if reasons else ""
    context.say(f"{context.stage}: {len(records)} of {len(loaded.records)} records to rank{left_out}")
    made, metrics = (_by_scorer if settings.by == "scorer" else _by_people)(context, settings, records)
    if len(made) < len(records):
        dropped[DECLINED] = len(records) - len(made)
    use = DataUse(
        RECORDS,
        f"{spec.source} ({spec.split})",
        context.data_digests[RECORDS],
        len(loaded.records),
        len(made),
        dict(dropped),
    )
    notes = (f"{dropped[DECLINED]} of {len(records)} records were {DECLINED}",) if dropped[DECLINED] else ()
    return StageResult(metrics=metrics, notes=notes, data=(use,), records=context.write_records(made))


def _comparable(records: Sequence[PreferenceRecord]) -> tuple[list[PreferenceRecord], Counter[str]]:
    from alignment.stages.judging import candidates

    kept, dropped = [], Counter[str]()
    for record in records:
        reason = unusable(record, use_context=False) or (TOO_FEW if len(candidates(record)) < 2 else None)
        if reason is None:
            kept.append(record)
        else:
            dropped[reason] += 1
    return kept, dropped


def _by_scorer(
    context: RunContext, settings: RankSettings, records: list[PreferenceRecord]
) -> tuple[list[PreferenceRecord], dict[str, float]]:
    from alignment.stages.judging import annotator, judged, score
    from alignment.stages.scoring import load_scorer

    scorer = load_scorer(context, settings.reward, _references(context, records), settings.share_prefixes)
    scores, who = score(records, scorer), annotator(context, settings.reward)
    made = [judged(record, given, who, settings.tie_width) for record, given in zip(records, scores, strict=True)]
    every = [value for given in scores for value in given[OVERALL]]
    gaps = [max(given[OVERALL]) - min(given[OVERALL]) for given in scores]
    tied = sum(len(record.judgements[0].orders[0].tiers) == 1 for record in made)
    return made, {
        "records": float(len(made)),
        "score": sum(every) / len(every),
        "best_minus_worst": sum(gaps) / len(gaps),
        "all_tied": float(tied),
    }


def _references(context: RunContext, records: Sequence[PreferenceRecord]) -> ReferenceAnswers:
    """Reference answers to the records' prompts, of the data that has them, or of the records themselves."""
    from alignment.stages.reference_answers import reference_answers
    from alignment.stages.rows import load
    from reward.rules import prompt_text

    source, criterion = records, context.data[RECORDS].criterion
    if REFERENCES in context.data:
        source, criterion = load(context, REFERENCES).records, context.data[REFERENCES].criterion
    return reference_answers(source, criterion, {prompt_text(plain(r.prompt.messages)) for r in records})


def _by_people(
    context: RunContext, settings: RankSettings, records: list[PreferenceRecord]
) -> tuple[list[PreferenceRecord], dict[str, float]]:
    """The records with what people said of them, without those that they declined.

    Raises DataError, and leaves a queue, while some wait; and where people declined all of them.
    """
    path = Path(settings.judged or "")
    brought = {record.id: record for record in read_records(path)} if path.is_file() else {}
    known = {record.id for record in records}
    foreign = next((record for record in brought if record not in known), None)
    if foreign is not None:
        raise DataError(
            f"{path}: record {foreign} is none of the {len(records)} that are to be judged here; its prompt or an "
            "answer was changed, or it is another round's; take it out"
        )
    counted = {record.id for record in brought.values() if counted_judgements(record)}
    waiting = [r for r in records if r.id not in counted and not (r.id in brought and declined(brought[r.id]))]
    if waiting:
        queue = context.folder / "queue.jsonl"
        write_records(queue, [record.model_copy(update={"judgements": ()}) for record in waiting])
        raise DataError(
            f"{context.stage}: {len(waiting)} of {len(records)} records wait for people's judgements, the first is "
            f"{waiting[0].id}; they are in {queue}; put all of them, judged, into {path} and run the same command again"
        )
    if not counted:
        raise DataError(f"{path}: every one of the {len(records)} records was {DECLINED}; have one judged")
    made = [r.model_copy(update={"judgements": brought[r.id].judgements}) for r in records if r.id in counted]
    return made, {
        "records": float(len(made)),
        "judgements": float(sum(len(counted_judgements(record)) for record in made)),
    }
