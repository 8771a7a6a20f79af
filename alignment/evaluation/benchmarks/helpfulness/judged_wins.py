"""The answers to the held-out prompts, compared by a language model as judge.

Every pair is shown in both orders, and a win is one that both orders agree on (MT-Bench); beside the win rate stand
the judge's consistency, its liking for the first position, and what could not be read. The answers are those of
win_rate. A judge's preferences are not human ones: judge_agreement says how near they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.helpfulness.both_orders import ask_both_orders, both_orders, of_the_judge
from alignment.evaluation.benchmarks.helpfulness.win_rate_answers import WinRateAnswers
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.metrics.arena import ANCHOR, Battle, elo_table
from alignment.evaluation.metrics.comparisons import tie_rate, win_rate
from alignment.evaluation.metrics.length_control import length_only_rate
from alignment.evaluation.metrics.verdicts import mean_win_rate
from alignment.evaluation.result import EvalResult


@dataclass(frozen=True)
class JudgedWins(Benchmark):
    """win_rate by the judge against the baseline; `pairs: all` judges every two models, for Elo from all of them."""

    pairs: Literal["baseline", "all"] = "baseline"

    name = "judged_wins"
    suite = "helpfulness"
    version = 1
    needs_model = False
    judged = True
    identity = ("id", "opponent")
    same = ("group", "opponent")

    def answered(self) -> Benchmark:
        return WinRateAnswers()

    def subjects(self, context: EvalContext) -> Sequence[str]:
        answering = self.answered().subjects(context)
        return [model for model in answering if model != context.baseline and context.baseline in answering]

    def skipped(self, context: EvalContext) -> str:
        return "it needs two models and held-out prompts"

    def settings(self, context: EvalContext) -> dict[str, Any]:
        assert context.judge is not None
        return {"judge": context.judge.identity}

    def inputs(self, context: EvalContext) -> Any:
        return self.settings(context)

    def made_of(self, context: EvalContext, subject: str) -> str:
        from alignment.atomic import json_digest

        models = [subject, *self._opponents(context, subject)]
        shown = {name: [[r["id"], r["prompt"], r["response"]] for r in context.answers[name]] for name in models}
        return json_digest({"subject": subject, "answers": shown})

    def _opponents(self, context: EvalContext, subject: str) -> list[str]:
        """The baseline and, if all pairs are judged, the models before this one: every two meet once."""
        others = list(self.subjects(context)) if self.pairs == "all" else []
        return [context.baseline, *others[: others.index(subject) if others else 0]]

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        samples: list[Sample] = []
        for opponent in self._opponents(context, subject):
            there = {row["id"]: row for row in context.answers[opponent]}
            samples += _judge(context, opponent, [(row, there[row["id"]]) for row in context.answers[subject]])
        return samples

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        """The preference against the model that came first."""
        against = [row for row in rows if row["opponent"] == rows[0]["opponent"]]
        return [Measure("win_rate", {r["id"]: ItemValue(_preference(r), r["group"]) for r in against})]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        results = []
        for subject, rows in samples.items():
            against = [row for row in rows if row["opponent"] == context.baseline]
            results += self._wins(context, subject, against) + self._judge(context, subject, against)
        return results + self._elo(context, samples)

    def _wins(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> list[EvalResult]:
        scored = [row for row in rows if _preference(row) is not None]
        values = [value for row in scored if (value := _preference(row)) is not None]
        groups, seed = [row["group"] for row in scored], context.seed
        wins, ties = win_rate(values, groups, seed=seed), tie_rate(values, groups, seed=seed)
        both = mean_win_rate([both_orders(row) for row in scored], seed=seed)
        deltas = [row["lengths"][1] - row["lengths"][0] for row in scored]  # baseline - model
        at_equal_length = length_only_rate(values, deltas, groups)
        by, missing = _by(rows), len(rows) - len(scored)
        up: dict[str, Any] = {"compared_to": context.baseline, "higher_is_better": True}
        won = {"primary": True, "method": f"wins in both orders + 1/2 ties; {wins.method}"}
        split = sum(value == 0.5 and not row["identical"] for value, row in zip(values, scored, strict=True))
        same = f"{split} undecided pairs, {sum(row['identical'] for row in scored)} of equal answers; {ties.method}"
        return [
            self.result(context, subject, "win_rate", wins, missing, label=f"win rate {by}", **up, **won),
            self.result(
                context,
                subject,
                "length_controlled_win_rate",
                at_equal_length,
                missing,
                label=f"win rate at equal length {by}",
                **up,
            ),
            self.result(
                context, subject, "mean_win_rate", both, missing, label=f"win rate {by}, mean of both orders", **up
            ),
            self.result(
                context,
                subject,
                "tie_rate",
                ties,
                missing,
                label=f"ties {by}",
                method=same,
                **(up | {"higher_is_better": None}),
            ),
        ]

    def _judge(self, context: EvalContext, subject: str, rows: Sequence[Sample]) -> list[EvalResult]:
        pairs = [both_orders(row) for row in rows if row["lengths"] is not None]
        return [
            self.result(context, subject, metric, interval, missing, compared_to=context.baseline, **more)
            for metric, interval, missing, more in of_the_judge(pairs, context.seed)
        ]

    def _elo(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        """With three models or more; two have a win rate that says it all."""
        if len(samples) < 2:
            return []
        rows = [(subject, row) for subject, some in samples.items() for row in some]
        battles = [
            Battle(subject, row["opponent"], value, row["group"])
            for subject, row in rows
            if (value := _preference(row)) is not None
        ]
        fought = any(context.baseline in (battle.first, battle.second) for battle in battles)
        table = elo_table(battles, seed=context.seed, anchor=context.baseline) if fought else {}
        by = _by([row for _, row in rows])
        results = []
        for name, interval in table.items():
            lost = sum(name in (subject, row["opponent"]) for subject, row in rows) - interval.n
            label = f"Elo {by}, {context.baseline} at {ANCHOR:g}"
            more: dict[str, Any] = {"higher_is_better": True, "unit": "Elo", "label": label}
            if name == context.baseline:
                more["samples_path"] = None  # its battles are in the others' files
            results.append(self.result(context, name, "elo", interval, lost, **more))
        return results


def _judge(context: EvalContext, opponent: str, pairs: Sequence[tuple[Sample, Sample]]) -> list[Sample]:
    """One sample a prompt; where an answer is missing there is none to judge: `lengths` is null."""
    assert context.judge is not None
    whole = [(a, b) for a, b in pairs if a["response"] is not None and b["response"] is not None]
    said = iter(
        ask_both_orders(
            context.judge,
            [mine["prompt"] for mine, _ in whole],
            [mine["response"] for mine, _ in whole],
            [theirs["response"] for _, theirs in whole],
        )
    )
    unanswered = {"judge": context.judge.name, "identical": False, "forward": None, "backward": None, "replies": []}
    found = []
    for mine, theirs in pairs:
        answered = mine["response"] is not None and theirs["response"] is not None
        lengths = [len(mine["response"]), len(theirs["response"])] if answered else None
        row = {"id": mine["id"], "opponent": opponent, "group": mine["group"], "lengths": lengths}
        found.append(row | (next(said) if answered else unanswered))
    return found


def _preference(row: Sample) -> float | None:
    return both_orders(row).preference


def _by(rows: Sequence[Sample]) -> str:
    return f"by judge {rows[0]['judge']}" if rows else "by a judge"
