"""Records that one stage makes and another reads: how a recipe names them, their splits, and results of old runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alignment.errors import RecipeError
from alignment.recipe import Recipe, parse_recipe
from alignment.runs import DataUse, RecordsFile, StageResult

SAMPLE: dict[str, Any] = {"sample": {"data": "prefs"}}
RANK: dict[str, Any] = {"rank": {"data": "sample", "reward": [{"rule": "length"}]}}
DPO: dict[str, Any] = {"dpo": {"data": "rank"}}


def parse(*stages: Any, **data: Any) -> Recipe:
    source = {"prefs": {"source": "prefs.jsonl"}} | data
    return parse_recipe({"name": "x", "base": "path:x", "data": source, "stages": list(stages)}, "x.yaml")


def test_a_stage_hands_its_records_on_by_its_name() -> None:
    recipe = parse(SAMPLE, RANK, DPO)
    assert [[(spec.maker, spec.split) for spec in stage.data.values()] for stage in recipe.stages] == [
        [(None, "train")],
        [("sample", "all")],
        [("rank", "train")],
    ]


def test_a_name_under_data_may_say_more_of_what_a_stage_made_but_is_another() -> None:
    with pytest.raises(RecipeError, match=r"records of this rank stage and a data set are both called 'rank'; give"):
        parse(SAMPLE, RANK, DPO, rank={"source": "mine.jsonl"})
    part = {"source": "stage:rank", "limit": 5, "criterion": "helpful"}
    spec = parse(SAMPLE, RANK, {"dpo": {"data": "part"}}, part=part).stages[-1].data["train"]
    assert (spec.maker, spec.limit, spec.criterion) == ("rank", 5, "helpful")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([SAMPLE, {"dpo": {"data": "sampel"}}], r"'sampel' is neither a name under `data:`, .* nor a file; .*: sample"),
        ([DPO, SAMPLE, RANK], r"'rank' is neither a name under `data:`, nor an earlier stage that makes records"),
        ([{"sft": {"data": "prefs"}}, {"dpo": {"data": "sft"}}], r"'sft' is no earlier stage that makes records"),
        ([{"dpo": {"data": "stage:rank"}}], r"'rank' is no earlier stage that makes records"),
        ([SAMPLE, {"dpo": {"data": "prefs", "model": "sample"}}], r"needs a policy model, but stage sample makes rec"),
        (
            [SAMPLE, RANK, {"dpo": {"data": "rank", "split": "validation"}}],
            r"dpo: rank makes no records of split validation, for it reads none; set another split here or in rank",
        ),
    ],
)
def test_what_cannot_be_handed_on_is_named(stages: list[Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(*stages)


def test_no_evaluation_on_what_was_learned_through_other_stages() -> None:
    evaluate = {"evaluate": {"data": "prefs", "models": ["dpo"], "split": "train"}}
    with pytest.raises(RecipeError, match=r"evaluates on prefs.jsonl split train, which dpo trains on"):
        parse(SAMPLE, RANK, DPO, evaluate)
    everything = {"sample": {"data": "prefs", "split": "all"}}
    learn_all = {"dpo": {"data": "rank", "split": "all"}}
    with pytest.raises(RecipeError, match=r"evaluates on prefs.jsonl split test, which dpo trains on"):
        parse(everything, RANK, learn_all, {"evaluate": {"data": "prefs", "models": ["dpo"]}})
    asks = {"evaluate": {"data": "sample", "models": ["sft"], "split": "train"}}
    with pytest.raises(RecipeError, match=r"evaluates on prefs.jsonl split train, which sft trains on"):
        parse({"sft": {"data": "prefs"}}, SAMPLE, asks)
    parse(everything, RANK, DPO, {"evaluate": {"data": "prefs", "models": ["dpo"]}})  # it learned from train alone


def test_results_read_back_and_so_do_those_of_runs_without_records() -> None:
    file = RecordsFile("stages/sample-0/records.jsonl", "d" * 64, 3)
    result = StageResult({}, {"records": 3.0}, ("note",), (DataUse("prompts", "x", "d", 3, 3),), {"sample": file})
    assert StageResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    old = result.to_json()
    del old["records"]
    assert StageResult.from_json(old).records == {}
