"""Best-of-n: what choosing the best of n sampled answers by one scorer does to the scores of all of them.

A scorer that is over-optimised rises by its own score while the others fall (Gao et al. 2022, arXiv 2210.10760).
KL(best-of-n ‖ the policy) ≤ ln n - (n-1)/n nats. It samples n answers to every held-out prompt, so it runs only where
it is named, as a suite of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.helpfulness.win_rate_answers import (
    held_out_prompts,
    held_out_rows,
    prompts_digest,
)
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.benchmarks.scoring import stored_scores
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval, mean_interval, paired_difference


@dataclass(frozen=True)
class BestOfNAnswers(Benchmark):
    """The sampled answers, kept apart from their scores: another scorer samples none again."""

    n: int = 16
    temperature: float = 1.0

    name = "best_of_n_answers"
    suite = "best_of_n"
    version = 1
    same = ("prompt", "group")

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"n": self.n, "temperature": self.temperature, "max_new_tokens": context.settings.max_new_tokens}

    def inputs(self, context: EvalContext) -> Any:
        return {"prompts": prompts_digest(context), "bf16": context.settings.bf16, **self.settings(context)}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.generation.generate import generate

        assert model is not None
        rows = held_out_rows(context)
        answers = generate(
            *model,
            [row["prompt"] for row in rows for _ in range(self.n)],
            max_new_tokens=context.settings.max_new_tokens,
            temperature=self.temperature,
            seed=context.seed,
            batch_size=context.settings.batch_size,
            bf16=context.settings.bf16,
            say=lambda line: context.say(f"{subject}: {line}"),
        )
        samples: list[Sample] = []
        for i, row in enumerate(rows):
            texts = [answer.text for answer in answers[i * self.n : (i + 1) * self.n] if answer is not None]
            kept = texts if len(texts) == self.n else None  # one prompt: all fit the context, or none does
            samples.append({**row, "responses": kept})
        return samples

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        return []  # answers have no numbers before they are scored


@dataclass(frozen=True)
class BestOfN(Benchmark):
    """Scores of the best of 1, 2, 4, ... `n` answers, sampled at `temperature`, with changes from a single answer.

    The answer is chosen by the reward models that a policy was trained against, or else by every scorer in turn.
    """

    n: Annotated[int, Field(ge=2, le=1024)] = 16
    temperature: Annotated[float, Field(gt=0)] = 1.0

    name = "best_of_n"
    suite = "best_of_n"
    version = 1
    needs_model = False
    same = ("prompt", "group")

    def answered(self) -> BestOfNAnswers:
        return BestOfNAnswers(n=self.n, temperature=self.temperature)

    def subjects(self, context: EvalContext) -> Sequence[str]:
        return list(context.models) if context.scorers and held_out_prompts(context.held_out()) else []

    def skipped(self, context: EvalContext) -> str:
        return "it needs a policy, a scorer and held-out prompts"

    def inputs(self, context: EvalContext) -> Any:
        return {
            "scorers": {name: context.scorer_ids.get(name, name) for name in context.scorers},
            "references": dict(context.references),
        }

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        samples: list[Sample] = [{**row, "scores": {}} for row in context.answers[subject]]
        answered = [row for row in samples if row["responses"] is not None]
        for scorer in context.scorers:
            shown = [row["prompt"] for row in answered for _ in row["responses"]]
            texts = [text for row in answered for text in row["responses"]]
            scores = iter(stored_scores(context, scorer, shown, texts))
            for row in answered:
                row["scores"][scorer] = [next(scores) for _ in row["responses"]]
        return samples

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        scorers = list(dict.fromkeys(name for row in rows for name in row["scores"]))
        groups = {row["id"]: row["group"] for row in rows}
        return [
            Measure(_metric(*at), {key: ItemValue(value, groups[key]) for key, value in curve.items()}, "points")
            for at, curve in self._curve(rows, scorers, scorers).items()
        ]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        choosers = [name for name in context.scorers if name in context.trained_scorers] or list(context.scorers)
        judging = sorted(context.scorers, key=lambda name: name in context.trained_scorers)  # an independent one first
        curves = {subject: self._curve(rows, choosers, judging) for subject, rows in samples.items()}
        baseline = curves.get(context.baseline, {})
        results = []
        for subject, rows in samples.items():
            groups = {row["id"]: row["group"] for row in rows}
            results += [self._bound(context, subject, n, len(rows)) for n in self._steps()]
            for at, curve in curves[subject].items():
                n, by, of = at
                label = f"score by {of} of the best of {n} by {by}"
                shown: dict[str, Any] = {"unit": "points", "higher_is_better": True, "label": label}
                alone = of in context.trained_scorers  # never the one number shown, as in win_rate
                primary = at == (self._steps()[-1], choosers[0], judging[0]) and not alone
                level = mean_interval(*_known(curve, groups), seed=context.seed)
                missing = len(curve) - level.n
                results.append(self.result(context, subject, _metric(*at), level, missing, primary=primary, **shown))
                if n > 1:
                    single, more = curves[subject][1, by, of], {"label": f"{label}, beyond a single answer"}
                    results.append(
                        self._change(context, subject, f"gain_of_{_metric(*at)}", curve, single, groups, more)
                    )
                if subject != context.baseline and at in baseline:
                    metric, more = f"{_metric(*at)}_difference", {"compared_to": context.baseline}
                    results.append(self._change(context, subject, metric, curve, baseline[at], groups, more))
        return results

    def _change(
        self,
        context: EvalContext,
        subject: str,
        metric: str,
        curve: Curve,
        other: Curve,
        groups: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> EvalResult:
        """Paired over the prompts that both have."""
        both = [(a, b, groups[key]) for key, a in curve.items() if a is not None and (b := other.get(key)) is not None]
        mine, theirs, clusters = ([one[column] for one in both] for column in range(3))
        change = paired_difference(mine, theirs, clusters, seed=context.seed)
        fields = {"unit": "points", "higher_is_better": True, **more}
        return self.result(context, subject, metric, change, len(curve) - len(both), **fields)

    def _bound(self, context: EvalContext, subject: str, n: int, prompts: int) -> EvalResult:
        from reward.overoptimisation import bon_kl

        bound = Interval(bon_kl(n), None, None, "ln n - (n-1)/n: an upper bound, nothing is estimated", prompts)
        more: dict[str, Any] = {
            "unit": "nats",
            "higher_is_better": None,
            "label": f"KL from the policy of its best of {n}, at most",
        }
        return self.result(context, subject, f"kl_bound_{n}", bound, **more)

    def _steps(self) -> list[int]:
        """1, 2, 4, ... and n itself."""
        return sorted({2**k for k in range(self.n.bit_length())} | {self.n})

    def _curve(
        self, rows: Sequence[Sample], choosers: Sequence[str], judging: Sequence[str]
    ) -> dict[tuple[int, str, str], Curve]:
        """(n, by, of) -> prompt -> expected score by `of` of the answer of n that `by` likes best."""
        from reward.overoptimisation import best_of_n

        found: dict[tuple[int, str, str], Curve] = {}
        for by in choosers:
            for of in judging:
                for n in self._steps():
                    curve = found[n, by, of] = {}
                    for row in rows:
                        proxy, gold = row["scores"].get(by, [None]), row["scores"].get(of, [None])
                        whole = None not in proxy and None not in gold
                        curve[row["id"]] = best_of_n([proxy], [gold], n)[1] if whole else None
        return found


Curve = dict[str, float | None]  # prompt -> expected score; None where it could not be scored


def _metric(n: int, by: str, of: str) -> str:
    return f"best_of_{n}/{by}/{of}"


def _known(curve: Curve, groups: Mapping[str, Any]) -> tuple[list[float], list[Any]]:
    """The values that there are, and their groups."""
    known = {key: value for key, value in curve.items() if value is not None}
    return list(known.values()), [groups[key] for key in known]
