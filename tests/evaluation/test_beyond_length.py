"""How much of a reward model's accuracy is more than a liking for short answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.evaluation.benchmarks.benchmark import EvalContext
from alignment.evaluation.benchmarks.reward.reward_accuracy import RewardAccuracy
from alignment.evaluation.result import EvalResult


def row(name: str, scores: list[float], lengths: list[int], better: int) -> dict[str, Any]:
    """Two responses, of which everybody prefers number `better`."""
    wins = [[0.0, 1.0], [0.0, 0.0]] if better == 0 else [[0.0, 0.0], [1.0, 0.0]]
    ballots = {"everybody": [[0, 1, 1 if better == 0 else -1]]}
    sample = {"id": name, "group": name, "scores": scores, "lengths": lengths, "wins": wins, "ballots": ballots}
    return sample | {"facts": {}, "criteria": {}, "ties": None}


def results(rows: list[dict[str, Any]], tmp_path: Path) -> dict[str, EvalResult]:
    context = EvalContext(
        models={},
        load=lambda name: (None, None),
        out_dir=tmp_path,
        seed=0,
        scorers={"reward": None},  # type: ignore[dict-item]
        trained_scorers=frozenset({"reward"}),
    )
    found = RewardAccuracy()._beside(context, "reward", rows)
    return {result.metric: result for result in found if result.group is None}


def test_a_model_that_only_likes_short_answers_has_no_skill_beyond_length(tmp_path: Path) -> None:
    rows = [row(str(n), [-10.0, -20.0], [10, 20], better=n % 2) for n in range(20)]
    found = results(rows, tmp_path)
    assert found["prefer_shorter"].value == 0.5
    assert found["accuracy_difference"].value == 0.0
    assert found["accuracy_difference"].compared_to == "the shorter response"


def test_skill_beyond_length_is_the_paired_difference(tmp_path: Path) -> None:
    rows = [row(str(n), [float(n % 2 == 0), float(n % 2 == 1)], [10, 20], better=n % 2) for n in range(20)]
    found = results(rows, tmp_path)
    assert found["accuracy_difference"].value == 0.5  # always right, length half of the time
    assert found["accuracy_difference"].ci_low is not None
    assert found["accuracy_difference"].ci_low > 0
