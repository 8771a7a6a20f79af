"""Answers compared by scripted judges: formulas by hand, what is asked, what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judged_records import answers, bare_context, judged
from judging import ScriptedJudge, longer

from alignment.errors import RecipeError
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, EvalSettings
from alignment.evaluation.benchmarks.helpfulness.judged_wins import JudgedWins
from alignment.evaluation.benchmarks.helpfulness.win_rate import WinRate
from alignment.evaluation.metrics.arena import Battle, elo_table
from alignment.evaluation.metrics.length_control import length_controlled
from alignment.evaluation.result import EvalResult
from alignment.evaluation.suite import run_suites


def scored(context: EvalContext, benchmark: JudgedWins | None = None) -> list[EvalResult]:
    """Verdicts on the context's answers, and the numbers of them."""
    benchmark = benchmark or JudgedWins()
    subjects = [name for name in context.answers if name != context.baseline]
    context = replace(context, records=[judged("question", ["a", "b"], {})])
    return benchmark.score(context, {name: benchmark.predict(context, name, None) for name in subjects})


def numbers(results: list[EvalResult], model: str) -> dict[str, Any]:
    return {result.metric: result for result in results if result.model == model}


def test_a_judge_that_always_names_the_first(tmp_path: Path) -> None:
    said = {"sft": answers([f"one {i}" for i in range(8)]), "dpo": answers([f"two {i}" for i in range(8)])}
    context = bare_context(tmp_path, models={"sft": "1", "dpo": "2"}, answers=said, judge=ScriptedJudge())
    found = numbers(scored(context), "dpo")
    assert found["consistency"].value == 0.0
    assert found["first_position_rate"].value == 1.0
    assert found["win_rate"].value == 0.5
    assert found["tie_rate"].value == 1.0
    assert found["mean_win_rate"].value == 0.5
    assert found["unparseable_share"].value == 0.0
    assert found["first_position_rate"].n_scored == 16
    assert "elo" not in found


def test_numbers_by_hand(tmp_path: Path) -> None:
    """mine > theirs in both orders, theirs in both, by position, one unreadable, the same text, no answer."""
    mine = ["good", "bad", "odd", "mute", "same", None, "good"]
    theirs = ["poor", "fine", "even", "loud", "same", "there", "poor"]
    verdicts = {"good": "mine", "bad": "theirs", "odd": "first", "mute": None}

    def script(first: str, second: str) -> str | None:
        key = first if first in verdicts else second
        said = verdicts[key]
        if said in ("mine", "theirs"):
            return "first" if (said == "mine") == (first == key) else "second"
        return said if said == "first" or first != key else None

    judge = ScriptedJudge(script)  # type: ignore[arg-type]
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    said = {"sft": answers(theirs, groups=groups), "dpo": answers(mine, groups=groups)}
    context = bare_context(tmp_path, models={"sft": "1", "dpo": "2"}, answers=said, judge=judge)
    found = numbers(scored(context), "dpo")
    assert len(judge.asked) == 10  # five pairs twice: neither the equal texts nor the missing answer
    assert {("good", "poor"), ("poor", "good")} <= set(judge.asked)
    wins = found["win_rate"]
    assert (wins.value, wins.n_scored, wins.n_unscored) == ((1 + 0 + 0.5 + 0.5 + 1) / 5, 5, 2)
    assert wins.primary
    assert wins.compared_to == "sft"
    assert "clusters" in wins.method
    assert found["mean_win_rate"].value == wins.value
    assert (found["tie_rate"].value, found["tie_rate"].n_scored) == (2 / 5, 5)
    assert found["tie_rate"].method.startswith("1 undecided pairs, 1 of equal answers")
    assert (found["consistency"].value, found["consistency"].n_unscored) == (3 / 4, 1)
    lost = found["unparseable_share"]
    assert lost.n_scored == 10
    assert lost.method.startswith(f"{round(lost.value * 10)} of 10 replies")
    assert found["length_controlled_win_rate"].value is None
    assert "without gamed rows: undefined for 4 clusters, needs 50" in found["length_controlled_win_rate"].method


