"""Scorers as annotators: whoever scores differently has another id, and judgements of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alignment.stages.judging import annotator
from alignment.stages.scoring import ScorerTerm

CONTEXT: Any = SimpleNamespace(inputs={"reward_1": "run-reward@1", "reward_1_1": "a@1", "reward_1_2": "b@1"})


def name(*given: dict[str, Any]) -> str:
    return annotator(CONTEXT, [ScorerTerm.model_validate(term) for term in given]).id


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ({"rule": "length"}, "length"),
        ({"rule": "length_target", "options": {"target": 20}}, "length_target(target=20)"),
        ({"rule": "length_target", "options": {"target": 20, "unit": "characters"}}, "length_target(target=20)"),
        (
            {"rule": "length_target", "options": {"unit": "words", "target": 20}, "weight": 0.01},
            '0.01*length_target(target=20, unit="words")',
        ),
        ({"rule": "format", "options": {"pattern": 'a", "b'}}, r'format(pattern="a\", \"b")'),
        ({"model": "reward"}, "run-reward@1"),
        ({"model": "reward", "options": {"aggregate": "worst"}}, 'run-reward@1(aggregate="worst")'),
        (
            {"model": "reward", "options": {"aggregate": "uncertainty", "penalty": 1.0}},
            'run-reward@1(aggregate="uncertainty", penalty=1)',
        ),
        ({"models": ["a", "b"]}, "mean (a@1, b@1)"),
        ({"models": ["a", "b"], "options": {"aggregate": "uncertainty", "penalty": 0.5}}, "uncertainty 0.5 (a@1, b@1)"),
        ({"rule": "length", "weight": 0.12345678}, "0.12345678*length"),
        ({"rule": "length", "name": "brevity"}, "length"),  # the name in results hides nothing
    ],
)
def test_an_annotator_says_what_scores_and_how(term: dict[str, Any], expected: str) -> None:
    assert name(term) == expected


def test_terms_are_summed_in_their_order() -> None:
    assert name({"model": "reward", "weight": 2}, {"rule": "plain"}) == "2*run-reward@1 + plain"
