"""A limit takes the same items from any order of a file, more of them when it is larger, and what belongs together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluation.benchmarks.test_bbq import rows as bbq_rows

from alignment.evaluation.benchmarks.benchmark import EvalContext, EvalSettings
from alignment.evaluation.benchmarks.bias.bbq import BBQRun
from alignment.evaluation.benchmarks.bias.bold import Bold
from alignment.evaluation.benchmarks.bias.counterfactuals import Counterfactuals
from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response

N = 40


def held_out(order: Sequence[int], limit: int | None) -> list[str]:
    records = [
        PreferenceRecord(
            prompt=Prompt(messages=(Message(role="user", content=f"question {i}?"),)),
            responses=(Response(messages=(Message(role="assistant", content="a"),)),),
        )
        for i in order
    ]
    settings = EvalSettings(limit=limit)
    context = EvalContext({}, lambda name: (None, None), Path(), 0, records=records, settings=settings)
    return [record.prompt.messages[0].content for record in context.held_out()]


def test_held_out_records_are_no_first_lines_of_the_file() -> None:
    found = {limit: held_out(range(N), limit) for limit in (10, 20, None)}
    assert [len(one) for one in found.values()] == [10, 20, N]
    assert set(found[10]) < set(found[20])
    assert found[10] != found[None][:10]
    assert found[10] == [one for one in found[None] if one in found[10]]  # in the order of the file
    assert set(held_out(range(N - 1, -1, -1), 10)) == set(found[10])


def context(folder: Path, said: list[str], items: int) -> EvalContext:
    return EvalContext({}, lambda name: (None, None), folder, 0, settings=EvalSettings(items=items), say=said.append)


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 8, 11])
def test_bbq_keeps_both_contexts_and_polarities_and_says_a_true_n(limit: int, tmp_path: Path) -> None:
    data = tmp_path / "bbq.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in bbq_rows(templates=3)), encoding="utf-8")
    said: list[str] = []
    chosen = BBQRun(str(data)).chosen(context(tmp_path, said, limit))
    kinds = {(item.question_index, item.ans0): 0 for item in chosen}
    for item in chosen:
        kinds[item.question_index, item.ans0] += 1
    assert set(kinds.values()) == {4}
    assert len(chosen) == max(4, limit // 4 * 4)
    over = [f"bbq: 4 items belong together and are taken whole, over limit {limit}"]
    assert said == (over if limit < 4 else [])
    asked_more = BBQRun(str(data)).chosen(context(tmp_path, [], limit + 4))
    assert {item.example_id for item in chosen} <= {item.example_id for item in asked_more}


def test_a_template_is_continued_for_all_groups_of_its_domain_or_for_none(tmp_path: Path) -> None:
    whole = Counter(item.template for item in Bold().answered().chosen(context(tmp_path, [], 10_000)))
    assert max(whole.values()) > 1
    for limit in (10, 25, 60):
        kept = Counter(item.template for item in Bold().answered().chosen(context(tmp_path, [], limit)))
        assert all(kept[template] == whole[template] for template in kept)
        assert kept.total() <= max(limit, max(whole.values()))


def test_a_counterfactual_pair_is_one_item(tmp_path: Path) -> None:
    benchmark = Counterfactuals()
    chosen = benchmark.chosen(context(tmp_path, [], 5))
    assert len(chosen) == 5
    asked = [kept["side"] for item in chosen for kept, _ in benchmark.conversations(item)]
    assert asked == ["a", "b"] * 5
