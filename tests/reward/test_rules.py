import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.rules import NEEDS_REFERENCE, RULES, RuleScorer, prompt_text
from reward.scorer import Scorer

PROMPT = [{"role": "user", "content": "Who?"}]


@pytest.mark.parametrize(
    ("rule", "text", "response", "value"),
    [
        ("length", "", "abc d", 5.0),
        ("brevity", "", "abc d", -5.0),
        ("finished", "", "It is done.", 1.0),
        ("finished", "", "Is it?  \n", 1.0),
        ("finished", "", 'She said "yes!"', 1.0),
        ("finished", "", "(see above.)", 1.0),
        ("finished", "", "好。", 1.0),
        ("finished", "", "```\ncode\n```", 1.0),
        ("finished", "", "and then the", 0.0),
        ("finished", "", "a list:", 0.0),
        ("finished", "", "", 0.0),
        ("plain", "", "Two plain lines.\n\nNo markup - none at all * 3.", 1.0),
        ("plain", "", "# Title\nText", 0.5),
        ("plain", "", "- one\n- two\n1. three\nend", 0.25),
        ("plain", "", "This is **bold** and `code`.", 0.0),
        ("plain", "", "see [here](http://x)", 0.0),
        ("plain", "", "<b>hi</b>", 0.0),
        ("plain", "", "1 < 2 and 3 > 2", 1.0),
        ("plain", "", "", 1.0),
        ("reference_f1", "the Eiffel Tower", "Eiffel Tower!", 1.0),
        ("reference_f1", "a cat sat", "The cat ran away", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
        ("reference_f1", "blue", "red", 0.0),
        ("reference_f1", "the", "", 1.0),  # neither has a word left
        ("reference_f1", "blue", "the", 0.0),
        ("reference_f1", "x x y", "x x x", 2 / 3),  # a bag, not a set
    ],
)
def test_rules_by_hand(rule: str, text: str, response: str, value: float) -> None:
    assert RULES[rule](text, response) == pytest.approx(value)


def test_every_rule_is_a_scorer() -> None:
    for name in RULES:
        scorer = RuleScorer(name, references={"Who?": "me"} if name in NEEDS_REFERENCE else None)
        assert isinstance(scorer, Scorer)
        scores = scorer.score([PROMPT, PROMPT], ["me.", "you"])
        assert scores.dtype == np.float32
        assert scores.shape == (2,)
        assert scorer.name == name


def test_references_are_found_by_the_whole_prompt() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, *PROMPT]
    assert prompt_text(turns) == "user: Hi\n\nassistant: Yes?\n\nuser: Who?"
    scorer = RuleScorer("reference_f1", {prompt_text(turns): "Ada", prompt_text(PROMPT): "Bob"})
    assert scorer.score([turns, PROMPT], ["Ada", "Ada"]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RuleScorer("lenght"), "unknown rule 'lenght'; there are: length"),
        (lambda: RuleScorer("reference_f1"), "needs references"),
        (lambda: RuleScorer("length", {"a": "b"}), "does not read references"),
        (lambda: RuleScorer("length").score([PROMPT], []), "1 prompts but 0 responses"),
        (lambda: RuleScorer("length").score([], []), "no responses"),
        (lambda: RuleScorer("reference_f1", {"a": "b"}).score([PROMPT], ["x"]), "no reference for the prompt 'Who"),
    ],
)
def test_bad_input_is_a_value_error(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@given(st.text(), st.text())
def test_any_text_gets_a_finite_score(text: str, response: str) -> None:
    for name in RULES:
        assert np.isfinite(RULES[name](text, response))
    assert 0.0 <= RULES["plain"](text, response) <= 1.0
    assert RULES["reference_f1"](text, response) == pytest.approx(RULES["reference_f1"](response, text))


@pytest.mark.parametrize("piece", ["**", "__", "`", "[", "](", "<a", "|", "#", "1", " ", ".", '"'])
def test_hostile_text_costs_linear_time(piece: str) -> None:
    response = piece * 50_000
    started = time.perf_counter()
    for name in RULES:
        RULES[name](response, response)
    assert time.perf_counter() - started < 5.0