def test_length_is_taken_out_of_what_a_judge_that_likes_length_says(tmp_path: Path) -> None:
    mine = ["x" * (40 + 7 * (i % 11)) + str(i) for i in range(60)]
    theirs = ["y" * (50 + 5 * (i % 7)) + str(i) for i in range(60)]
    context = bare_context(
        tmp_path,
        models={"sft": "1", "dpo": "2"},
        answers={"sft": answers(theirs), "dpo": answers(mine)},
        judge=ScriptedJudge(longer),
    )
    found = numbers(scored(context), "dpo")
    assert found["consistency"].value == 1.0
    assert found["first_position_rate"].value == 0.5
    longer_ones = [
        1.0 if len(a) > len(b) else 0.5 if len(a) == len(b) else 0.0 for a, b in zip(mine, theirs, strict=True)
    ]
    assert found["win_rate"].value == pytest.approx(sum(longer_ones) / 60)
    fit = length_controlled(longer_ones, [len(b) - len(a) for a, b in zip(mine, theirs, strict=True)])
    at_equal_length = found["length_controlled_win_rate"]
    assert at_equal_length.value == fit.rate.value
    assert abs(at_equal_length.value - 0.5) < abs(found["win_rate"].value - 0.5)
    assert "length alone, no difficulties, without gamed rows" in at_equal_length.method


def test_answers_to_one_prompt_are_one_cluster_of_the_rate_at_equal_length(tmp_path: Path) -> None:
    """By judge and by scorer: the clusters of the plain win rate."""
    mine = ["x" * (40 + 7 * (i % 11)) for i in range(60)] * 4
    theirs = ["y" * (50 + 5 * (i % 7)) for i in range(60)] * 4
    liked = [(i * 7) % 5 > 0 for i in range(60)] * 4  # by the scorer

    def by_length(first: str, second: str) -> str:
        """The longer answer in two of three pairs, the shorter one in the third."""
        chosen = max(first, second, key=len) if (len(first) + len(second)) % 3 else min(first, second, key=len)
        return "first" if chosen == first else "second"

    def results(groups: list[str]) -> list[EvalResult]:
        said = {"sft": answers(theirs, groups=groups), "dpo": answers(mine, groups=groups)}
        told = {"models": {"sft": "1", "dpo": "2"}, "answers": said, "judge": ScriptedJudge(by_length)}
        context = bare_context(tmp_path, scorers={"plain": None}, **told)
        samples = {
            model: [
                {
                    **row,
                    "finished": True,
                    "n_tokens": 9,
                    "scores": {"plain": float(good if model == "dpo" else not good)},
                }
                for row, good in zip(rows, liked, strict=True)
            ]
            for model, rows in said.items()
        }
        return scored(context) + WinRate().score(context, samples)

    shared, apart = (
        numbers(results(groups), "dpo") for groups in ([f"g{i}" for i in range(60)] * 4, [*map(str, range(240))])
    )
    for metric in ("length_controlled_win_rate", "length_controlled_win_rate/plain"):
        wide, narrow = (found[metric].ci_high - found[metric].ci_low for found in (shared, apart))
        assert wide == pytest.approx(2 * narrow, rel=0.15)  # the folds, and so the penalty, may differ
        assert "over clusters" in shared[metric].method
        assert "over items" in apart[metric].method


@pytest.mark.parametrize("pairs", ["baseline", "all"])
def test_elo_of_three_models_is_anchored_at_the_baseline(tmp_path: Path, pairs: Any) -> None:
    said = {
        "base": answers(["x" * (5 + i % 4) for i in range(12)]),
        "sft": answers(["y" * (5 + i % 3) for i in range(12)]),
        "dpo": answers(["z" * (4 + i % 5) for i in range(12)]),
    }
    context = bare_context(tmp_path, answers=said, judge=ScriptedJudge(longer))
    results = scored(context, JudgedWins(pairs=pairs))
    meetings = [("base", "sft"), ("dpo", "sft")] + ([("dpo", "base")] if pairs == "all" else [])
    battles = []
    for a, b in meetings:
        for one, other in zip(said[a], said[b], strict=True):
            difference = len(one["response"]) - len(other["response"])
            battles.append(Battle(a, b, 0.5 + (difference > 0) / 2 - (difference < 0) / 2, one["group"]))
    expected = elo_table(battles, seed=0, anchor="sft")
    elos = {result.model: result for result in results if result.metric == "elo"}
    assert {name: elo.value for name, elo in elos.items()} == {n: one.value for n, one in expected.items()}
    assert (elos["sft"].value, elos["sft"].ci_low, elos["sft"].samples_path) == (1000.0, None, None)
    assert [r.model for r in results if r.metric == "win_rate"] == ["base", "dpo"]


