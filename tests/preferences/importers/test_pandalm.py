"""PandaLM: three votes on two answers; which rows are refused, and that every other can be had back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.importers import pandalm
from alignment.preferences.importers.run import DUPLICATE, import_file
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.store import read_records, write_records

ROW: dict[str, Any] = {
    "idx": 7,
    "motivation_app": "App",
    "cmp_key": "bloom-7b_llama-7b",
    "instruction": "Translate. ",
    "input": "Bonjour\n",
    "response1": "Hello",
    "response2": " Good day ",
    "annotator1": 1,
    "annotator2": 2,
    "annotator3": 0,
}


def rebuilt(record: PreferenceRecord) -> dict[str, Any]:
    """What a record says by itself, in the words of the format; prompt instead of instruction and input."""
    first, second = (response.id for response in record.responses)
    votes = {((first, second),): 0, ((first,), (second,)): 1, ((second,), (first,)): 2}
    return {
        "prompt": record.prompt.text(),
        "cmp_key": "_".join(str(r.generator.name) for r in record.responses if r.generator),
        "response1": record.responses[0].text(),
        "response2": record.responses[1].text(),
        **{judgement.annotator.id: votes[judgement.orders[0].tiers] for judgement in record.judgements},
    }


def votes(record: PreferenceRecord) -> list[dict[str, int]]:
    """Every annotator's tier of each response, whichever came first in the row."""
    return [judgement.orders[0].levels() for judgement in record.judgements]


def expected(row: dict[str, Any]) -> dict[str, Any]:
    prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"].strip() else row["instruction"]
    return {"prompt": prompt, **{key: value for key, value in row.items() if key[:3] in ("cmp", "res", "ann")}}


def test_a_row_becomes_a_record_with_three_judgements() -> None:
    record = pandalm.parse(ROW, 3)
    assert rebuilt(record) == expected(ROW)
    assert record.prompt.text() == "Translate. \n\nBonjour\n"
    assert record.raw == ROW
    assert record.source is not None
    assert record.source.row == 3
    assert {j.annotator.kind for j in record.judgements} == {"human"}
    assert {r.generator.kind for r in record.responses if r.generator} == {"model"}
    (ranking,), _ = views.rankings([record])
    assert ranking.wins[0][1] == ranking.wins[1][0] == ranking.ties[0][1] == pytest.approx(1 / 3)


def test_a_blank_input_is_no_part_of_the_prompt() -> None:
    assert pandalm.parse({**ROW, "input": " "}, 1).prompt.text() == "Translate. "


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"response1": True}, "a response is missing or not a text"),
        ({"response2": None}, "a response is missing or not a text"),
        ({"response2": " \n"}, "a response is empty"),
        ({"response2": "Hello"}, "two responses are identical"),
        ({"instruction": " "}, "the instruction is empty"),
        ({"input": None}, "instruction or input is missing or not a text"),
        ({"annotator2": 3}, "an annotator's vote is missing or not 0, 1 or 2"),
        ({"annotator2": True}, "an annotator's vote is missing or not 0, 1 or 2"),
        ({"annotator3": None}, "an annotator's vote is missing or not 0, 1 or 2"),
        ({"cmp_key": "bloom-7b"}, "cmp_key does not name two models, as in bloom-7b_llama-7b"),
        ({"cmp_key": None}, "cmp_key does not name two models, as in bloom-7b_llama-7b"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        pandalm.parse({**ROW, **change}, 1)
    assert str(caught.value) == reason


def test_real_rows_are_all_accounted_for(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "pandalm" / "testset-v1.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    report = import_file("pandalm", path)
    assert (report.n_rows, len(report.records)) == (783, 670)
    assert report.reasons() == {DUPLICATE: 77, "a response is empty": 35, "the instruction is empty": 1}
    empty = [refusal.line for refusal in report.refused if refusal.reason == "a response is empty"]
    assert empty == [250, 252, 254, 300, 301, *range(588, 598), *range(635, 645), *range(774, 784)]
    assert [refusal.line for refusal in report.refused if refusal.reason == "the instruction is empty"] == [381]

    left = dict(enumerate(rows, 1))
    for record in report.records:
        assert record.source is not None
        assert record.source.dataset == "testset-v1"
        row = left.pop(int(record.source.row or 0))
        assert record.raw == row
        assert rebuilt(record) == expected(row)
    assert [refusal.row for refusal in report.refused] == list(left.values())

    write_records(tmp_path / "pandalm.jsonl.gz", report.records)
    assert read_records(tmp_path / "pandalm.jsonl.gz") == report.records


def test_real_repetitions_hold_the_votes_of_the_first_row(real_data: Path) -> None:
    report = import_file("pandalm", real_data / "pandalm" / "testset-v1.json")
    there = {record.source.row: record for record in report.records if record.source}
    same = Counter[bool]()
    for refusal in report.refused:
        if refusal.reason == DUPLICATE:
            first, again = there[int(refusal.detail.removeprefix("line "))], pandalm.parse(refusal.row, refusal.line)
            same[votes(first) == votes(again)] += 1
    assert same == {True: 76, False: 1}


def test_real_votes(real_data: Path) -> None:
    records = import_file("pandalm", real_data / "pandalm" / "testset-v1.json").records
    tiers = [len(judgement.orders[0].tiers) for record in records for judgement in record.judgements]
    assert Counter(tiers) == {2: 1781, 1: 229}  # 229 ties
    assert {r.generator.name for record in records for r in record.responses if r.generator} == {
        "bloom-7b",
        "cerebras-gpt-6.7B",
        "llama-7b",
        "opt-7b",
        "pythia-6.9b",
    }
    items, dropped = views.pairs(records)
    assert (len(items), dropped) == (610, Counter({views.ALL_TIED: 60}))
