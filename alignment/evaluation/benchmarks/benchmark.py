"""What a benchmark is, what it may ask of a run, and the samples it keeps.

A benchmark makes predictions with one subject at a time (a policy, or a scorer) and stores them, one JSON object per
item; its numbers are computed from the stored samples of all subjects alone. So a number can be recomputed, and an
interrupted evaluation goes on from what is stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from alignment.evaluation.benchmarks.measures import Measure
from alignment.evaluation.data import Hub, subset
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval

if TYPE_CHECKING:
    from alignment.evaluation.judges import Judge
    from alignment.preferences.record import PreferenceRecord
    from reward.scorer import Scorer

Sample = dict[str, Any]  # one item as JSON: "id" and whatever its metrics are computed from
LoadedModel = tuple[Any, Any]  # (causal language model in eval mode, its tokenizer)


@dataclass(frozen=True)
class EvalSettings:
    """`max_new_tokens` of an answer; `limit`: at most so many held-out prompts, `items`: of every other benchmark."""

    max_new_tokens: int = 128
    limit: int | None = None  # None = all
    items: int | None = None  # None = all; a benchmark's own `limit` goes before it
    batch_size: int | None = None  # prompts decoded together
    bf16: bool | None = (
        None  # decode with bf16 weights, score likelihoods under bf16 autocast; None: as hardware has it
    )


@dataclass(frozen=True)
class EvalContext:
    """All that an evaluation works on.

    `models` names the policies in order and what each one is (its digest, or its reference): samples made by
    another model of the same name are not reused. `load` returns one of them; a model is let go before the next,
    and is loaded once, but for the origin, whose own texts forward KL may need before. `baseline` is the policy
    that win rates and bias differences are against, `origin` the one that forgetting is measured from (the
    baseline, where it is not among the models). Predictions are found again in `cache` by what they were made of,
    whichever evaluation made them. A benchmark among `optional` is left out, and said to be, where its data
    cannot be had; any other is an error then.
    """

    models: Mapping[str, str]
    load: Callable[[str], LoadedModel]
    out_dir: Path
    seed: int
    baseline: str = "sft"
    origin: str = "base"
    records: Sequence[PreferenceRecord] = ()  # held out; answered by the policies, ranked by the scorers
    criterion: str | None = None  # of the records' judgements; None = the only one there is
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    scorer_ids: Mapping[str, str] = field(default_factory=dict)  # what each scorer is, as `models` says it of policies
    trained_scorers: frozenset[str] = frozenset()  # scorers that the run optimised against
    references: Mapping[str, str] = field(default_factory=dict)  # reward.rules.prompt_text(prompt) -> reference answer
    settings: EvalSettings = EvalSettings()
    run_dir: Path | None = None  # what samples_path is relative to; None = out_dir
    say: Callable[[str], None] = print
    hub: Hub = field(default_factory=Hub)
    cache: Path | None = None
    optional: frozenset[str] = frozenset()
    judge: Judge | None = None  # what compares two answers for the benchmarks that ask one
    starts: Mapping[str, str] = field(default_factory=dict)  # model -> the one of `models` that it was trained from
    learned_at: Mapping[str, str] = field(default_factory=dict)  # benchmark -> the model whose training taught it
    items: dict[str, list[Any]] = field(default_factory=dict)  # benchmark -> its items, read once
    answers: Mapping[str, Sequence[Sample]] = field(default_factory=dict)  # subject -> samples of `answered` to judge

    def held_out(self) -> Sequence[PreferenceRecord]:
        """The records to evaluate on, as many as the settings allow: chosen by id, in their order."""
        return subset(self.records, [record.id for record in self.records], self.settings.limit)

    def records_digest(self) -> str:
        """What the held-out records are, judgements and references included: part of the key of stored samples."""
        from alignment.atomic import json_digest
        from alignment.preferences.record import dump

        return json_digest({"records": [dump(record) for record in self.held_out()], "references": self.references})

    def forgetting_reference(self) -> str:
        """The policy that forgetting is measured from."""
        return self.origin if self.origin in self.models else self.baseline


class Benchmark(ABC):
    """One benchmark: a name in BENCHMARKS, a suite, and a version to raise when a change alters predictions.

    Benchmarks are frozen dataclasses. Their fields but `name` and `suite` are the options of a suite file.
    """

    name: str
    suite: str
    version: int
    needs_model: bool = True  # subjects are policies, each loaded for it; otherwise scorers, or see `answered`
    judged: bool = False  # its samples are what the judge says, asked when all models have answered and none is loaded
    identity: ClassVar[tuple[str, ...]] = ("id",)  # keys of a sample that together name its item
    same: ClassVar[tuple[str, ...]] = ()  # keys of a sample that belong to the item, not to the model

    def subjects(self, context: EvalContext) -> Sequence[str]:
        """Whose predictions it needs, in order. Empty: it cannot be run here."""
        return list(context.models)

    def skipped(self, context: EvalContext) -> str:
        """Why it has no subjects."""
        return "there is nothing to evaluate"

    def answered(self) -> Benchmark | None:
        """The benchmark whose samples are what it scores or a judge is shown, as `context.answers`.

        They are made where nobody asked for them, and kept apart: another scorer or judge makes no model answer again.
        """
        return None

    def needs_policy(self) -> bool:
        """Whether a policy is loaded for its samples, or for the answers that they are made of."""
        return self.needs_model or self.answered() is not None

    def results_version(self) -> int:
        """The version of its results: that of its predictions, or of what computes the numbers where that is later."""
        return self.version

    def made_of(self, context: EvalContext, subject: str) -> str:
        """What a subject is, exactly: part of the key of its samples."""
        from alignment.atomic import json_digest

        if self.answered() is not None:
            return json_digest({"answers": list(context.answers[subject])})
        return context.models[subject] if self.needs_model else context.scorer_ids.get(subject, subject)

    def prepare(self, context: EvalContext) -> None:  # noqa: B027 - most need nothing
        """Gets its data before a model is loaded. Raises DataError, UnavailableError when the hub cannot be reached."""

    def settings(self, context: EvalContext) -> dict[str, Any]:
        """Options by name that change what is asked or how it is scored: stored with samples, compared as the version.

        Not which items are taken (their ids say that), nor how it runs (batches, precision, devices).
        """
        return {}

    @abstractmethod
    def inputs(self, context: EvalContext) -> Any:
        """JSON value that changes when its predictions would: items, settings, scorers (not the subject)."""

    @abstractmethod
    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        """Predictions of one subject, one sample per item; an item that cannot be scored is kept and says so."""

    @abstractmethod
    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        """The numbers of all subjects, from their samples alone."""

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        """The item values behind its metrics, from the samples of one subject; a metric that is no mean has none.

        With them `alignment compare` compares it, its differences get p-values, and forgetting gets intervals.
        """
        return []

    def undefined(self, rows: Sequence[Sample]) -> Mapping[str, str]:
        """Metric -> why these rows have no item values of it, where others would have."""
        return {}

    def measures_by_group(self, rows: Sequence[Sample]) -> Mapping[str, Sequence[Measure]]:
        """The same over the items of every group that has changes of its own: what their p-values are of."""
        return {}

    def set_changes(
        self, context: EvalContext, subject: str, rows: Sequence[Sample], baseline: Sequence[Sample], *, groups: bool
    ) -> list[EvalResult]:
        """METRIC_difference, as `score` gives it, of the metrics that are no mean over items: for `alignment compare`.

        Ratios of ratios, correlations, largest gaps; with `groups` also those of every group.
        """
        return []

    def result(
        self, context: EvalContext, subject: str, metric: str, interval: Interval, n_unscored: int = 0, **more: Any
    ) -> EvalResult:
        """A row of results. `more`: higher_is_better (needed), unit, group, compared_to, primary, label, method."""
        path = samples_file(context.out_dir, self.name, subject)
        fields = {
            "model": subject,
            "benchmark": self.name,
            "version": self.results_version(),
            "suite": self.suite,
            "metric": metric,
            "value": interval.value,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "n_scored": interval.n,
            "n_unscored": n_unscored,
            "method": interval.method,
            "seed": context.seed,
            "samples_path": path.relative_to(context.run_dir or context.out_dir).as_posix(),
        }
        return EvalResult(**{**fields, **more})


def samples_by(rows: Sequence[Sample], key: str) -> dict[str, list[Sample]]:
    """Samples by the value that they have under a key, in order of first appearance; those without one are left out."""
    found: dict[str, list[Sample]] = {}
    for row in rows:
        if row.get(key) is not None:
            found.setdefault(row[key], []).append(row)
    return found


def samples_file(out_dir: Path, benchmark: str, subject: str) -> Path:
    """samples/<benchmark>/<subject>.jsonl, with what a path cannot hold of `hf:org/name@main` percent-encoded."""
    from urllib.parse import quote

    return out_dir / "samples" / benchmark / f"{quote(subject, safe='@')}.jsonl"
