"""Perplexity and TruthfulQA's multiple choice from log-likelihoods, by hand."""

from __future__ import annotations

import math

import pytest

from alignment.evaluation.metrics.perplexity import bits_per_byte, perplexity
from alignment.evaluation.metrics.truthful import mc1, mc2


def test_perplexity_divides_sums() -> None:
    found = perplexity([-10.0, -3.0, -6.0], [5, 1, 3], seed=0, per="word")
    assert found.value == pytest.approx(math.exp(19 / 9))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    alike = perplexity([-10.0, -2.0, -6.0], [5, 1, 3], seed=0, per="word")
    assert (alike.value, alike.low, alike.high) == (pytest.approx(math.exp(18 / 9)), None, None)
    assert "no interval" in alike.method


def test_a_uniform_model_over_bytes_has_eight_bits() -> None:
    n = [3, 5, 11]
    assert bits_per_byte([-k * math.log(256) for k in n], n, seed=0).value == pytest.approx(8.0)


def test_word_perplexity_is_bits_per_byte_in_other_units() -> None:
    logprobs, words, n_bytes = [-30.0, -44.0], [6, 9], [31, 52]
    bits = bits_per_byte(logprobs, n_bytes, seed=0).value
    assert bits is not None
    assert perplexity(logprobs, words, seed=0, per="word").value == pytest.approx(2 ** (bits * 83 / 15))


def test_perplexity_edges() -> None:
    assert perplexity([], [], seed=0, per="word").value is None
    one = bits_per_byte([-1.0], [2], seed=0)
    assert one.value is not None
    assert one.low is None
    assert "too large" in perplexity([-1e6], [1], seed=0, per="word").method
    assert bits_per_byte([-1.0], [0], seed=0).method == "undefined: every count is 0"
    for logprobs, counts in (([1.0], [1]), ([float("nan")], [1]), ([-1.0], [-1]), ([-1.0, -2.0], [1])):
        with pytest.raises(ValueError, match=r".+"):
            perplexity(logprobs, counts, seed=0, per="word")


def test_mc1_and_mc2() -> None:
    log = math.log
    assert mc1([log(0.5), log(0.4)], 0) == 1.0
    assert mc1([log(0.4), log(0.5)], 0) == 0.0
    assert mc1([log(0.4), log(0.4)], 0) == 0.5
    assert mc2([log(0.2), log(0.1)], [log(0.1), log(0.2)]) == pytest.approx(0.5)
    assert mc2([log(0.3)], [log(0.1)]) == pytest.approx(0.75)
    assert mc2([-2000.0], [-2000.0 - log(3)]) == pytest.approx(0.75)  # exp(-2000) is 0 in floating point


def test_truthful_refusals() -> None:
    with pytest.raises(ValueError, match="true and a false"):
        mc2([], [-1.0])
    for bad in (float("nan"), 0.5, -math.inf):
        with pytest.raises(ValueError, match="log-likelihood"):
            mc2([bad], [-1.0])
