"""Which answer a rule compares with, and that two references to one prompt are an error in every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_sampling import made, record, run

from alignment.errors import DataError
from alignment.preferences.record import Annotator, PreferenceRecord
from alignment.preferences.scored import by_scores
from alignment.preferences.store import write_records
from alignment.stages.reference_answers import agreed, reference_answers


def marked(prompt: str, reference: str, *others: str) -> PreferenceRecord:
    return record(prompt, *others, reference, names=(*[None] * len(others), "reference"))


def judged(item: PreferenceRecord) -> PreferenceRecord:
    """Its first answer is better than its second."""
    ids = [r.id for r in item.responses[:2]]
    return by_scores(item, ids, {"overall": [1.0, 0.0]}, Annotator(id="it", kind="model"))


def ranked(prompt: str, best: str, worse: str) -> PreferenceRecord:
    return judged(record(prompt, best, worse))


def test_of_one_prompt_a_marked_answer_comes_before_the_first_best_ranked_one() -> None:
    p = [ranked("p", "one", "x"), ranked("p", "two", "x")]
    q = [ranked("q", "three", "x"), marked("q", "four"), marked("q", "four", "else")]
    found = reference_answers([*p, *q], None)
    assert found == {"p": "one", "q": "four"}
    assert found.clash is None
    assert agreed(found, "reference_f1", "ppo") is found


def test_references_that_differ_clash_where_their_prompt_matters() -> None:
    records = [marked("q", "four"), marked("p", "a cat"), marked("p", "a dog", "x"), marked("q", "five", "x")]
    assert reference_answers(records, None).clash == (records[1].id, records[2].id)
    assert reference_answers(records, None, {"q"}).clash == (records[0].id, records[3].id)
    torn = record("p", "one", "two", names=("reference", "reference"))
    with pytest.raises(DataError, match=f"^ppo: record {torn.id} has different reference answers, and rule gsm8k comp"):
        agreed(reference_answers([torn], None), "gsm8k", "ppo")
    found = reference_answers(records[:3], None, {"q"})
    assert (dict(found), found.clash) == ({"q": "four"}, None)


REFERENCE: list[dict[str, Any]] = [{"rule": "reference_f1"}]
LENGTH: list[dict[str, Any]] = [{"rule": "length"}]


@pytest.mark.parametrize(
    "stage",
    [
        {"rank": {"reward": REFERENCE}},
        {"best_of_n": {"n": 2, "reward": LENGTH, "watch": REFERENCE}},
        {"rejection_sample": {"n": 2, "reward": REFERENCE, "min_score": 0}},
        {"ppo": {"reward": LENGTH, "watch": REFERENCE, "batch_size": 2, "trainer": {"max_steps": 1}}},
        {"evaluate": {"models": ["base"], "suites": ["win_rate"], "scorers": ["reference_f1"]}},
    ],
    ids=lambda stage: next(iter(stage)),
)
def test_every_stage_refuses_two_references(stage: dict[str, Any], tmp_path: Path, tiny_model_dir: Path) -> None:
    records = [marked("p", "a cat", "cat", "dog"), marked("p", "a dog", "cat", "dog"), marked("q", "a cow", "no", "a")]
    write_records(tmp_path / "sampled.jsonl", [judged(item) for item in records])
    ((kind, settings),) = stage.items()
    given = {kind: settings | {"data": str(tmp_path / "sampled.jsonl"), "split": "all"}}
    message = f"^{kind}: .*: records {records[0].id} and {records[1].id} have one prompt and different ref"
    with pytest.raises(DataError, match=message):
        run(tmp_path, tiny_model_dir, [given])


def test_nobody_minds_references_that_nobody_reads(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_records(
        tmp_path / "sampled.jsonl", [marked("p", "a cat", "cat", "dogs"), marked("p", "a dog", "cat", "dogs")]
    )
    _, rows = run(tmp_path, tiny_model_dir, [{"rank": {"data": str(tmp_path / "sampled.jsonl"), "reward": LENGTH}}])
    assert len(made(tmp_path, rows["rank"])) == 2


def test_a_rank_stage_minds_only_the_prompts_that_it_ranks(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_records(tmp_path / "sampled.jsonl", [record("p", "dog", "cat")])
    others = [marked("p", "a cat sat"), marked("q", "one"), marked("q", "two", "x")]
    write_records(tmp_path / "references.jsonl", others)
    data = {"data": str(tmp_path / "sampled.jsonl"), "references": str(tmp_path / "references.jsonl")}
    _, rows = run(tmp_path, tiny_model_dir, [{"rank": {**data, "reward": REFERENCE}}])
    (item,) = made(tmp_path, rows["rank"])
    best = item.judgements[0].orders[0].tiers[0]
    assert [r.text() for r in item.responses if r.id in best] == ["cat"]
