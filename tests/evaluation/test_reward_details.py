"""What stands beside a reward model's accuracy: numbers by hand, intervals that hold the truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.evaluation.benchmarks.benchmark import EvalContext
from alignment.evaluation.benchmarks.reward.reward_accuracy import RewardAccuracy, _criteria, _facts
from alignment.evaluation.benchmarks.reward.reward_details import (
    FEWEST_VOTES,
    Finding,
    by_annotator,
    by_group,
    by_length,
    calibration,
    pairs_of,
)
from alignment.evaluation.metrics.judged import JudgedPair
from alignment.preferences.record import (
    Annotator,
    Flags,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    Source,
    judgement_id,
)
from reward.rules import RuleScorer


def sample(name: str, scores: list[Any], lengths: list[int], **more: Any) -> dict[str, Any]:
    """Two responses; by default annotator a prefers the first."""
    row = {"id": name, "group": name, "scores": scores, "lengths": lengths, "wins": [[0.0, 1.0], [0.0, 0.0]]}
    return row | {"ballots": {"a": [[0, 1, 1]]}, "facts": {}, "criteria": {}, "ties": None} | more


def found(findings: list[Finding], metric: str, group: str | None = None) -> Finding:
    [one] = [one for one in findings if (one.metric, one.group) == (metric, group)]
    return one


def test_length_preference_of_the_model_beside_that_of_the_annotators() -> None:
    rows = [
        sample("1", [2.0, 1.0], [30, 10]),  # both prefer the longer
        sample("2", [1.0, 2.0], [10, 20]),  # the model prefers the longer, the annotator the shorter
        sample("3", [1.0, 1.0], [30, 20]),  # the scores tie, the annotator prefers the longer
        sample("4", [2.0, 1.0], [20, 20]),  # no longer response
        sample("5", [None, 1.0], [20, 10]),
        sample("6", [2.0, 1.0], [30, 10], ballots={"a": [[0, 1, 1]], "b": [[0, 1, -1]]}),  # undecided
    ]
    findings = by_length(rows, pairs_of(rows), 0)
    model, people = found(findings, "longer_preferred"), found(findings, "longer_preferred_annotators")
    assert (model.interval.value, model.interval.n, model.n_unscored) == (pytest.approx(2.5 / 3), 3, 1)
    assert (people.interval.value, people.interval.n, people.n_unscored) == (pytest.approx(2 / 3), 3, 1)
    beyond = found(findings, "longer_preferred_difference")
    assert beyond.interval.value == pytest.approx(0.5 / 3)
    assert beyond.more["compared_to"] == "the annotators"
    assert found(findings, "length_correlation").n_unscored == 2  # responses of the record without all scores


def test_correlation_within_prompts_is_not_that_over_all() -> None:
    """Longer prompts have longer answers and lower scores; within each the longer answer scores higher."""
    rows = [sample(str(i), [-10.0 * i + 1, -10.0 * i], [100 * i + 20, 100 * i + 10]) for i in range(8)]
    findings = by_length(rows, pairs_of(rows), 0)
    overall, within = found(findings, "length_correlation"), found(findings, "length_correlation_within")
    assert overall.interval.value == pytest.approx(-1.0, abs=0.1)
    assert within.interval.value == 1.0
    assert (within.interval.low, within.interval.high) == (None, None)  # every resample says 1
    assert overall.interval.low is not None


def drawn_pairs(seed: int, trust: float, n: int = 150) -> list[JudgedPair]:
    """Two pairs to a prompt; votes agree with σ(difference) as far as `trust` says: 1 is calibrated, 0 is chance."""
    rng = np.random.default_rng(seed)
    pairs = []
    for prompt in range(n):
        for difference in rng.normal(0, 2, 2).tolist():
            share = 0.5 + trust * (1 / (1 + np.exp(-abs(difference))) - 0.5)
            sign = 1 if difference > 0 else -1
            pairs.append(JudgedPair(prompt, {}, difference, (1, 2), {"a": sign if rng.random() < share else -sign}))
    return pairs


def test_the_calibration_interval_holds_0_for_a_calibrated_model_and_not_for_a_boaster() -> None:
    honest = [calibration(drawn_pairs(seed, 1.0), seed)[0].interval for seed in range(8)]
    assert sum(one.low == 0.0 for one in honest) >= 7
    assert all((one.value or 0) > 0 for one in honest)  # the estimate itself is biased upward
    confidence = 1 / (1 + np.exp(-np.abs(np.random.default_rng(0).normal(0, 2, 100_000))))
    truth = 0.7 * float(np.mean(confidence - 0.5))
    boasting = [calibration(drawn_pairs(seed, 0.3), seed)[0].interval for seed in range(4)]
    for one in boasting:
        assert one.low is not None
        assert one.high is not None
        assert 0 < one.low < truth < one.high


def test_a_calibration_error_that_no_resample_moves_has_no_interval() -> None:
    [error, *_] = calibration([JudgedPair(i, {}, 2.0, (1, 2), {"a": 1}) for i in range(12)], 0)
    assert error.interval.value == pytest.approx(1 - 1 / (1 + np.exp(-2.0)))
    assert (error.interval.low, error.interval.high) == (None, None)
    assert "no interval" in error.interval.method


def test_the_diagram_adds_up_to_the_error_and_takes_vote_shares() -> None:
    rows = [
        sample(
            "1", [3.0, 0.0], [1, 1], ballots={"a": [[0, 1, 1]], "b": [[0, 1, 0]], "c": [[0, 1, -1]], "d": [[0, 1, 1]]}
        ),
        sample("2", [3.2, 0.0], [1, 1]),
        sample("3", [0.0, 0.1], [1, 1]),
        sample("4", [0.0, None], [1, 1]),
    ]
    findings = calibration(pairs_of(rows), 0)
    error = found(findings, "calibration_error")
    assert (error.interval.n, error.n_unscored) == (3, 1)
    top, bottom = "90% to 100%", "50% to 60%"
    observed, stated = found(findings, "reliability", top), found(findings, "stated_confidence", top)
    assert observed.interval.value == pytest.approx((2.5 / 4 + 1) / 2)
    assert found(findings, "reliability", bottom).interval.value == 0.0
    gaps = [
        one.interval.n
        * abs((one.interval.value or 0) - (found(findings, "stated_confidence", one.group).interval.value or 0))
        for one in findings
        if one.metric == "reliability"
    ]
    assert error.interval.value == pytest.approx(sum(gaps) / 3)
    assert (stated.interval.n, stated.interval.low) == (2, None)


@pytest.mark.parametrize("ties", [["davidson", 1.0], ["rao_kupper", 2.0]])
def test_a_model_of_ties_that_is_right_has_no_calibration_error(ties: list[Any]) -> None:
    """Votes in the shares that the model itself expects; σ(difference) would be too sure by 2 to 9 points."""
    rows = []
    for difference in (0.5, 1.0, 1.5, 2.0):
        a, b = math.exp(difference / 2), math.exp(-difference / 2)
        if ties[0] == "davidson":
            won, lost = a / (a + b + ties[1]), b / (a + b + ties[1])
        else:
            won, lost = a / (a + ties[1] * b), b / (b + ties[1] * a)
        n_won, n_lost = round(1000 * won), round(1000 * lost)
        votes = [1] * n_won + [-1] * n_lost + [0] * (1000 - n_won - n_lost)
        ballots = {f"a{i}": [[0, 1, vote]] for i, vote in enumerate(votes)}
        rows.append(sample(str(difference), [difference, 0.0], [1, 1], ballots=ballots, ties=ties))
    error = found(calibration(pairs_of(rows), 0), "calibration_error")
    assert error.interval.value == pytest.approx(0, abs=1e-3)
    assert error.label == f"expected calibration error of P(above) + P(tie)/2 of {ties[0]}"
    plain = found(calibration(pairs_of([row | {"ties": None} for row in rows]), 0), "calibration_error")
    assert (plain.interval.value or 0) > 0.015


def test_groups_and_criteria_count_what_could_not_be_scored() -> None:
    swapped = [[0.0, 0.0], [1.0, 0.0]]
    both = {"helpful": [[0.0, 1.0], [0.0, 0.0]], "harmless": swapped}
    rows = [
        sample("1", [2.0, 1.0], [30, 10], facts={"harm": "found"}, criteria=both),
        sample("2", [1.0, 2.0], [10, 30], facts={"harm": "none found"}, criteria=both),
        sample("3", [None, 1.0], [10, 30], facts={"harm": "none found"}, criteria=both),
        sample("4", [2.0, 1.0], [10, 30], facts={"harm": None}),
    ]
    findings = by_group(pairs_of(rows), rows, 0)
    told = {one.group: (one.interval.value, one.interval.n, one.n_unscored) for one in findings}
    assert told == {
        "preferred response: the longer": (1.0, 1, 0),
        "preferred response: the shorter": (0.5, 2, 1),
        "harm: found": (1.0, 1, 0),
        "harm: none found": (0.0, 1, 1),
        "harm: not stated": (1.0, 1, 0),
        "criterion: helpful": (0.5, 2, 1),
        "criterion: harmless": (0.5, 2, 1),
    }
    unscored = [row for row in rows if row["id"] == "3"]
    assert [one.interval.value for one in by_group(pairs_of(unscored), unscored, 0)] == [None, None]


def test_each_annotator_beside_the_majority_of_the_others() -> None:
    n = FEWEST_VOTES
    rows = []
    for i in range(n):
        # a and c prefer the first, b the second; a is silent on half of the prompts, d says too little to be shown
        ballots = {"b": [[0, 1, -1]], "c": [[0, 1, 1]]} | ({"a": [[0, 1, 1]]} if i % 2 else {"d": [[0, 1, 0]]})
        rows.append(sample(str(i), [1.0, 0.0] if i % 4 else [0.0, 0.0], [1, 1], ballots=ballots))
    findings = by_annotator(pairs_of(rows), 0)
    assert {one.group for one in findings} == {"b", "c"}
    for name, right in (("b", 0.0), ("c", 1.0)):
        own = found(findings, "annotator_accuracy", name).interval
        # equal scores on every fourth prompt count 1/2
        assert (own.value, own.n) == (pytest.approx(0.75 * right + 0.125), n)
    # of b's votes: against two others, or against c and a tie; of c's: against a and b, who are divided (1/2), or b
    assert found(findings, "annotator_ceiling", "b").interval.value == 0.0
    assert found(findings, "annotator_ceiling", "c").interval.value == pytest.approx(0.25)


def test_an_annotator_alone() -> None:
    alone = [sample(str(i), [1.0, 0.0], [1, 1]) for i in range(FEWEST_VOTES)]
    assert by_annotator(pairs_of(alone), 0) == []  # the accuracy says it already
    two = [*alone, *(sample(f"b{i}", [1.0, 0.0], [1, 1], ballots={"b": [[0, 1, 1]]}) for i in range(FEWEST_VOTES))]
    findings = by_annotator(pairs_of(two), 0)
    ceiling = found(findings, "annotator_ceiling", "a").interval
    assert (ceiling.value, ceiling.n, ceiling.method) == (None, 0, "nobody else judged these pairs")
    assert found(findings, "annotator_accuracy_shared", "a").interval == ceiling


def test_the_ceiling_stands_beside_the_model_on_the_same_pairs() -> None:
    """Alone, a is contradicted by the model; where b judged too, all three agree."""
    n, both = FEWEST_VOTES, {"a": [[0, 1, 1]], "b": [[0, 1, 1]]}
    rows = [sample(str(i), [0.0, 1.0], [1, 1]) for i in range(n)]
    rows += [sample(f"b{i}", [1.0, 0.0], [1, 1], ballots=both) for i in range(n)]
    rows.append(sample("unscored", [None, 1.0], [1, 1], ballots=both))
    findings = by_annotator(pairs_of(rows), 0)
    told = {
        metric: (one.interval.value, one.interval.n, one.n_unscored)
        for metric in ("annotator_accuracy", "annotator_accuracy_shared", "annotator_ceiling")
        for one in [found(findings, metric, "a")]
    }
    assert told == {
        "annotator_accuracy": (0.5, 2 * n, 1),
        "annotator_accuracy_shared": (1.0, n, 1),
        "annotator_ceiling": (1.0, n, 1),
    }


def record(*orders: tuple[str, list[list[int]]], **more: Any) -> PreferenceRecord:
    """Two responses; `orders`: (criterion, tiers of positions), all of one annotator."""
    responses = tuple(Response(messages=(Message(role="assistant", content=text),)) for text in ("yes", "no"))
    said = tuple(
        Order(criterion=c, tiers=tuple(tuple(responses[i].id for i in t) for t in tiers)) for c, tiers in orders
    )
    judgement = Judgement(id=judgement_id("q", "a"), annotator=Annotator(id="a", kind="human"), orders=said)
    prompt = Prompt(messages=(Message(role="user", content="q"),))
    return PreferenceRecord(prompt=prompt, responses=responses, judgements=(judgement,), **more)


def test_what_a_record_says_of_itself() -> None:
    bare = record(("overall", [[0], [1]]))
    assert _facts(bare) == {"dataset": None, "harm": None, "language": None}
    assert _criteria([bare]) == {}
    full = record(
        ("helpful", [[0], [1]]),
        ("harmless", [[1], [0]]),
        source=Source(dataset="pandalm"),
        flags=Flags(harm=(), language="en"),
    )
    assert _facts(full) == {"dataset": "pandalm", "harm": "none found", "language": "en"}
    assert _facts(record(flags=Flags(harm=("weapons",))))["harm"] == "found"
    assert _criteria([full]) == {full.id: {"harmless": ((0, 0), (1, 0)), "helpful": ((0, 1), (0, 0))}}


def test_every_finding_is_a_result_with_a_label(tmp_path: Path) -> None:
    rows = [
        sample(str(i), [float(i % 3), 1.0], [10, 20 + i], ballots={"a": [[0, 1, 1]], "b": [[0, 1, -1 + i % 3]]})
        for i in range(40)
    ]
    context = EvalContext(
        models={},
        load=lambda name: (None, None),
        out_dir=tmp_path,
        seed=0,
        scorers={"reward": None},  # type: ignore[dict-item]
        trained_scorers=frozenset({"reward"}),
    )
    results = RewardAccuracy().score(context, {"reward": rows})
    assert len({(r.metric, r.group) for r in results}) == len(results)
    assert all(r.label and r.method for r in results)
    assert [r.metric for r in results if r.primary] == ["accuracy"]


def test_real_annotators_against_the_longer_answer(real_data: Path) -> None:
    """PandaLM's three annotators and a scorer that likes length: every share again from the file's own rows."""
    from alignment.preferences.importers.run import import_file

    records = import_file("pandalm", real_data / "pandalm/testset-v1.json").records
    context = EvalContext(
        models={},
        load=lambda name: (None, None),
        out_dir=Path(),
        seed=0,
        records=records,
        scorers={"length": RuleScorer("length")},
        trained_scorers=frozenset({"length"}),
    )
    benchmark = RewardAccuracy()
    results = benchmark.score(context, {"length": benchmark.predict(context, "length", None)})
    told = {(r.metric, r.group): r for r in results}
    rows = [record.raw for record in records]
    longer = [np.sign(len(row["response1"]) - len(row["response2"])) for row in rows]  # type: ignore[index]
    votes = np.array([[(0, 1, -1)[row[f"annotator{n}"]] for n in (1, 2, 3)] for row in rows])  # type: ignore[index]
    for n in range(3):
        own, others = votes[:, n], np.sign(votes.sum(axis=1) - votes[:, n])
        decided = own != 0
        model = told["annotator_accuracy", f"annotator{n + 1}"]
        ceiling = told["annotator_ceiling", f"annotator{n + 1}"]
        assert model.n_scored == ceiling.n_scored == decided.sum() > 500
        assert model.value == pytest.approx(np.mean((1 + (longer * own))[decided]) / 2)
        assert ceiling.value == pytest.approx(np.mean((1 + (others * own))[decided]) / 2)
    majority = np.sign(votes.sum(axis=1))
    unequal = (majority != 0) & (np.array(longer) != 0)
    people = told["longer_preferred_annotators", None]
    assert (people.n_scored, people.value) == (unequal.sum(), pytest.approx(np.mean((majority == longer)[unequal])))
    assert told["longer_preferred", None].value == 1.0
