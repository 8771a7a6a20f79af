"""Answers that say nothing: bad ones to learn from, none to imitate, and an error where there are no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_run import training_log
from tiny_sampling import made, run
from transformers import TrainerState

from alignment.errors import AlignmentError, DataError
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.store import read_records, write_records
from alignment.scorers import CheckedScorer, Term
from alignment.stages import sampling
from alignment.stages.empty_answers import is_empty, refuse_silence
from alignment.stages.trl_on_policy import Reward
from alignment.training import ppo
from reward.rules import RuleScorer

BREVITY: list[dict[str, Any]] = [{"rule": "brevity"}]  # likes an empty answer best
DRAW: dict[str, Any] = {"data": "prefs", "n": 4, "limit": 3, "max_new_tokens": 6, "reward": BREVITY}
SILENT = "prompt [0-9a-f]{32}: the answer is empty, as are all N that were drawn with it; the model says nothing"


def silent(n: int) -> str:
    return SILENT.replace("N", str(n))


def test_white_space_says_nothing() -> None:
    assert [is_empty(text) for text in ("", " \n", "\u3000", ".", "no")] == [True, True, True, False, False]


def test_one_answer_that_says_something_is_enough() -> None:
    refuse_silence(["a", "b"], [True, False])
    with pytest.raises(AlignmentError, match=r"^prompt a: the answer is empty, as are all 2 that were drawn"):
        refuse_silence(["a", "b"], [True, True])


# --- learning from scores --------------------------------------------------------------------------------------------


def emptied(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
    """PPO's answers, of which those in a place that `which` says end at once."""
    real = ppo.rollouts

    def some(*args: Any, **kwargs: Any) -> Any:
        groups = real(*args, **kwargs)
        return [[a._replace(text="") if which(i) else a for a in group] for i, group in enumerate(groups)]

    monkeypatch.setattr(ppo, "rollouts", some)


PPO: dict[str, Any] = {"data": "prefs", "reward": BREVITY, "batch_size": 4, "max_new_tokens": 6}


