"""Simulated annotators: features by hand, exact orders without noise, Plackett-Luce with it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from alignment.errors import DataError
from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response
from alignment.preferences.simulate import FEATURES, SimulatedAnnotator, judge, tiers, utilities
from alignment.preferences.views import rankings


def record(*answers: str, question: str = "Why do bees dance?") -> PreferenceRecord:
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=question),)),
        responses=tuple(Response(messages=(Message(role="assistant", content=text),)) for text in answers),
    )


def texts(made: PreferenceRecord, annotator: SimulatedAnnotator) -> list[list[str]]:
    by_id = {response.id: response.text() for response in made.responses}
    return [sorted(by_id[i] for i in tier) for tier in judge(made, annotator).orders[0].tiers]


@pytest.mark.parametrize(
    ("feature", "response", "value"),
    [
        ("brevity", "", 0.0),
        ("brevity", "x" * 250, -0.25),
        ("brevity", "x" * 5000, -1.0),
        ("finished", "They talk.", 1.0),
        ("finished", "They say (“hello!”)  \n", 1.0),
        ("finished", "They talk and", 0.0),
        ("finished", "", 0.0),
        ("plain", "One thing - and another. 2. no list.", 1.0),
        ("plain", "Two:\n- a\n- b", 0.0),
        ("plain", "Two:\n 1. a", 0.0),
        ("plain", "# Bees", 0.0),
        ("plain", "They **dance**.", 0.0),
        ("plain", "```py", 0.0),
        ("on_topic", "Bees DANCE.", 1.0),
        ("on_topic", "A bee's dance", 0.5),
        ("on_topic", "Why do", 0.0),
        ("no_preamble", "Bees dance.", 1.0),
        ("no_preamble", "Sure! Bees", 0.0),
        ("no_preamble", "of course, bees", 0.0),
        ("no_preamble", "I’m an AI", 0.0),
        ("no_preamble", "I think so", 1.0),
        ("no_preamble", "Surely not.", 1.0),
        ("no_preamble", "As an aid", 1.0),
        ("no_repeat", "a b", 1.0),
        ("no_repeat", "a b c", 1.0),
        ("no_repeat", "a b c a b c", 0.75),
        ("no_repeat", "a a a a a", 1 / 3),
    ],
)
def test_features(feature: str, response: str, value: float) -> None:
    assert FEATURES[feature]("Why do bees dance?", response) == pytest.approx(value)


def test_a_prompt_without_content_words_has_no_topic_to_miss() -> None:
    assert FEATURES["on_topic"]("Why is that so?", "Bees.") == 1.0


def test_every_feature_has_a_range_of_width_one() -> None:
    worst = "Sure, " + "- a\n" * 1000
    for name, feature in FEATURES.items():
        assert -1.01 <= feature("Why do bees dance?", worst) < feature("Why do bees dance?", "Bees dance.") <= 1, name


def test_without_noise_the_order_is_that_of_the_utilities() -> None:
    annotator = SimulatedAnnotator("anna", {"on_topic": 2.0, "finished": 1.0, "brevity": 0.5})
    made = record("Bees dance.", "Bees dance", "Bees.", "I do not know.", "no idea")
    assert utilities(made, annotator) == pytest.approx([3 - 0.0055, 2 - 0.005, 2 - 0.0025, 1 - 0.007, -0.0035])
    assert texts(made, annotator) == [["Bees dance."], ["Bees."], ["Bees dance"], ["I do not know."], ["no idea"]]
    judgement = judge(made, annotator)
    assert (judgement.annotator.id, judgement.annotator.kind) == ("anna", "rule")
    assert judgement.status == "submitted"


def test_close_utilities_tie() -> None:
    annotator = SimulatedAnnotator("anna", {"on_topic": 2.0, "finished": 1.0, "brevity": 0.5}, tie_width=0.1)
    made = record("Bees dance.", "Bees dance", "Bees.", "I do not know.", "no idea")
    assert texts(made, annotator) == [["Bees dance."], ["Bees dance", "Bees."], ["I do not know."], ["no idea"]]


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ({"a": 3.0, "b": 2.5, "c": 2.0, "d": 0.0}, 0.6, (("a", "b", "c"), ("d",))),  # a and c through b
        ({"a": 3.0, "b": 2.5, "c": 2.0, "d": 0.0}, 0.5, (("a",), ("b",), ("c",), ("d",))),  # closer than, not equal
        ({"b": 1.0, "a": 1.0, "c": 0.0}, 0.0, (("a", "b"), ("c",))),
    ],
)
def test_ties_chain_from_neighbour_to_neighbour(values: dict[str, float], width: float, expected: Any) -> None:
    assert tiers(values, width) == expected


NOISY = SimulatedAnnotator("anna", {"finished": 1.0}, noise=1.0)


def test_a_judgement_is_a_function_of_its_inputs() -> None:
    made = record("a", "b", "c", "d.")
    assert judge(made, NOISY) == judge(made, NOISY)
    orders = {
        judge(made, SimulatedAnnotator(name, {"finished": 1.0}, noise=1.0, seed=seed)).orders[0].tiers
        for name in ("anna", "bob", "cleo")
        for seed in (0, 1, 2)
    }
    assert len(orders) > 3
    ids = {judge(made, SimulatedAnnotator("anna", {}, seed=seed), what).id for seed in (0, 1) for what in ("x", "y")}
    assert len(ids) == 4


def test_the_order_of_responses_changes_nothing() -> None:
    made, shuffled = record("a", "b", "c", "d."), record("d.", "b", "a", "c")
    assert made.id == shuffled.id
    assert judge(made, NOISY) == judge(shuffled, NOISY)


def test_noise_makes_a_plackett_luce_choice() -> None:
    # P(first) = exp(u / noise) / sum, here with u = 1, 0, 0 and noise 1/2.
    annotator = SimulatedAnnotator("anna", {"finished": 1.0}, noise=0.5)
    n = 2000
    wins = sum(texts(record("a.", "b", "c", question=f"q{i}"), annotator)[0] == ["a."] for i in range(n))
    expected = math.exp(2) / (math.exp(2) + 2)
    assert wins / n == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def test_several_annotators_of_one_record_make_votes() -> None:
    made = record("Bees dance.", "Bees", "no")
    annotators = [SimulatedAnnotator(name, {"on_topic": 1.0}) for name in ("anna", "bob")]
    judged = tuple(judge(made, annotator) for annotator in annotators)
    (ranking,), _ = rankings([made.model_copy(update={"judgements": judged})])
    assert ranking.n_annotators == 2
    assert ranking.wins == ((0, 1, 1), (0, 0, 1), (0, 0, 0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": {"brevety": 1.0}}, "unknown feature 'brevety'; known: brevity"),
        ({"weights": {}, "noise": -1.0}, "must be >= 0"),
        ({"weights": {}, "tie_width": -1.0}, "must be >= 0"),
    ],
)
def test_wrong_annotators_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SimulatedAnnotator("anna", **fields)


def test_one_response_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="fewer than two responses"):
        judge(record("a"), NOISY)
