"""The final number of a solution and the required form, by hand, on hostile text and on every real solution."""

import json
import re
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.verifiable import final_number, full_match, gsm8k


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("#### 18", "18"),
        ("####18", "18"),
        ("####\n18", "18"),
        ("She has 3 and 15. #### 18", "18"),
        ("#### 18.", "18"),
        ("#### 18.00", "18"),
        ("#### $18", "18"),
        ("#### $1,234.50 a week", "1234.5"),
        ("#### 18 dollars in 2 days", "18"),  # the number behind the mark, not the last one
        ("#### 72\n\nQuestion: Ann has 5 apples.", "72"),  # what follows the answer does not count
        ("#### 5\nNo, I forgot one.\n#### 6", "6"),  # the last mark
        ("#### Step 2: add\n9 + 9 = 18", "18"),  # a heading: the last number after it
        ("#### **18**", "18"),
        ("#### \\$18", "18"),
        ("#### -3", "-3"),
        ("#### −3", "-3"),
        ("#### –3", "-3"),  # en dash
        ("it is –$3", "-3"),
        ("10–12", "12"),  # a range, not -12
        ("####18 ####", "18"),  # the last mark that a number follows
        ("#### 5\n#### 18\n#### done ####", "18"),
        ("#### 1,018,000.50", "1018000.5"),
        ("1/2 of 36 is 18", "18"),
        ("#### -$3", "-3"),
        ("#### $-3", "-3"),
        ("The answer is 18", "18"),
        ("The answer is 18 apples.", "18"),
        ("Of 20 she ate 2, so the answer is 18.", "18"),
        ("\\boxed{18}", "18"),
        ("16-3", "3"),  # a difference, not -3
        ("x=-3", "-3"),
        ("it is 1,000,000.", "1000000"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("50%", "50"),
        ("2e3", "2000"),
        ("#### 1.5E-2 m", "0.015"),
        ("2e3x", "3"),  # a name, not 2000
        ("#### - 5", "-5"),
        ("#### − $5", "-5"),
        ("####\n- 5 apples", "5"),  # an item of a list
        ("18 - 20", "20"),
    ],
)
def test_the_final_number_by_hand(response: str, number: str) -> None:
    assert final_number(response) == Decimal(number)
    assert gsm8k(f"So it is {number}.\n#### {number}", response) == 1.0
    assert gsm8k(f"#### {Decimal(number) + 1}", response) == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        " ",
        "eighteen",
        "####",
        "It is 18 or so. ####",
        "It is 18. #### eighteen",
        "٣",
        "NaN",
        "inf",
        "-",
        "$",
        ",.,",
        # what ends in figures that are no number, or have more than one reading
        "(2,3)",
        "#### 2,3",
        "#### 1,23",
        "1,0000",
        "18, 000",
        "#### 18, 000",
        "#### 18 000",
        "18.3.1",
        "36/2",
        "#### 36/2",
        "#### 17 2/2",
        "of 18 he takes 1/18",
        "36 / 2",
        "\\boxed{\\frac{1}{18}}",
        "#### \\dfrac{18}{2}",
    ],
)
def test_no_number_is_wrong(response: str) -> None:
    assert final_number(response) is None
    assert gsm8k("#### 18", response) == 0.0


def test_listing_numbers_does_not_find_the_answer() -> None:
    everything = " ".join(map(str, range(1000)))
    assert gsm8k("#### 18", everything) == 0.0
    assert gsm8k("#### 18", " ".join(f"#### {n}" for n in range(1000))) == 0.0
    assert gsm8k("#### 18", "1" * 10_000) == 0.0
    assert gsm8k("#### 18", "18" + "0" * 10_000) == 0.0
    assert gsm8k("#### 18", "18." + "0" * 10_000) == 1.0


@pytest.mark.parametrize(
    "reference", ["", "eighteen", "the answer is 18", "#### none", "18 #### ", "1/2", "#### 1/2", "2,3"]
)
def test_a_reference_without_a_final_number_is_an_error_not_a_zero(reference: str) -> None:
    with pytest.raises(ValueError, match="has no final number; it must end like `#### 18`"):
        gsm8k(reference, "18")


def test_a_bare_number_is_a_reference() -> None:
    assert gsm8k(" 1,018.0\n", "#### 1018") == 1.0


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_every_way_to_write_a_number_is_that_number(number: Decimal) -> None:
    for text in (f"{number}", f"{number:,}", f"${number:,}.", f"**{number}** m", f"{number}000"):
        assert final_number(f"1 + 1 #### {text}") == number
        assert final_number(f"1 + 1 = {text}") == number


def test_every_real_solution_is_its_own_answer(real_data: Path) -> None:
    official = re.compile(r"#### (\-?[0-9\.\,]+)")  # of the data set's own code
    lines = (real_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == 7473
    for answer in answers:
        found = official.search(answer)
        assert found is not None
        assert final_number(answer) == Decimal(found[1].replace(",", ""))
        assert gsm8k(answer, answer) == gsm8k(found[1], answer) == 1.0
        assert gsm8k(answer, answer.replace("####", "The answer is")) == 1.0
        assert gsm8k(answer, answer + "1") == gsm8k(answer, answer[: answer.index("####") + 4]) == 0.0


@pytest.mark.parametrize(
    ("pattern", "response", "value"),
    [
        ("[0-9]+", "123", 1.0),
        ("[0-9]+", "123 ", 0.0),  # the whole response
        (".*", "a\nb", 0.0),
        ("(?s).*", "a\nb", 1.0),
        ("(?i)yes|no", "YES", 1.0),
        ("", "", 1.0),
        (r"(?s)<think>.*</think>\n.*#### -?[0-9]+", "<think>2 and\n2</think>\nSo #### 4", 1.0),
        (r"(?s)<think>.*</think>\n.*#### -?[0-9]+", "So #### 4", 0.0),
    ],
)
def test_the_format_is_matched_by_the_whole_response(pattern: str, response: str, value: float) -> None:
    assert full_match("", response, pattern=pattern) == value


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "(a*)*b",
        "(?:a+?)*",
        r"((\w+\s?)+\.)",
        "x(?:y|z+)*",
        "(?=(a+)+)",
        "(?>(a+)+b)",
        "(a)?(?(1)(b+)+|c)",
        "(a+){2,}",
        "(a+){9}",
        "(a{1,3})+",
        "(?s:(.*,)*)",
    ],
)
def test_a_repeat_of_repeats_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"repeats a repeat, .* possessive, as in \(a\+\+\)\+"):
        full_match("", "", pattern=pattern)


@pytest.mark.parametrize("pattern", ["(a++)+", "(?>a+)+", "(a{3})+", "(ab?)+c*", "a*b*c*", "(a+b)?", "(a|b)*"])
def test_harmless_repeats_are_not(pattern: str) -> None:
    started = time.perf_counter()
    full_match("", "a" * 20_000 + "!", pattern=pattern)
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "missing \\)"), ("a{2,1}", "min repeat"), (3, "must be a text")]
)
def test_what_is_no_pattern_is_an_error(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        full_match("", "", pattern=pattern)
