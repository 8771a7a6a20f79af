"""Answers to the held-out prompts, compared with the baseline model's by every scorer.

The reward model that a run optimised against is no evidence alone: a policy learns what it likes, right or wrong
(Gao et al. 2022). So scorers nothing was trained on stand beside it, with the lengths of the answers, since longer
answers win with many judges.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.helpfulness.win_rate_answers import WinRateAnswers
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.benchmarks.scoring import stored_scores
from alignment.evaluation.metrics.comparisons import preferences, tie_rate, win_rate
from alignment.evaluation.metrics.length_control import length_only_rate
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval, mean_interval, paired_difference, share_interval


@dataclass(frozen=True)
class WinRate(Benchmark):
    """Per scorer win rates, tie_rate and score_difference against the baseline; lengths and endings of the answers."""

    name = "win_rate"
    suite = "helpfulness"
    version = 1
    needs_model = False
    same = ("prompt", "group")

    def answered(self) -> WinRateAnswers:
        return WinRateAnswers()

    def subjects(self, context: EvalContext) -> Sequence[str]:
        return self.answered().subjects(context)

    def skipped(self, context: EvalContext) -> str:
        return self.answered().skipped(context)

    def inputs(self, context: EvalContext) -> Any:
        return {
            "scorers": {name: context.scorer_ids.get(name, name) for name in context.scorers},
            "references": dict(context.references),
        }

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from reward.rules import prompt_text

        samples: list[Sample] = [
            {**row, "reference": context.references.get(prompt_text(row["prompt"])), "scores": {}}
            for row in context.answers[subject]
        ]
        answered = [sample for sample in samples if sample["response"] is not None]
        for scorer in context.scorers:
            scores = stored_scores(context, scorer, [s["prompt"] for s in answered], [s["response"] for s in answered])
            for sample, score in zip(answered, scores, strict=True):
                sample["scores"][scorer] = score
        return samples

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        """Lengths and endings of the answers, and what every scorer gives them."""

        def items(value: Callable[[Sample], float]) -> dict[Hashable, ItemValue]:
            return {row["id"]: ItemValue(None if row["response"] is None else value(row), row["group"]) for row in rows}

        found = [
            Measure("response_characters", items(lambda row: len(row["response"])), "characters", None),
            Measure("response_tokens", items(lambda row: row["n_tokens"]), "tokens", None),
            Measure("ended_share", items(lambda row: float(row["finished"]))),
        ]
        for scorer in dict.fromkeys(name for row in rows for name in row["scores"]):
            scored = {row["id"]: ItemValue(row["scores"].get(scorer), row["group"]) for row in rows}
            found.append(Measure(f"score/{scorer}", scored, "points"))
        return found

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        results = []
        for subject, rows in samples.items():
            results += self._answers(context, subject, rows)
            if subject != context.baseline and context.baseline in samples:
                results += self._against(context, subject, rows, samples[context.baseline])
        return results

    def _answers(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> list[EvalResult]:
        answered = [row for row in rows if row["response"] is not None]
        groups = [row["group"] for row in answered]
        characters = mean_interval([len(row["response"]) for row in answered], groups, seed=context.seed)
        tokens = mean_interval([row["n_tokens"] for row in answered], groups, seed=context.seed)
        ended = share_interval([float(row["finished"]) for row in answered], groups, seed=context.seed)
        missing = len(rows) - len(answered)
        length: dict[str, Any] = {"higher_is_better": None, "label": "length of the answers"}
        more = {"higher_is_better": True, "label": "answers that end before the limit"}
        return [
            self.result(context, subject, "response_characters", characters, missing, unit="characters", **length),
            self.result(context, subject, "response_tokens", tokens, missing, unit="tokens", **length),
            self.result(context, subject, "ended_share", ended, missing, **more),
        ]

    def _against(
        self, context: EvalContext, subject: str, rows: Sequence[Sample], baseline: Sequence[Sample]
    ) -> list[EvalResult]:
        there = {row["id"]: row for row in baseline if row["response"] is not None}
        pairs = [(row, there[row["id"]]) for row in rows if row["response"] is not None and row["id"] in there]
        mine, other = ([len(pair[side]["response"]) for pair in pairs] for side in (0, 1))
        groups = [row["group"] for row, _ in pairs]
        difference = paired_difference(mine, other, groups, seed=context.seed)
        more = {"unit": "characters", "compared_to": context.baseline, "higher_is_better": None}
        missing, label = len(rows) - len(pairs), "difference in length of the answers"
        results = [self.result(context, subject, "length_difference", difference, missing, label=label, **more)]
        independent = [name for name in context.scorers if name not in context.trained_scorers]
        trained = [name for name in context.scorers if name in context.trained_scorers]
        for scorer in [
            *independent,
            *trained,
        ]:  # a trained one is never the one number shown, not even where it is alone
            primary = scorer in independent[:1]
            results += self._judged(context, subject, scorer, pairs, len(rows), primary=primary)
        return results

    def _judged(
        self,
        context: EvalContext,
        subject: str,
        scorer: str,
        pairs: Sequence[tuple[Sample, Sample]],
        n: int,
        *,
        primary: bool,
    ) -> list[EvalResult]:
        mine, other = ([pair[side]["scores"].get(scorer) for pair in pairs] for side in (0, 1))
        same = [a["response"] == b["response"] for a, b in pairs]
        judged = [
            (value, a, b, row["group"], len(there["response"]) - len(row["response"]))
            for value, a, b, (row, there) in zip(preferences(mine, other, same), mine, other, pairs, strict=True)
            if value is not None
        ]
        values, ours, theirs, groups, deltas = ([row[column] for row in judged] for column in range(5))
        at_equal_length = length_only_rate(values, deltas, groups)
        wins = win_rate(values, groups, seed=context.seed)
        ties = tie_rate(values, groups, seed=context.seed)
        difference = paired_difference(ours, theirs, groups, seed=context.seed)
        missing = n - len(judged)
        by = f"by {scorer}" + (
            " (training reward model: not evidence alone)" if scorer in context.trained_scorers else ""
        )
        up: dict[str, Any] = {"higher_is_better": True}
        first = {"primary": primary, "method": f"wins + 1/2 ties; {wins.method}"}
        rows: list[tuple[str, Interval, str, dict[str, Any]]] = [
            ("win_rate", wins, "win rate", up | first),
            ("length_controlled_win_rate", at_equal_length, "win rate at equal length", up),
            ("tie_rate", ties, "ties", {"higher_is_better": None}),
            ("score_difference", difference, "score difference", up | {"unit": "points"}),
        ]
        against = context.baseline
        return [
            self.result(
                context, subject, f"{name}/{scorer}", one, missing, label=f"{what} {by}", compared_to=against, **m
            )
            for name, one, what, m in rows
        ]


def generation_rows(samples: Mapping[str, Sequence[Sample]]) -> list[Sample]:
    """All models' answers and their scores, if there are any, prompt by prompt: the rows of generations.jsonl."""
    rows: dict[str, Sample] = {}
    for model, answers in samples.items():
        for answer in answers:
            if answer["response"] is None:
                continue
            row = rows.setdefault(
                answer["id"],
                {
                    "prompt_id": answer["id"],
                    "prompt": answer["prompt"],
                    "reference": answer.get("reference"),
                    "responses": {},
                    "scores": {},
                },
            )
            row["responses"][model] = answer["response"]
            for scorer, score in answer.get("scores", {}).items():
                row["scores"].setdefault(scorer, {})[model] = score
    return list(rows.values())