class Loader:
    """The tiny model under two names, one of which answers something else."""

    def __init__(self, folder: Path, judge: ScriptedJudge) -> None:
        self.folder, self.judge = folder, judge

    def __call__(self, name: str) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.judge.events.append(f"load {name}")
        model = AutoModelForCausalLM.from_pretrained(self.folder).eval()
        if name == "dpo":
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.roll(7, 0))
        return model, AutoTokenizer.from_pretrained(self.folder)


@pytest.fixture
def context(tiny_model_dir: Path, tmp_path: Path) -> EvalContext:
    judge = ScriptedJudge()
    return bare_context(
        tmp_path / "out",
        models={"sft": "1", "dpo": "2"},
        load=Loader(tiny_model_dir, judge),
        records=[judged(f"why {i}?", ["a", "b"], {}) for i in range(3)],
        settings=EvalSettings(max_new_tokens=5, bf16=False),
        judge=judge,
        cache=tmp_path / "cache",
    )


def test_the_judge_is_asked_when_every_model_has_answered_and_never_twice(context: EvalContext) -> None:
    table: dict[str, Benchmark] = {"win_rate": WinRate(), "judged_wins": JudgedWins()}
    judge: Any = context.judge
    results = run_suites(context, ["judged_wins"], table)
    assert judge.events == ["check", "load sft", "check", "load dpo", "compare", "release"]
    assert {result.benchmark for result in results} == {"judged_wins"}  # win_rate only lends its answers
    assert (context.out_dir / "samples" / "win_rate_answers" / "dpo.jsonl").is_file()
    rows = (context.out_dir / "samples" / "judged_wins" / "dpo.jsonl").read_text().splitlines()
    assert [json.loads(row)["replies"] for row in rows] == [["reply", "reply"]] * 3
    judge.events.clear()
    again = run_suites(replace(context, out_dir=context.out_dir.parent / "again"), ["helpfulness"], table)
    assert judge.events == ["release"]  # answers and verdicts both from the cache
    assert [r for r in again if r.benchmark == "judged_wins"] == results
    other = ScriptedJudge(identity="scripted 2")
    run_suites(replace(context, judge=other), ["judged_wins"], table)
    assert other.events == ["compare", "release"]  # another judge, the same answers
    run_suites(replace(context, judge=other, models={"sft": "1", "dpo": "other weights"}), ["judged_wins"], table)
    assert other.events == ["compare", "release", "check", "release"]  # the same answers of new weights


def test_without_a_judge(context: EvalContext) -> None:
    table: dict[str, Benchmark] = {"judged_wins": JudgedWins()}
    lines: list[str] = []
    bare = replace(context, judge=None, say=lines.append)
    assert run_suites(bare, ["helpfulness"], table) == []
    assert lines == ["judged_wins: skipped, it needs a judge (--judge)"]
    with pytest.raises(RecipeError, match="judged_wins: needs a judge; name one: --judge MODEL, or --judge URL#NAME"):
        run_suites(bare, ["judged_wins"], table)
    assert run_suites(replace(bare, optional=frozenset({"judged_wins"})), ["judged_wins"], table) == []


def test_one_model_has_nobody_to_be_compared_with(context: EvalContext) -> None:
    lines: list[str] = []
    alone = replace(context, models={"sft": "1"}, say=lines.append)
    assert run_suites(alone, ["judged_wins"], {"judged_wins": JudgedWins()}) == []
    assert lines == ["judged_wins: skipped, it needs two models and held-out prompts"]
    assert not any(event.startswith("load") for event in context.judge.events)  # type: ignore[union-attr]
