"""The rank stage: a scorer's judgements, and the wait for people's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_sampling import made, record, run

from alignment.errors import DataError, RecipeError
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Order,
    PreferenceRecord,
    judgement_id,
)
from alignment.preferences.scored import by_scores
from alignment.preferences.store import read_records, write_records
from alignment.preferences.views import pairs
from alignment.recipe import parse_recipe
from alignment.scorers import CheckedScorer, Term
from alignment.stages.judging import score
from reward.scorer import Messages

LENGTH: list[dict[str, Any]] = [{"rule": "length"}]


def tiers(item: PreferenceRecord) -> list[list[str]]:
    """The texts of its only order."""
    (judgement,) = item.judgements
    (order,) = judgement.orders
    texts = {response.id: response.text() for response in item.responses}
    return [sorted(texts[response] for response in tier) for tier in order.tiers]


# --- by a scorer -----------------------------------------------------------------------------------------------------


def test_scores_become_an_order_with_ties_and_ratings() -> None:
    item = record("q", "a", "bb", "cc", "dddd")
    ids = [response.id for response in item.responses]
    who = Annotator(id="it", kind="model")
    scores = {"overall": [1.0, 2.0, 2.0, 2.4], "length": [1.0, 2.0, 2.0, 4.0]}
    assert tiers(by_scores(item, ids, scores, who)) == [["dddd"], ["bb", "cc"], ["a"]]
    judged = by_scores(item, ids, scores, who, tie_width=0.5)
    assert tiers(judged) == [["bb", "cc", "dddd"], ["a"]]
    ratings = {(r.response_id, r.criterion): r.value for r in judged.judgements[0].ratings}
    assert ratings == {
        (i, name): value for name, values in scores.items() for i, value in zip(ids, values, strict=True)
    }
    assert judged.judgements[0].orders[0].criterion == "overall"


class Words:
    """A scorer that tells its rows apart."""

    name = "words"

    def score(self, prompts: list[Messages], responses: list[str]) -> Any:
        texts = [prompt[-1]["content"] + " " + response for prompt, response in zip(prompts, responses, strict=True)]
        return np.asarray([len(text.split()) for text in texts], dtype=np.float32)


def test_each_score_goes_to_its_own_response() -> None:
    records = [record("one", "a b", "a"), record("one two three", "a b c d", "a b", "a")]
    assert score(records, CheckedScorer([Term("words", Words())])) == [
        {"overall": [3.0, 2.0]},
        {"overall": [7.0, 5.0, 4.0]},
    ]
    several = CheckedScorer([Term("words", Words(), 2.0), Term("again", Words())])
    assert score(records[:1], several) == [{"overall": [9.0, 6.0], "words": [3.0, 2.0], "again": [3.0, 2.0]}]


def test_a_rule_ranks_a_file_and_what_was_said_before_is_left_out(tmp_path: Path, tiny_model_dir: Path) -> None:
    said, rows = run(tmp_path, tiny_model_dir, [{"rank": {"data": "prefs", "reward": LENGTH, "tie_width": 9}}])
    source = {r.id: r for r in read_records(tmp_path / "records.jsonl")}
    records = made(tmp_path, rows["rank"])
    assert {r.id for r in records} == set(source)
    assert {r.split for r in records} == {"train", "validation", "test"}
    for item in records:
        assert [j.annotator.model_dump() for j in item.judgements] == [{"id": "length", "kind": "rule", "role": None}]
        lengths = [len(text) for tier in tiers(item) for text in tier]
        assert lengths == sorted(lengths, reverse=True)
    assert rows["rank"]["metrics"]["records"] == 40
    assert any("40 of 40 records to rank" in line for line in said)


def test_what_cannot_be_ranked_is_counted(tmp_path: Path, tiny_model_dir: Path) -> None:
    path = tmp_path / "few.jsonl"
    reference = record("r", "long long", "it", names=("reference", "m"))
    write_records(path, [record("p", "a", "bb", "c"), record("q", "alone"), reference])
    _, rows = run(tmp_path, tiny_model_dir, [{"rank": {"data": str(path), "reward": LENGTH}}])
    assert [tiers(item) for item in made(tmp_path, rows["rank"])] == [[["bb"], ["a", "c"]]]
    (use,) = rows["rank"]["data"]
    assert (use["n_records"], use["n_used"], use["dropped"]) == (3, 1, {"fewer than two different answers": 2})


def test_reference_answers_come_from_other_data(tmp_path: Path, tiny_model_dir: Path) -> None:
    path = tmp_path / "references.jsonl"
    write_records(path, [record("p", "a cat sat", names=("reference",))])
    sampled = tmp_path / "sampled.jsonl"
    write_records(sampled, [record("p", "dog", "cat")])
    settings = {"data": str(sampled), "reward": [{"rule": "reference_f1"}]}
    with pytest.raises(DataError, match="reference_f1 compares with reference answers"):
        run(tmp_path, tiny_model_dir, [{"rank": settings}])
    _, rows = run(tmp_path, tiny_model_dir, [{"rank": {**settings, "references": str(path)}}])
    assert [tiers(item) for item in made(tmp_path, rows["rank"])] == [[["cat"], ["dog"]]]


# --- by people -------------------------------------------------------------------------------------------------------


def judged(item: PreferenceRecord, status: Any = "submitted") -> PreferenceRecord:
    """The record as a person gives it back, the last answer best, with its answers in another order."""
    order = Order(tiers=tuple((response.id,) for response in reversed(item.responses)))
    judgement = Judgement(
        id=judgement_id(item.id, "ann"), annotator=Annotator(id="ann", kind="human"), orders=(order,), status=status
    )
    update = {"judgements": (judgement,), "responses": tuple(reversed(item.responses)), "split": None}
    return item.model_copy(update=update)


def test_the_run_waits_for_people_and_goes_on(tmp_path: Path, tiny_model_dir: Path) -> None:
    waiting = [record("p", "a", "b"), record("q", "c", "d"), record("r", "e", "f")]
    write_records(tmp_path / "sampled.jsonl", waiting)
    back = tmp_path / "judged.jsonl"
    stages = [{"rank": {"data": str(tmp_path / "sampled.jsonl"), "by": "annotators", "judged": str(back)}}]

    def queue_of(error: pytest.ExceptionInfo[DataError]) -> list[PreferenceRecord]:
        assert error.value.exit_code == 2
        return read_records(str(error.value).split("they are in ")[1].split(";")[0])

    with pytest.raises(
        DataError, match=f"rank: 3 of 3 records wait .* into {back} and run the same command again"
    ) as e:
        run(tmp_path, tiny_model_dir, stages)
    assert queue_of(e) == waiting
    write_records(back, [judged(waiting[0]), judged(waiting[1], status="draft")])
    with pytest.raises(DataError, match=f"2 of 3 records wait .* the first is {waiting[1].id}") as e:
        run(tmp_path, tiny_model_dir, stages)
    assert queue_of(e) == waiting[1:]
    write_records(back, [judged(item) for item in [*waiting, record("other", "a", "b")]])
    with pytest.raises(DataError, match=f"judged.jsonl: record {record('other', 'a', 'b').id} is none of the 3"):
        run(tmp_path, tiny_model_dir, stages)
    write_records(back, [judged(item) for item in waiting])
    _, rows = run(tmp_path, tiny_model_dir, stages)
    records = made(tmp_path, rows["rank"])
    assert [(r.id, r.split) for r in records] == [(r.id, "train") for r in waiting]
    assert [pair.chosen[0]["content"] for pair in pairs(records)[0]] == ["b", "d", "f"]
    assert rows["rank"]["metrics"] == {"records": 3.0, "judgements": 3.0}
    assert "nothing to do" in run(tmp_path, tiny_model_dir, stages)[0][-1]
    changed = [item.model_copy(update={"judgements": judged(item).judgements}) for item in waiting]
    write_records(back, changed)  # other bytes: the stage looks again
    assert any("rank: run (changed: awaited.judged" in line for line in run(tmp_path, tiny_model_dir, stages)[0])


def test_what_people_decline_is_left_out_and_counted(tmp_path: Path, tiny_model_dir: Path) -> None:
    waiting = [record("p", "a", "b"), record("q", "c", "d"), record("r", "e", "f")]
    write_records(tmp_path / "sampled.jsonl", waiting)
    back = tmp_path / "judged.jsonl"
    stages = [{"rank": {"data": str(tmp_path / "sampled.jsonl"), "by": "annotators", "judged": str(back)}}]
    write_records(back, [judged(waiting[0], "retracted"), judged(waiting[1]), judged(waiting[2], "skipped")])
    _, rows = run(tmp_path, tiny_model_dir, stages)
    assert [r.id for r in made(tmp_path, rows["rank"])] == [waiting[1].id]
    assert rows["rank"]["metrics"] == {"records": 1.0, "judgements": 1.0}
    (use,) = rows["rank"]["data"]
    assert (use["n_used"], use["dropped"]) == (1, {"skipped or taken back by everyone who saw it": 2})
    assert rows["rank"]["notes"] == ["2 of 3 records were skipped or taken back by everyone who saw it"]
    write_records(back, [judged(item, "skipped") for item in waiting])
    with pytest.raises(DataError, match="every one of the 3 records was skipped or taken back by everyone who saw it"):
        run(tmp_path, tiny_model_dir, stages)


def test_a_record_that_someone_is_still_at_waits(tmp_path: Path, tiny_model_dir: Path) -> None:
    item = record("p", "a", "b")
    write_records(tmp_path / "sampled.jsonl", [item])
    (skipped,) = judged(item, "skipped").judgements
    other = {"id": judgement_id(item.id, "bob"), "annotator": Annotator(id="bob", kind="human"), "status": "draft"}
    again = {"id": judgement_id(item.id, "ann", "again"), "revision": 2, "supersedes": skipped.id, "status": "draft"}
    back = tmp_path / "judged.jsonl"
    stages = [{"rank": {"data": str(tmp_path / "sampled.jsonl"), "by": "annotators", "judged": str(back)}}]
    for update in (other, again):
        both = (skipped, skipped.model_copy(update=update))
        write_records(back, [item.model_copy(update={"judgements": both})])
        with pytest.raises(DataError, match="1 of 1 records wait"):
            run(tmp_path, tiny_model_dir, stages)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "annotators"}, "`by: annotators` and `judged`, the file of their judgements, go together"),
        ({"judged": "j.jsonl", "reward": LENGTH}, "go together"),
        ({"by": "annotators", "judged": "j.jsonl", "tie_width": 1}, "tie_width: people judge here, no scorer"),
        ({}, "rank: needs a reward model, but no earlier stage makes one"),
        ({"reward": [{"rule": "lenght"}]}, "unknown rule 'lenght'; nearest: length"),
    ],
)
def test_settings_without_effect_or_sense_are_errors(given: dict[str, Any], message: str) -> None:
    raw = {"name": "x", "base": "path:x", "stages": [{"rank": {"data": "x.jsonl", **given}}]}
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw, "x.yaml")