def test_ppo_scores_an_empty_answer_and_goes_on(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied(monkeypatch, lambda place: place > 0)
    _, rows = run(tmp_path, tiny_model_dir, [{"ppo": PPO | {"trainer": {"max_steps": 2}}}])
    assert rows["ppo"]["metrics"]["steps"] == 2
    assert -6 * 4 / 4 <= training_log(tmp_path, "ppo")[0]["objective/scores"] < 0  # three of the four score 0


def test_ppo_stops_where_nothing_is_said(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied(monkeypatch, lambda place: True)
    with pytest.raises(AlignmentError, match="^step 1: " + silent(4)):
        run(tmp_path, tiny_model_dir, [{"ppo": PPO}])
    assert not list((tmp_path / "registry").glob("tiny-*"))


def asked(texts: Sequence[str]) -> tuple[list[float], dict[str, float]]:
    """What TRL gets, and what it logs."""
    logged: dict[str, float] = {}
    reward = Reward(CheckedScorer([Term("brevity", RuleScorer("brevity"))]), None, None, [2])
    scores = reward(
        [[{"role": "user", "content": "?"}]] * len(texts),
        [[{"role": "assistant", "content": text}] for text in texts],
        [[5, 2]] * len(texts),
        [f"id-{i}" for i in range(len(texts))],
        TrainerState(global_step=6),
        logged.__setitem__,
    )
    return scores, logged


def test_rloo_and_grpo_score_and_count_empty_answers() -> None:
    scores, logged = asked(["", "two", " ", "a"])
    assert scores == [0.0, -3.0, -1.0, -1.0]
    assert logged["objective/empty_rate"] == 0.5
    with pytest.raises(
        AlignmentError, match=r"^step 7: prompt id-0: the answer is empty, as are all 2 that were drawn"
    ):
        asked(["", "\n"])


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_a_reward_for_saying_nothing_ends_in_an_error(kind: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    """Whole runs of real answers: `brevity` alone is best served by none."""
    trainer = {
        "learning_rate": 0.02,
        "max_steps": 60,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "save_strategy": "no",
    }
    settings = {"data": "prefs", "reward": BREVITY, "max_new_tokens": 4, "kl_coef": 0.0, "num_generations": 8}
    with pytest.raises(AlignmentError, match=r"^step \d+: " + silent(16) + ".*the reward does not favour saying"):
        run(tmp_path, tiny_model_dir, [{kind: settings | {"trainer": trainer}}])
    rates = [row["objective/empty_rate"] for row in training_log(tmp_path, kind)]
    assert rates[0] < rates[-1] < 1


# --- choosing --------------------------------------------------------------------------------------------------------

DRAWN = [["", "one", " ", "three"], ["", "", "", ""], ["same", "same", "", "same"]]


def drawn(monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]) -> None:
    monkeypatch.setattr(sampling, "_draw", lambda *_: [[(text, True) for text in each] for each in answers])


def texts(records: Sequence[PreferenceRecord]) -> list[list[str]]:
    return sorted([answer.text() for answer in record.responses] for record in records)


def test_empty_answers_are_nothing_to_imitate(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(monkeypatch, DRAWN)
    stages = [{"best_of_n": DRAW}, {"rejection_sample": DRAW | {"min_score": -10}}]
    said, rows = run(tmp_path, tiny_model_dir, stages)
    best, kept = rows["best_of_n"], rows["rejection_sample"]
    (record,) = made(tmp_path, best)
    assert texts([record]) == [["one", "three"]]
    ratings = {rating.response_id: rating.value for rating in record.judgements[0].ratings}
    assert [ratings[answer.id] for answer in record.responses] == [-3.0, -5.0]
    assert texts(made(tmp_path, kept)) == [["one"], ["same"], ["three"]]
    assert best["data"][0]["n_used"] == 1
    assert best["data"][0]["dropped"].items() >= {"every answer empty": 1, "all answers alike": 1}.items()
    assert kept["data"][0]["n_used"] == 2
    assert kept["data"][0]["dropped"].items() >= {"every answer empty": 1}.items()
    for row in (best, kept):
        assert row["metrics"]["empty"] == 7
        assert "7 empty answers were left out" in row["notes"]
        # the best that says something, and nothing where all are empty
        assert row["metrics"]["best_of_4/score"] == pytest.approx((-3 + 0 - 4) / 3)
    assert any("rejection_sample: 3 of 3 different answers kept" in line for line in said)


ENDED = [[("long one", False), ("ab", True), ("c", True), ("c", False)], [("", True), ("cut", False)] * 2]


def test_what_was_cut_off_is_told_or_left_out(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_draw", lambda *_: ENDED)
    draw = DRAW | {"limit": 2, "reward": [{"rule": "length"}]}
    both = [{"best_of_n": draw}, {"rejection_sample": draw | {"min_score": 0}}]
    rows = run(tmp_path, tiny_model_dir, both)[1]
    assert texts(made(tmp_path, rows["rejection_sample"])) == [["ab"], ["c"], ["cut"], ["long one"]]
    told = "4 of 8 answers were cut at max_new_tokens and would be imitated as ended; "
    for row in rows.values():
        assert told + "raise max_new_tokens or set finished_only: true" in row["notes"]
        assert row["metrics"]["best_of_4/score"] == pytest.approx((8 + 3) / 2)
    finished = [{kind: given | {"finished_only": True}} for stage in both for kind, given in stage.items()]
    rows = run(tmp_path, tiny_model_dir, finished)[1]
    assert texts(made(tmp_path, rows["best_of_n"])) == [["ab", "c"]]
    assert texts(made(tmp_path, rows["rejection_sample"])) == [["ab"], ["c"]]
    for row in rows.values():
        assert row["notes"][-2:] == ["2 empty answers were left out", "3 cut-off answers were left out"]
        assert row["data"][0]["dropped"].items() >= {"every answer empty or cut off": 1}.items()
        assert row["metrics"]["best_of_4/score"] == pytest.approx((2 + (0 + 3) / 2) / 2)  # as handed on, or any of them
    monkeypatch.setattr(sampling, "_draw", lambda *_: [[("", True), ("cut", False)] * 2])
    message = "best_of_n: finished_only: none of 4 answers ended and says something; raise max_new_tokens, which is 6"
    with pytest.raises(DataError, match=message):
        run(tmp_path, tiny_model_dir, [{"best_of_n": finished[0]["best_of_n"] | {"limit": 1}}])


@pytest.mark.parametrize("stage", [{"best_of_n": DRAW}, {"rejection_sample": DRAW | {"top_share": 0.5}}])
def test_no_answer_at_all_is_an_error(
    stage: dict[str, Any], tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(monkeypatch, [["", " ", "", ""]] * 3)
    with pytest.raises(AlignmentError, match=silent(12)) as raised:
        run(tmp_path, tiny_model_dir, [stage])
    named = str(raised.value).split()[1].rstrip(":")
    assert named in {record.id for record in read_records(tmp_path / "records.jsonl")}


# --- what a scorer lacks is known before anything is drawn -----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("best_of_n", {"n": 2}),
        ("best_of_n", {"n": 2, "reward": BREVITY, "watch": [{"rule": "reference_f1"}]}),
        ("rejection_sample", {"n": 2, "min_score": 0}),
        ("ppo", {"batch_size": 2}),
        ("rloo", {"num_generations": 2}),
        ("grpo", {"num_generations": 2, "reward": BREVITY, "watch": [{"rule": "reference_f1"}]}),
    ],
)
def test_a_missing_reference_is_an_error_before_any_answer(
    kind: str, settings: dict[str, Any], tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("an answer was drawn")

    import trl

    for where, name in ((sampling, "_draw"), (ppo, "rollouts"), (trl.RLOOTrainer, "train"), (trl.GRPOTrainer, "train")):
        monkeypatch.setattr(where, name, fail)
    with monkeypatch.context() as patch:
        patch.setattr("tiny_sampling.write_records", half_judged)
        wanted = {"data": "prefs", "split": "all", "reward": [{"rule": "reference_f1"}]} | settings
        trainer = {} if kind in ("best_of_n", "rejection_sample") else {"trainer": {"max_steps": 2}}
        message = (
            r"prompt [0-9a-f]{32}: no reference answer, which rule reference_f1 needs \(20 of 40 prompts have none\)"
        )
        with pytest.raises(DataError, match=message):
            run(tmp_path, tiny_model_dir, [{kind: wanted | trainer}])


def half_judged(path: Path) -> Path:
    """Records of which every second has lost its judgements, and so its best answer."""
    from tiny_run import write_records as whole

    records = read_records(whole(path))
    write_records(path, [r.model_copy(update={"judgements": ()}) if i % 2 else r for i, r in enumerate(records)])
    return path
