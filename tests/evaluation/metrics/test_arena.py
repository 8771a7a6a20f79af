"""Strengths from battles: closed forms for two, evalica for several, and what has no finite maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from alignment.evaluation.metrics.arena import ANCHOR, ELO, Battle, bradley_terry, davidson, elo_table


def fought(wins: int, losses: int, ties: int = 0) -> list[Battle]:
    outcomes = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Battle("a", "b", outcome, prompt) for prompt, outcome in enumerate(outcomes)]


def random_battles(n: int = 400, seed: int = 0) -> list[Battle]:
    rng = np.random.default_rng(seed)
    beta = {"w": 0.0, "x": 0.5, "y": 1.0, "z": 2.0}
    battles = []
    for k in range(n):
        i, j = rng.choice(list(beta), 2, replace=False)
        won = float(rng.random() < 1 / (1 + math.exp(beta[j] - beta[i])))
        battles.append(Battle(str(i), str(j), 0.5 if rng.random() < 0.2 else won, k // 4))
    return battles


def test_two_models_are_their_odds() -> None:
    fit = bradley_terry(fought(30, 10)).beta
    assert fit is not None
    assert fit["a"] - fit["b"] == pytest.approx(math.log(3))
    table = elo_table(fought(30, 10), seed=0)
    assert table["a"].value == pytest.approx(ANCHOR + ELO * math.log(3) / 2)
    assert ELO * math.log(10) == pytest.approx(400)


def test_davidsons_two_items() -> None:
    """60 wins, 30 defeats, 30 ties: the strengths are 2 to 1 and ν = 30 / √(60·30)."""
    fit = davidson(fought(60, 30, 30))
    assert fit.beta is not None
    assert math.exp(fit.beta["a"] - fit.beta["b"]) == pytest.approx(2.0)
    assert fit.nu == pytest.approx(0.7071, abs=5e-5)


def test_davidson_is_a_maximum() -> None:
    battles = random_battles()
    fit = davidson(battles)
    assert fit.beta is not None
    assert fit.nu is not None

    def likelihood(beta: dict[str, float], nu: float) -> float:
        total = 0.0
        for battle in battles:
            i, j = math.exp(beta[battle.first]), math.exp(beta[battle.second])
            tie = nu * math.sqrt(i * j)
            total += math.log({1.0: i, 0.0: j, 0.5: tie}[battle.outcome] / (i + j + tie))
        return total

    best = likelihood(fit.beta, fit.nu)
    for step in (-0.02, 0.02):
        assert likelihood(fit.beta, fit.nu + step) < best
        for name in fit.beta:
            assert likelihood(fit.beta | {name: fit.beta[name] + step}, fit.nu) < best
    plain = [battle for battle in battles if battle.outcome != 0.5]
    assert davidson(plain).beta == pytest.approx(bradley_terry(plain).beta)
    assert davidson(plain).nu == 0.0


def test_several_models_are_evalicas() -> None:
    import evalica

    battles = random_battles()
    sides = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [b.first for b in battles],
        [b.second for b in battles],
        [sides[b.outcome] for b in battles],
        tolerance=1e-12,
        limit=10_000,
    ).scores
    log = np.log(theirs) - np.log(theirs).mean()
    assert bradley_terry(battles).beta == pytest.approx(log.to_dict(), abs=1e-6)
    assert bradley_terry(battles[::-1]).beta == pytest.approx(log.to_dict(), abs=1e-6)


def test_intervals_draw_prompts() -> None:
    once = random_battles(100)
    apart = [Battle(b.first, b.second, b.outcome, None) for b in once]
    copied = [Battle(b.first, b.second, b.outcome, k) for k, b in enumerate(apart) for _ in range(4)]

    def width(battles: list[Battle]) -> float:
        found = elo_table(battles, seed=0)["z"]
        assert found.high is not None
        assert found.low is not None
        return found.high - found.low

    assert width(copied) == pytest.approx(width(apart), rel=1e-6)  # four copies of a prompt tell nothing new
    alone = [Battle(b.first, b.second, b.outcome) for b in copied]
    assert width(alone) < 0.7 * width(copied)


def test_no_finite_strength() -> None:
    for battles in ([], fought(3, 0), [*fought(2, 2), Battle("c", "d", 0.5)]):
        assert bradley_terry(battles).beta is None
        assert davidson(battles).beta is None
    assert davidson(fought(3, 0, 2)).beta is None  # b never won: the odds of a win grow for ever
    assert all(found.value is None for found in elo_table(fought(3, 0), seed=0).values())
    assert "never lost" in elo_table(fought(3, 0), seed=0)["a"].method


def test_strengths_are_finite_where_scipy_finds_one_strong_component() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        n = int(rng.integers(2, 8))
        cycle = [(i, (i + 1) % n) for i in range(n)]  # the longest way round, some of it missing
        met = [pair for pair in cycle if rng.random() < 0.95] + [tuple(rng.choice(n, 2, replace=False))]
        table = np.zeros((n, n))
        for i, j in met:
            table[i, j] = 1
        names = sorted({name for pair in met for name in pair})
        one = connected_components(table[np.ix_(names, names)], directed=True, connection="strong")[0] == 1
        assert (bradley_terry([Battle(str(i), str(j), 1.0) for i, j in met]).beta is not None) == one
        seen.add((one, n))
    assert len(seen) == 12


def test_ties_only_and_one_battle() -> None:
    assert bradley_terry(fought(0, 0, 5)).beta == pytest.approx({"a": 0.0, "b": 0.0})
    assert davidson(fought(0, 0, 5)).reason == "undefined: every battle is a tie"
    for anchor in (None, "b"):
        tied = elo_table(fought(0, 0, 5), seed=0, anchor=anchor)["a"]
        assert (tied.value, tied.low, tied.high) == (pytest.approx(ANCHOR), None, None)
        assert "resamples of prompts agree" in tied.method
    one = elo_table(fought(0, 0, 1), seed=0)["a"]
    assert one.value == pytest.approx(ANCHOR)
    assert one.low is None


def test_what_is_refused() -> None:
    for bad in (Battle("a", "b", 0.7), Battle("a", "b", float("nan")), Battle("a", "a", 1.0)):
        with pytest.raises(ValueError, match="of two different models"):
            bradley_terry([bad])


def test_an_anchor_is_fixed_in_every_resample() -> None:
    battles = [Battle("a", "b", float(i % 3 == 0), i) for i in range(40)]
    battles += [Battle("b", "c", 0.5 if i % 4 == 0 else float(i % 2), i) for i in range(40)]
    free, fixed = elo_table(battles, seed=3), elo_table(battles, seed=3, anchor="b")
    assert (fixed["b"].value, fixed["b"].low, fixed["b"].high) == (1000.0, None, None)
    values = {name: (free[name].value, fixed[name].value) for name in free}
    shift = 1000.0 - values["b"][0]  # type: ignore[operator]
    assert all(there == pytest.approx(here + shift) for here, there in values.values())  # type: ignore[operator]
    # of two models, the distance is all there is: twice as wide as from their mean
    two = battles[:40]
    mean, anchored = elo_table(two, seed=3)["a"], elo_table(two, seed=3, anchor="b")["a"]
    assert anchored.high - anchored.low == pytest.approx(2 * (mean.high - mean.low))  # type: ignore[operator]
    with pytest.raises(ValueError, match="z has no battles"):
        elo_table(battles, seed=3, anchor="z")
