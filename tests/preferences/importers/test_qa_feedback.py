"""QA-Feedback: six comparisons of four answers, as one order of tiers exactly where they are one."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.importers import qa_feedback
from alignment.preferences.importers.run import import_file
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.splits import split_records
from alignment.preferences.store import read_records, write_records

ROW: dict[str, Any] = {
    "question": "Who was it?",
    "passages": [["A title", "One sentence.", "Another\n\none."], ["B", "More."]],
    "gold": "Nobody.",
    "prediction 1": "You. ",
    "prediction 2": "I.",
    "prediction 3": "They.",
    "prediction 4": "We.",
    "feedback": {"errors": [{"start": 0, "end": 3}], "missing-info": [], "corrected-prediction": "He."},
    "preference": [1, 0, 1, 2, 0, 1],
}


def preference(record: PreferenceRecord) -> list[int]:
    """The six comparisons again, from the orders alone."""
    ids = [response.id for response in record.responses]
    said: dict[tuple[str, str], int] = {}
    for order in record.judgements[0].orders:
        level = order.levels()
        for i, j in permutations(level, 2):
            said[i, j] = 0 if level[i] == level[j] else 1 if level[i] < level[j] else 2
    return [said[ids[i], ids[j]] for i, j in qa_feedback.PAIRS]


def prompt_of(row: dict[str, Any]) -> str:
    passages = [f"Passage {n}: {p[0]}\n{' '.join(p[1:])}" for n, p in enumerate(row["passages"], 1)]
    return "\n\n".join([*passages, f"Question: {row['question']}"]) if passages else row["question"]


def check(record: PreferenceRecord, row: dict[str, Any]) -> None:
    assert record.raw == row
    assert [m.role for m in record.prompt.messages] == ["user"]
    assert record.prompt.text() == prompt_of(row)
    assert [r.text() for r in record.responses] == [row[f"prediction {n}"] for n in (1, 2, 3, 4)]
    assert preference(record) == row["preference"]


def test_a_weak_order_is_one_order_of_tiers() -> None:
    record = qa_feedback.parse(ROW, 5)
    check(record, ROW)
    a, b, c, d = (response.id for response in record.responses)
    (judgement,) = record.judgements
    assert [set(tier) for tier in judgement.orders[0].tiers] == [{a, c}, {b, d}]
    assert (judgement.annotator.id, judgement.annotator.kind) == ("unknown", "human")
    assert record.prompt.text() == (
        "Passage 1: A title\nOne sentence. Another\n\none.\n\nPassage 2: B\nMore.\n\nQuestion: Who was it?"
    )


def test_comparisons_that_are_no_ranking_stay_comparisons() -> None:
    record = qa_feedback.parse({**ROW, "preference": [0, 1, 1, 0, 1, 1]}, 1)  # 1 ties with 2, 2 with 3, but 1 beats 3
    orders = record.judgements[0].orders
    assert [len(order.levels()) for order in orders] == [2] * 6
    assert preference(record) == [0, 1, 1, 0, 1, 1]


def test_all_729_judgements_are_kept_exactly() -> None:
    for votes in product((0, 1, 2), repeat=6):
        assert preference(qa_feedback.parse({**ROW, "preference": list(votes)}, 1)) == list(votes)


def test_as_many_weak_orders_as_there_are() -> None:
    signs = {0: 0, 1: 1, 2: -1}
    shapes = Counter(
        len(qa_feedback.orders("abcd", [signs[v] for v in votes])) for votes in product((0, 1, 2), repeat=6)
    )
    assert shapes == {1: 75, 6: 729 - 75}  # 75 is the ordered Bell number of 4


def test_the_question_alone_keeps_the_group() -> None:
    whole, alone = qa_feedback.parse(ROW, 1), qa_feedback.parse_question_only(ROW, 1)
    assert alone.prompt.text() == "Who was it?"
    assert alone.group_id == whole.group_id
    assert alone.id != whole.id
    assert qa_feedback.parse({**ROW, "passages": []}, 1).prompt == alone.prompt


def test_the_correction_is_an_edit_of_the_first_answer() -> None:
    record = qa_feedback.parse(ROW, 1)
    (edit,) = record.judgements[0].edits
    assert (edit.response_id, edit.messages[0].content) == (record.responses[0].id, "He.")
    for unchanged in ("", " ", ROW["prediction 1"]):
        assert not qa_feedback.parse({**ROW, "feedback": {"corrected-prediction": unchanged}}, 1).judgements[0].edits
    without = {key: value for key, value in ROW.items() if key != "feedback"}
    assert not qa_feedback.parse(without, 1).judgements[0].edits


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prediction 3": True}, "a response is missing or not a text"),
        ({"prediction 3": ""}, "a response is empty"),
        ({"prediction 3": "I."}, "two responses are identical"),
        ({"question": " "}, "the question is missing or empty"),
        ({"passages": None}, "passages is not a list"),
        ({"passages": [[]]}, "a passage is not a title with its sentences"),
        ({"passages": ["text"]}, "a passage is not a title with its sentences"),
        ({"passages": [["t", 1]]}, "a passage is not a title with its sentences"),
        ({"preference": [0, 1, 2]}, "preference is not a list of 6 comparisons"),
        ({"preference": [0, 1, 2, 0, 1, 3]}, "preference has a comparison that is not 0, 1 or 2"),
        ({"preference": [0, 1, 2, 0, 1, True]}, "preference has a comparison that is not 0, 1 or 2"),
        ({"feedback": []}, "feedback has no corrected-prediction that is a text"),
        ({"feedback": {}}, "feedback has no corrected-prediction that is a text"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        qa_feedback.parse({**ROW, **change}, 1)
    assert str(caught.value) == reason


def test_real_rows_are_all_taken(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "qa_feedback" / "dev_feedback.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    report = import_file("qa-feedback", path)
    assert (report.n_rows, len(report.records), report.refused) == (392, 392, [])
    for number, (record, row) in enumerate(zip(report.records, rows, strict=True), 1):
        assert record.source is not None
        assert record.source.row == number
        check(record, row)
    assert sum(not row["passages"] for row in rows) == 2  # their prompt is the question alone
    write_records(tmp_path / "qa.jsonl.gz", report.records)
    assert read_records(tmp_path / "qa.jsonl.gz") == report.records


def test_real_judgements_have_ties_and_no_cycles(real_data: Path) -> None:
    records = import_file("qa-feedback", real_data / "qa_feedback" / "dev_feedback.json").records
    assert sum(vote == 0 for record in records for vote in preference(record)) == 293  # ties, of 2,352 comparisons
    assert Counter(len(record.judgements[0].orders) for record in records) == {1: 372, 6: 20}
    assert sum(bool(record.judgements[0].edits) for record in records) == 375
    for record in records:
        votes = dict(zip(qa_feedback.PAIRS, preference(record), strict=True))
        beats = {(i, j) if vote == 1 else (j, i) for (i, j), vote in votes.items() if vote}
        lines = [list(combinations(line, 2)) for line in permutations(range(4))]
        assert any(beats.isdisjoint((j, i) for i, j in line) for line in lines)  # in some line nobody beats one ahead
    items, dropped = views.pairs(records)
    assert (len(items), dropped) == (2059, Counter({views.ALL_TIED: 9}))


def test_real_splits_are_the_same_with_and_without_passages(real_data: Path) -> None:
    path = real_data / "qa_feedback" / "dev_feedback.json"
    one, other = (split_records(import_file(f, path).records) for f in ("qa-feedback", "qa-feedback-question-only"))
    assert [record.split for record in one] == [record.split for record in other]
