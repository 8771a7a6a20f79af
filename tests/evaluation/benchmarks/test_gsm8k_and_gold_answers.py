"""School problems and factual questions by generation, with answers that are known."""

from __future__ import annotations

import json
import operator
import re
from pathlib import Path

import pytest
from scripted_answers import Scripted, find

from alignment.evaluation.benchmarks.benchmark import samples_file
from alignment.evaluation.benchmarks.factuality.gold_answers import GoldAnswers, Question
from alignment.evaluation.benchmarks.forgetting.gsm8k import EXAMPLES, GSM8KRun
from alignment.evaluation.benchmarks.probes import read_probe
from alignment.evaluation.data import Hub, HubData
from alignment.evaluation.metrics.containment import verdict
from alignment.evaluation.stored import STORED
from alignment.evaluation.stored.rows import Row
from reward.verifiable import final_number, gsm8k


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(monkeypatch, tmp_path)


def test_worked_examples_are_right() -> None:
    operations = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    for _, answer in EXAMPLES:
        *steps, last = answer.split("\n")
        for step in steps:
            sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", step)
            assert len(sums) == step.count("=")
            assert all(operations[sign](int(one), int(other)) == int(result) for one, sign, other, result in sums)
        assert final_number(last) == final_number(steps[-1])


def test_problems_of_the_published_file(scripted: Scripted, real_data: Path, tmp_path: Path) -> None:
    """Odd questions are answered with the worked answer, the others with a wrong number or none."""
    path = real_data / "gsm8k" / "train.jsonl"
    with path.open(encoding="utf-8") as stream:
        gold = {row["question"]: row["answer"] for row in map(json.loads, stream)}
    wanted = ["right", "wrong", "none", "unfit"]

    def answer(model: str, messages: object) -> str | None:
        [message] = messages  # type: ignore[misc]
        question = message["content"].partition("\n\nThink step by step")[0]
        kind = wanted[len(question) % 4] if model == "base" else "wrong"
        wrong = f"#### {final_number(gold[question])}1"
        return {"right": gold[question], "wrong": wrong, "none": "No idea.", "unfit": None}[kind]

    results = scripted.run(GSM8KRun(str(path), limit=40, max_new_tokens=50), answer)
    rows = [json.loads(line) for line in samples_file(tmp_path, "gsm8k", "base").read_text().splitlines()]
    answered = [row for row in rows if row["solution"] is not None]
    right = [gsm8k(row["gold"], row["solution"]) for row in answered]
    accuracy = find(results, "accuracy")
    assert 0 < sum(right) < len(answered) < len(rows) == 40
    assert accuracy.value == pytest.approx(100 * sum(right) / len(right))
    assert (accuracy.n_scored, accuracy.n_unscored, accuracy.primary) == (len(answered), 40 - len(answered), True)
    change = find(results, "accuracy_difference", "sft")  # forgetting is measured from the base
    assert (change.value, change.compared_to) == (pytest.approx(-accuracy.value), "base")
    assert not [r for r in results if r.metric == "accuracy_difference" and r.model == "base"]
    stored = STORED["gsm8k"]
    [again, _] = stored.score(stored.read([samples_file(tmp_path, "gsm8k", "base")], {}).items, seed=0)
    assert (again.metric, again.value, again.ci_low) == ("accuracy", accuracy.value, accuracy.ci_low)
    [measure] = GSM8KRun().measures(rows)
    assert list(measure.items) == [row["id"] for row in rows]
    assert sum(item.value is not None for item in measure.items.values()) == len(answered)
    assert measure.value() == pytest.approx(accuracy.value)
    assert scripted.calls[0][2] == 50


def test_worked_examples_go_before_the_problem_and_the_hub_is_pinned(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[HubData] = []

    def rows(self: Hub, data: HubData) -> list[Row]:
        asked.append(data)
        return [Row("hub: row 1", {"question": "What is 2 + 2?", "answer": "It is 2+2=<<2+2=4>>4\n#### 4"})]

    monkeypatch.setattr(Hub, "rows", rows)
    results = scripted.run(GSM8KRun(shots=2), lambda model, messages: "2 + 2 = 4")
    assert find(results, "accuracy").value == 100.0
    assert (asked[0].repo, asked[0].config, asked[0].split) == ("openai/gsm8k", "main", "test")
    [messages] = scripted.calls[0][1]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[1]["content"] == EXAMPLES[0][1]
    assert messages[4]["content"].startswith("What is 2 + 2?\n\nThink step by step")
    assert len({m["content"].rpartition("\n\n")[2] for m in messages if m["role"] == "user"}) == 1


def test_gold_answers_by_hand(scripted: Scripted, tmp_path: Path) -> None:
    rows = [
        {"id": f"q{n}", "question": f"Q{n}?", "answers": ["Paris", "the City of Light"], "category": f"c{n % 2}"}
        for n in range(5)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"Q0?": "It is Paris.", "Q1?": "I don't know.", "Q2?": "Rome.", "Q3?": "City of light!", "Q4?": None}
    results = scripted.run(
        GoldAnswers(str(path)),
        lambda model, messages: said[messages[0]["content"].split("\n")[0]] if model == "base" else "Rome.",
    )
    for metric, value in (("correct", 0.5), ("abstained", 0.25), ("wrong", 0.25)):
        found = find(results, metric)
        assert (found.value, found.n_scored, found.n_unscored) == (value, 4, 1)
    assert find(results, "correct", group="c0").value == 0.5
    change = find(results, "wrong_difference")
    assert (change.value, change.n_scored, change.higher_is_better) == (-0.75, 4, False)


def test_the_bundled_questions_accept_their_own_answers_and_not_each_others() -> None:
    items = read_probe(GoldAnswers().data, Question)  # type: ignore[arg-type]
    assert len(items) == 62
    assert len({item.question for item in items}) == 62
    for item in items:
        assert all(verdict(f"I think it is {one}, yes.", item.answers) == "correct" for one in item.answers)
        # A question that names its own answer would be answered by repeating it.
        assert verdict(item.question, item.answers) == "wrong", item.question
