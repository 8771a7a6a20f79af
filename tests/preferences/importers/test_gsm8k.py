"""GSM8K: the written solution is the reference answer, by whose final number responses are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import alignment_anew

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.importers import gsm8k
from alignment.preferences.importers.run import import_file
from alignment.preferences.sources import DataSpec, load
from alignment.preferences.store import read_records
from alignment.stages.reference_answers import REFERENCE, references
from reward.rules import RuleScorer, prompt_text

ROW = {"question": "Ann has 48/2 apples. How many?", "answer": "She has <<48/2=24>>24.\n#### 24"}


def test_the_solution_is_the_reference() -> None:
    record = gsm8k.parse(ROW, 7)
    assert [(m.role, m.content) for m in record.prompt.messages] == [("user", ROW["question"])]
    (response,) = record.responses
    assert [(m.role, m.content) for m in response.messages] == [("assistant", ROW["answer"])]
    assert response.generator is not None
    assert (response.generator.kind, response.generator.name) == ("human", REFERENCE)
    assert not record.judgements
    assert record.source is not None
    assert (record.source.row, record.source.license) == (7, "MIT")
    assert record.raw == ROW
    assert references([record]) == {record.id: ROW["answer"]}
    assert [item.response[-1]["content"] for item in views.demonstrations([record])[0]] == [ROW["answer"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "question is missing or not a text"),
        ({"question": ["a"]}, "question is missing or not a text"),
        ({"question": " "}, "the question is empty"),
        ({"answer": None}, "a response is missing or not a text"),
        ({"answer": ""}, "a response is empty"),
        ({"answer": "She has 24."}, "the solution has no number behind ####"),
        ({"answer": "She has 24. #### none"}, "the solution has no number behind ####"),
    ],
)
def test_what_is_no_problem_with_a_solution_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gsm8k.parse({**ROW, **change}, 1)


@pytest.mark.parametrize("result", ["-3", "$1,080", "0.5", ".5", " 7"])
def test_what_is_taken_can_be_scored_by(result: str) -> None:
    record = gsm8k.parse({**ROW, "answer": f"#### {result}"}, 1)
    scorer = RuleScorer("gsm8k", {ROW["question"]: record.responses[0].text()})
    prompt = [{"role": "user", "content": ROW["question"]}]
    assert scorer.score([prompt] * 2, [f"It is {result.strip()}.", "It is 12345."]).tolist() == [1.0, 0.0]


def test_the_real_file_is_kept_whole_and_answers_itself(real_data: Path) -> None:
    path = real_data / "gsm8k" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    report = import_file("gsm8k", path)
    assert (len(report.records), report.refused) == (7473, [])
    assert [record.raw for record in report.records] == rows
    assert len({record.group_id for record in report.records}) == 7473
    by_id = references(report.records)
    prompts = [[m.model_dump() for m in record.prompt.messages] for record in report.records]
    texts = {prompt_text(p): by_id[r.id] for p, r in zip(prompts, report.records, strict=True)}
    scorer = RuleScorer("gsm8k", texts)
    assert scorer.without_reference(prompts) == []
    assert scorer.score(prompts, [row["answer"] for row in rows]).min() == 1.0


def test_it_is_a_source_of_a_recipe_and_of_the_command_line(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "gsm8k" / "train.jsonl"
    assert "MIT License" in (path.parent / "LICENSE").read_text(encoding="utf-8")
    loaded = load(DataSpec.model_validate({"source": str(path), "format": "gsm8k", "split": "test", "limit": 20}))
    assert loaded.n_records == 20
    lines = path.read_text(encoding="utf-8").splitlines()[:50]
    (tmp_path / "some.jsonl").write_text("\n".join([*lines, '{"question": "Why?", "answer": "So."}']) + "\n")
    done = alignment_anew(
        tmp_path, "data", "import", "gsm8k", "some.jsonl", "--out", "records.jsonl", "--dataset", "gsm8k"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "rows read 51, taken 50, refused 1\n  1 refused: the solution has no number behind ####" in done.stdout
    records = read_records(tmp_path / "records.jsonl")
    assert {(r.source.dataset, r.source.license) for r in records if r.source} == {("gsm8k", "MIT")}
    assert len(references(records)) == 50
