import gc
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from alignment.evaluation.statistics import CORRECTIONS, benjamini_hochberg, holm


def test_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_a_cell_that_was_not_tested_does_not_count() -> None:
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert holm([]) == []
    assert benjamini_hochberg([None, None]) == [None, None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm([0.5, float("nan")])


@pytest.mark.parametrize("name", CORRECTIONS)
@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_corrected_values_are_by_hand_and_follow_their_cells(name: str, p_values: list[float], seed: int) -> None:
    found = CORRECTIONS[name](p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    m, expected = len(p_values), [0.0] * len(p_values)
    if name == "Holm":
        highest = 0.0
        for rank, i in enumerate(order):
            highest = expected[i] = min(1.0, max(highest, (m - rank) * p_values[i]))
    else:
        lowest = 1.0
        for rank, i in reversed(list(enumerate(order, 1))):
            lowest = expected[i] = min(lowest, m * p_values[i] / rank)
    assert found == pytest.approx(expected)
    cells = list(range(m))
    random.Random(seed).shuffle(cells)
    assert CORRECTIONS[name]([p_values[i] for i in cells]) == pytest.approx([found[i] for i in cells])


@pytest.mark.parametrize(("name", "method"), [("Holm", "holm"), ("Benjamini-Hochberg", "fdr_bh")])
def test_they_are_statsmodels(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # it does so in every call, for up to a second
    rng = random.Random(7)
    for n in (1, 2, 3, 7, 40, 500):
        p_values = [round(rng.random() ** 4, 3) if n < 50 else rng.random() ** 4 for _ in range(n)]  # the former tie
        assert CORRECTIONS[name](p_values) == multipletests(p_values, method=method)[1].tolist()
