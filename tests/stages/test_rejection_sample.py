"""The rejection_sample stage: which answers stay, and that every one that stays is a demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_sampling import made, run

from alignment.errors import DataError, RecipeError
from alignment.preferences.views import demonstrations
from alignment.recipe import parse_recipe
from alignment.stages.rejection_sample import threshold

REJECT: dict[str, Any] = {
    "data": "prefs",
    "n": 4,
    "limit": 8,
    "max_new_tokens": 6,
    "reward": [{"rule": "length"}],
}


def test_the_threshold_of_a_share() -> None:
    scores = [float(i) for i in range(10)]
    assert [threshold(scores, share) for share in (0.1, 0.3, 0.55, 1.0)] == [9.0, 7.0, 5.0, 0.0]
    assert threshold(scores, 0.01) == 9.0  # at least one


def test_what_scores_enough_stays_and_prompts_without_it_are_counted(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = tmp_path
    everything = {"rejection_sample": {**REJECT, "name": "same", "min_score": 0}}
    _, rows = run(folder, tiny_model_dir, [everything])
    lengths = sorted(len(r.responses[0].text()) for r in made(folder, rows["same"]))
    assert rows["same"]["data"][0]["n_used"] == 8
    least = lengths[-3]
    _, rows = run(folder, tiny_model_dir, [{"rejection_sample": {**REJECT, "name": "same", "min_score": least}}])
    records = made(folder, rows["same"])
    assert sorted(len(r.responses[0].text()) for r in records) == [x for x in lengths if x >= least]
    assert [len(r.responses) for r in records] == [1] * len(records)
    assert [r.judgements[0].ratings[0].value for r in records] == [len(r.responses[0].text()) for r in records]
    items, dropped = demonstrations(records)
    assert len(items) == len(records)
    assert not dropped
    (use,) = rows["same"]["data"]
    prompts = {r.prompt.text() for r in records}
    assert use["n_used"] == len(prompts)
    assert use["dropped"]["no answer kept"] == 8 - len(prompts)
    with pytest.raises(DataError, match=rf"same: none of \d+ answers scores 1000 or more, the best one {lengths[-1]}"):
        run(folder, tiny_model_dir, [{"rejection_sample": {**REJECT, "name": "same", "min_score": 1000}}])


def test_what_scores_the_threshold_itself_stays(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Scores are float32: an answer that a rule of weight 0.7 gives 1.0 scores 0.699999988."""
    rule = {"rule": "format", "options": {"pattern": "(?s).*"}, "weight": 0.7}
    stage = {"rejection_sample": {**REJECT, "limit": 2, "reward": [rule], "min_score": 0.7}}
    _, rows = run(tmp_path, tiny_model_dir, [stage])
    metrics = rows["rejection_sample"]["metrics"]
    assert metrics["kept"] > 0
    assert (metrics["threshold"], metrics["kept_score"]) == (0.7, pytest.approx(0.7))
    for more in (0.7000001, 1e39):  # the next float32, and none at all
        higher = {"rejection_sample": {**stage["rejection_sample"], "min_score": more}}
        with pytest.raises(DataError, match=r"or more, the best one 0\.7;"):
            run(tmp_path, tiny_model_dir, [higher])


def test_a_share_of_all_answers_stays(tmp_path: Path, tiny_model_dir: Path) -> None:
    _, rows = run(tmp_path, tiny_model_dir, [{"rejection_sample": {**REJECT, "top_share": 0.25}}])
    metrics = rows["rejection_sample"]["metrics"]
    different = metrics["answers"] - metrics["merged"]
    assert metrics["kept"] >= int(0.25 * different)
    scores = [r.judgements[0].ratings[0].value for r in made(tmp_path, rows["rejection_sample"])]
    assert min(scores) == metrics["threshold"]
    assert sum(score > metrics["threshold"] for score in scores) < 0.25 * different
    assert metrics["kept_score"] > metrics["best_of_1/score"]


@pytest.mark.parametrize(("n", "bound"), [(4, "0.63629"), (16, "1.83509")])
def test_a_model_that_judges_is_named_and_the_bound_is_said(
    n: int, bound: str, tmp_path: Path, tiny_model_dir: Path
) -> None:
    trainer = {"max_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4}
    judged = {**REJECT, "n": n, "limit": 2, "model": "base", "reward": "auto"}
    stages = [
        {"reward": {"data": "prefs", "trainer": trainer}},
        {"rejection_sample": {**judged, "top_share": 0.5}},
        {"best_of_n": judged},
    ]
    said, rows = run(tmp_path, tiny_model_dir, stages)
    for stage in ("rejection_sample", "best_of_n"):
        records = made(tmp_path, rows[stage])
        who = {(j.annotator.id, j.annotator.kind) for record in records for j in record.judgements}
        assert who == {("tiny-reward@1", "model")}
        assert all(record.judgements for record in records)
        assert rows[stage]["metrics"][f"best_of_{n}/kl_bound"] == pytest.approx(float(bound), abs=5e-6)
        mean = rows[stage]["metrics"][f"best_of_{n}/score"]
        assert f"{stage}: best of {n}: mean score {mean:.4f}, KL at most {bound} nats" in said


@pytest.mark.parametrize("given", [{}, {"min_score": 1, "top_share": 0.5}])
def test_one_threshold_is_needed(given: dict[str, Any]) -> None:
    raw = {"name": "x", "base": "path:x", "stages": [{"rejection_sample": {**REJECT, "data": "x.jsonl", **given}}]}
    with pytest.raises(RecipeError, match="give min_score or top_share, one of the two"):
        parse_recipe(raw, "x.yaml")
