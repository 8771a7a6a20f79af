"""What a stage's data lacks is said before the first stage trains, not when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from alignment import pipeline
from alignment.errors import DataError, RecipeError
from alignment.preferences.importers.conversation import Messages
from alignment.preferences.record import Annotator, Judgement, Label, Message, Order, PreferenceRecord, Prompt, Response
from alignment.preferences.store import write_records
from alignment.recipe import parse_recipe
from alignment.registry import ModelRegistry

SFT: dict[str, Any] = {"sft": {"data": "good"}}
REFERENCE = [{"rule": "reference_f1"}]


def turn(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def of(
    *responses: Messages, orders: Sequence[tuple[str, str]] = (), right: Sequence[int] = ()
) -> Callable[[int], PreferenceRecord]:
    """Makes record `i`.

    `orders`: criterion, and `>` or `=` for its first and last response. `right`: steps of the first one that are.
    """

    def make(i: int) -> PreferenceRecord:
        record = PreferenceRecord(
            prompt=Prompt(messages=(Message(role="user", content=f"Question {i}?"),)),
            responses=tuple(Response(messages=one) for one in responses),
            split="train" if i % 2 else "test",
        )
        first, last = record.responses[0].id, record.responses[-1].id
        ways = {">": ((first,), (last,)), "=": ((first, last),)}
        judgement = Judgement(
            id=UUID(int=i + 1),
            annotator=Annotator(id="a", kind="human"),
            orders=tuple(Order(criterion=criterion, tiers=ways[sign]) for criterion, sign in orders),
            labels=tuple(Label(response_id=first, name="correct", value=True, index=step) for step in right),
        )
        return record.model_copy(update={"judgements": (judgement,)} if orders or right else {})

    return make


DATA: dict[str, Callable[[int], PreferenceRecord]] = {
    "good": of(turn("Yes."), turn("No."), orders=[("overall", ">")]),
    "unjudged": of(turn("Yes."), turn("No.")),
    "tied": of(turn("Yes."), turn("No."), orders=[("overall", "=")]),
    "two_criteria": of(turn("Yes."), turn("No."), orders=[("helpful", ">"), ("harmless", "=")]),
    "steps": of((*turn("One.\n\nTwo."), *turn("Three.")), right=[0]),
}
LACKING: list[tuple[dict[str, Any], str]] = [
    # reference answers for a rule that compares with one
    (
        {"ppo": {"data": "unjudged", "reward": REFERENCE}},
        r"ppo: reference_f1: rule reference_f1 compares with reference answers, and .*unjudged.jsonl has none; use",
    ),
    ({"grpo": {"data": "unjudged", "reward": [{"rule": "length"}], "watch": REFERENCE}}, "unjudged.jsonl has none"),
    ({"rejection_sample": {"data": "unjudged", "reward": REFERENCE, "top_share": 0.5}}, "unjudged.jsonl has none"),
    (
        {"best_of_n": {"data": "unjudged", "reward": [{"rule": "length"}], "watch": REFERENCE}},
        "best_of_n: reference_f1: .*unjudged.jsonl has none",
    ),
    ({"rank": {"data": "unjudged", "reward": REFERENCE}}, "unjudged.jsonl has none"),
    ({"rank": {"data": "good", "references": "unjudged", "reward": REFERENCE}}, "unjudged.jsonl has none"),
    # references that a judge can read
    ({"evaluate": {"data": "good", "models": ["sft"], "scorers": ["gsm8k"]}}, "evaluate: scorers: rule gsm8k, prompt "),
    # a criterion to find the best answer by
    ({"sample": {"data": "two_criteria"}}, r"several criteria \(harmless, helpful\); choose one"),
    ({"rloo": {"data": "two_criteria", "reward": [{"rule": "length"}]}}, r"several criteria \(harmless, helpful\)"),
    # something decided
    ({"dpo": {"data": "tied"}}, "tied.jsonl: none of 20 records can be used as pairs: 20 "),
    (
        {"reward": {"data": "tied"}},
        r"tied.jsonl: reward: the responses of all 20 ranked records are tied, .* davidson, plackett_luce, rao_kupper",
    ),
    ({"dpo_rankings": {"data": "tied", "loss": "bradley_terry"}}, "dpo_rankings: the responses of all 20 ranked rec"),
    # a stated strength
    ({"dpo": {"data": "good", "loss_options": {"margin_scale": 1.0}}}, "good.jsonl: no judgement states a strength"),
    ({"reward": {"data": "good", "margin_scale": 1.0}}, "good.jsonl: no judgement states a strength"),
    # steps that are the same ones when they are scored
    ({"process_reward": {"data": "steps"}}, "its 2 steps would be scored as 3 others; give another separator"),
    # as many prompts as a step takes
    (
        {"grpo": {"data": "good", "reward": [{"rule": "length"}], "trainer": {"per_device_train_batch_size": 96}}},
        r"good.jsonl \(train\): 20 prompts, but a step takes 24 \(96 answers, 4 to each\); lower per_device_train",
    ),
    # the items of a benchmark that has to run
    ({"evaluate": {"data": "good", "models": ["sft"], "suites": ["bbq"]}}, "bbq: .*give the file: --data bbq=FILE"),
]


@pytest.fixture
def start(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], bool]:
    """Begins a run of SFT and a stage, and says whether anything would have been trained."""
    begun: list[bool] = []

    def begin(*rest: Any) -> dict[str, Any]:
        begun.append(True)
        return {}

    monkeypatch.setattr(pipeline, "_run_stages", begin)
    for name, make in DATA.items():
        write_records(tmp_path / f"{name}.jsonl", [make(i) for i in range(40)])

    def run(stage: dict[str, Any]) -> bool:
        data = {name: {"source": str(tmp_path / f"{name}.jsonl")} for name in DATA}
        raw = {"name": "tiny", "base": f"path:{tiny_model_dir}", "data": data, "stages": [SFT, stage]}
        recipe = parse_recipe(raw, "x.yaml")
        pipeline.run(recipe, tmp_path / "run", ModelRegistry(tmp_path / "registry"), lambda line: None)
        return bool(begun)

    return run


@pytest.mark.parametrize(("stage", "message"), LACKING, ids=[next(iter(stage)) for stage, _ in LACKING])
def test_what_the_last_stage_lacks_stops_the_run_before_the_first(
    stage: dict[str, Any], message: str, start: Callable[[dict[str, Any]], bool]
) -> None:
    with pytest.raises(DataError, match=message):
        start(stage)


def test_a_judge_that_is_asked_for_is_missed_before_the_first_stage(start: Callable[[dict[str, Any]], bool]) -> None:
    with pytest.raises(RecipeError, match="judged_wins: needs a judge"):
        start({"evaluate": {"data": "good", "models": ["sft"], "suites": ["judged_wins"]}})


@pytest.mark.parametrize(
    "stage",
    [
        {"ppo": {"data": "good", "reward": REFERENCE}},  # the best answer is one to compare with
        {"ppo": {"data": "unjudged", "reward": [{"rule": "length"}]}},
        {"rank": {"data": "unjudged", "references": "good", "reward": REFERENCE}},
        {"evaluate": {"data": "unjudged", "models": ["sft"]}},  # what lacks a reference is left unscored
        {"evaluate": {"data": "good", "models": ["sft"], "suites": ["bias", "helpfulness"]}},  # whose data is at hand
        {"reward": {"data": "tied", "loss": "plackett_luce"}},
        {"kto": {"data": "good"}},
        {"process_reward": {"data": "steps", "separator": "##"}},
    ],
    ids=lambda stage: next(iter(stage)),
)
def test_nothing_is_asked_that_the_stage_can_do_without(
    stage: dict[str, Any], start: Callable[[dict[str, Any]], bool]
) -> None:
    assert start(stage)
