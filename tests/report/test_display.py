"""How numbers and texts are shown."""

from __future__ import annotations

import pytest
from report.fake_results import result

from alignment.evaluation.result import EvalResult
from alignment.report.display import (
    MINUS,
    Shown,
    duration,
    group_name,
    grouped,
    metric_name,
    null_value,
    number,
    remarks,
    shown,
    undefined_reason,
    verdict,
    visible,
)

NARROW = "\u202f"


def made(
    value: float | None = 0.617, half: float = 0.0655, n: int = 200, metric: str = "acc", **more: object
) -> EvalResult:
    return EvalResult.model_validate(result("dpo", "bench", metric, value, half, n) | more)


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (0.617, "share", False, "61.7%"),
        (1.0, "share", False, "100.0%"),
        (0.0, "share", False, "0.0%"),
        (-0.0004, "share", True, f"0.0{NARROW}pp"),
        (0.0, "points", True, "0.00"),
        (-0.017, "share", True, f"{MINUS}1.7{NARROW}pp"),
        (0.9871, "bits/byte", False, "0.987"),
        (0.04449, "bits/byte", True, "+0.044"),
        (812.44, "characters", False, "812"),
        (9999.0, "characters", False, "9999"),
        (12345.6, "characters", False, f"12{NARROW}346"),
        (-1.324, "points", False, f"{MINUS}1.32"),
        (3.14159, "furlongs", False, "3.142"),
        (float("nan"), "share", False, "not finite"),
    ],
)
def test_number(value: float, unit: str, signed: bool, text: str) -> None:
    assert number(value, unit, signed=signed) == text


def test_there_is_no_minus_zero() -> None:
    assert grouped(-0.0, 1) == "0.0"
    assert grouped(-0.04, 1) == "0.0"
    assert grouped(-0.06, 1) == f"{MINUS}0.1"


def test_a_share_with_its_interval() -> None:
    assert shown(made()) == Shown("61.7%", "[55.1, 68.2]", "200", "")


def test_a_difference_is_signed() -> None:
    words = shown(made(-0.017, 0.021, metric="acc_difference", compared_to="base"))
    assert (words.value, words.interval) == (f"{MINUS}1.7{NARROW}pp", f"[{MINUS}3.8, +0.4]")


def test_a_value_without_an_interval_says_so() -> None:
    assert shown(made(ci_low=None)).interval == "no interval"


@pytest.mark.parametrize(
    ("n", "n_unscored", "method", "reason"),
    [
        (0, 0, "", "no items"),
        (0, 40, "", "none of 40 items could be scored"),
        (0, 0, "no data; 0 ties count one half", "no items"),
        (0, 0, "no pair was judged by two annotators", "no pair was judged by two annotators"),
        (7, 0, "all pairs tied", "all pairs tied"),
        (7, 0, "", "undefined on these 7 items"),
        (7, 0, "a variant: undefined, no effect is left", "no effect is left"),
        (7, 0, "a variant: undefined for 7 items, needs 50", "undefined for 7 items, needs 50"),
        (0, 0, "undefined: nothing was learned", "nothing was learned"),
    ],
)
def test_an_undefined_value_is_never_a_number(n: int, n_unscored: int, method: str, reason: str) -> None:
    words = shown(made(None, n=n, n_unscored=n_unscored, method=method))
    assert words == Shown("n/a", "", str(n), reason)


def test_a_defined_value_has_no_reason() -> None:
    assert undefined_reason(made(0.0)) == ""
    assert shown(made(0.0, 0.0)).value == "0.0%"


@pytest.mark.parametrize(
    ("metric", "compared_to", "null"),
    [
        ("win_rate/rules", "base", 0.5),
        ("length_controlled_win_rate/rules", "base", 0.5),
        ("score_difference/rules", "base", 0.0),
        ("acc_difference", "base", 0.0),
        ("tie_rate/rules", "base", None),
        ("win_rate/rules", None, None),
        ("acc", None, None),
    ],
)
def test_the_value_of_no_difference(metric: str, compared_to: str | None, null: float | None) -> None:
    assert null_value(made(metric=metric, compared_to=compared_to)) == null


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.501, 0.7, "higher than 50%"),
        (0.5, 0.7, "no clear difference from 50%"),
        (0.3, 0.5, "no clear difference from 50%"),
        (0.3, 0.499, "lower than 50%"),
        (None, 0.499, ""),
    ],
)
def test_the_interval_decides_what_may_be_said(low: float | None, high: float, text: str) -> None:
    assert verdict(made(metric="win_rate/rules", compared_to="base", ci_low=low, ci_high=high)) == text


def test_where_lower_is_better_the_reading_says_which_side_is_better() -> None:
    worse = made(0.04, 0.01, metric="bits_difference", compared_to="base", higher_is_better=False)
    assert verdict(worse) == "higher than base (worse)"
    better = made(-0.04, 0.01, metric="bits_difference", compared_to="base", higher_is_better=False)
    assert verdict(better) == "lower than base (better)"


def test_what_stands_beside_a_row() -> None:
    assert remarks(made(n_unscored=14)) == "14 not scored"
    win = made(metric="win_rate/rules", compared_to="base", n_unscored=14)
    assert remarks(win) == "higher than 50%; 14 not scored"
    assert remarks(made(None, n_unscored=14)) == ""  # the reason is in the value's place
    assert group_name(made(group="occupation_status")) == "occupation status"


def test_a_level_gets_no_verdict() -> None:
    assert verdict(made()) == ""


@pytest.mark.parametrize(
    ("metric", "label", "unit", "name"),
    [
        ("win_rate/rules", "Win rate", "share", "Win rate (rules)"),
        ("win_rate/rules", "Win rate by rules", "share", "Win rate by rules"),
        ("tie_rate/plain", "", "share", "Bench: tie rate (plain)"),
        ("length_chars", "length", "characters", "Length (characters)"),
        ("acc", "arc_easy accuracy", "share", "arc_easy accuracy"),
    ],
)
def test_metric_name(metric: str, label: str, unit: str, name: str) -> None:
    assert metric_name(made(metric=metric, label=label, unit=unit)) == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "n/a"),
        (0.0, "0 s"),
        (0.2, "under 1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (252.4, "4 min 12 s"),
        (3599.7, "1 h 00 min"),
        (12345.6, "3 h 25 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain\ttext\nover lines", "plain\ttext\nover lines"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a\u2066b\u2069", "a⟨U+2066⟩b⟨U+2069⟩"),
        ("a\x00b\x1b[31m", "a⟨U+0000⟩b⟨U+001B⟩[31m"),
        ("a\r\nb", "a⟨U+000D⟩\nb"),
        ("a\u200bb\u00adc\ufeff", "a⟨U+200B⟩b⟨U+00AD⟩c⟨U+FEFF⟩"),
        ("a\ud800b", "a⟨U+D800⟩b"),
        ("a\U000e0041b", "a⟨U+E0041⟩b"),
        ("👩\u200d🔬 नमस्ते می\u200cخواهم", "👩\u200d🔬 नमस्ते می\u200cخواهم"),
    ],
)
def test_what_hides_is_made_visible(text: str, seen: str) -> None:
    assert visible(text) == seen
    visible(text).encode("utf-8")
