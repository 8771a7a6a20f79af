"""The reward stages: settings that fit their loss, records that reach it, and whole runs on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from pydantic import ValidationError
from tiny_run import alignment, training_log, write_records

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import EvalContext
from alignment.evaluation.benchmarks.reward.reward_accuracy import RewardAccuracy
from alignment.evaluation.benchmarks.reward.reward_details import pairs_of
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    dump,
)
from alignment.preferences.sources import DataSpec, load
from alignment.registry import ModelRegistry
from alignment.runs import RunContext
from alignment.scorers import reward_model_from
from alignment.stages import process_reward, reward
from alignment.stages.ranking_loss import LOSSES
from alignment.stages.reward import RewardSettings
from alignment.stages.rows import ranking_rows, step_rows
from reward.ensemble import AGGREGATES
from reward.losses import RANKING_LOSSES, options_of
from reward.model import RewardModel
from reward.steps import STEP_SCORES

# --- settings --------------------------------------------------------------------------------------------------------


def settings(**given: Any) -> RewardSettings:
    return RewardSettings(data="prefs", **given)


def test_what_is_known_without_torch_equals_the_tables() -> None:
    for loss in RANKING_LOSSES:
        assert set(LOSSES[loss].values()) == set(options_of(loss)), loss
        assert settings(loss=loss).options().keys() <= options_of(loss).keys()
    choices = RewardSettings.model_fields["aggregate"].annotation.__args__  # type: ignore[union-attr]
    assert set(choices) == set(AGGREGATES)
    choices = process_reward.ProcessRewardSettings.model_fields["aggregate"].annotation.__args__  # type: ignore[union-attr]
    assert set(choices) == set(STEP_SCORES)


def test_the_options_reach_the_loss_under_its_own_names() -> None:
    assert settings().options() == {"margin_scale": 0.0}  # stated margins count only when asked for
    assert settings(margin_scale=2).options() == {"margin_scale": 2.0}
    assert settings(loss="davidson").options() == {}
    assert settings(loss="davidson", tie_parameter=0.5).options() == {"nu": 0.5}
    assert settings(loss="rao_kupper", tie_parameter=3).options() == {"theta": 3.0}
    assert settings(loss="plackett_luce").options() == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "placket_luce"}, "unknown loss 'placket_luce'; nearest: plackett_luce"),
        (
            {"loss": "plackett_luce", "margin_scale": 1.0},
            "plackett_luce does not read margin_scale, only bradley_terry",
        ),
        ({"tie_parameter": 1.0}, "bradley_terry does not read tie_parameter, only davidson, rao_kupper"),
        ({"loss": "rao_kupper", "tie_parameter": 1.0}, "rao_kupper's theta and must be above 1"),
        ({"loss": "davidson", "tie_parameter": 0.0}, "greater than 0"),
        ({"aggregate": "worst"}, "aggregate needs several heads"),
        ({"heads": 0}, "greater than or equal to 1"),
        ({"weights": "votes"}, "'records' or 'annotators'"),
    ],
)
def test_settings_without_effect_or_sense_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**given)


# --- rows ------------------------------------------------------------------------------------------------------------


def record(question: str, *orders: list[list[int]], strength: float | None = None) -> PreferenceRecord:
    """Three responses; one annotator per order of their positions."""
    texts = ("Yes.", "No, never.", "It may be so.")
    responses = tuple(Response(messages=(Message(role="assistant", content=text),)) for text in texts)
    judgements = tuple(
        Judgement(
            id=UUID(int=number),
            annotator=Annotator(id=f"a{number}", kind="human"),
            orders=(Order(tiers=tuple(tuple(responses[i].id for i in tier) for tier in tiers), strength=strength),),
        )
        for number, tiers in enumerate(orders, 1)
    )
    prompt = Prompt(messages=(Message(role="user", content=question),))
    return PreferenceRecord(prompt=prompt, responses=responses, judgements=judgements)


def context(folder: Path, records: list[PreferenceRecord] | Path) -> RunContext:
    if isinstance(records, Path):
        spec = DataSpec(source=str(records), format="trl", split="all")
    else:
        path = folder / "records.jsonl"
        path.write_text("".join(f"{dump(r)}\n" for r in records), encoding="utf-8")
        spec = DataSpec(source=str(path), split="all")
    return RunContext(
        run="tiny",
        run_dir=folder,
        folder=folder,
        stage="reward",
        key="k",
        seed=1,
        chat_template=None,
        recipe_digest="d",
        registry=ModelRegistry(folder / "registry"),
        inputs={},
        input_digests={},
        data={"train": spec},
        data_digests={"train": load(spec).digest},
        say=lambda line: None,
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_rows_hold_everything_that_was_said(tmp_path: Path, tokenizer: Any) -> None:
    made = record("Why?", [[2], [0]], [[0, 2]], strength=2.0)  # nobody compared the second response
    (row,), use = ranking_rows(context(tmp_path, [made]), "train", tokenizer, 512, ties=True, by_annotators=True)
    assert len(row["responses"]) == 2
    assert row["wins"] == [[0.0, 0.0], [0.5, 0.0]]
    assert row["ties"] == [[0.0, 0.5], [0.5, 0.0]]
    assert row["margins"] == [[None, -1.0], [1.0, None]]  # 2 of one annotator, 0 of the other
    assert row["tiers"] == [[1, 0], [0, 0]]
    assert row["tier_weights"] == (0.5, 0.5)
    assert row["weight"] == 2.0
    assert use.n_used == 1


def test_a_record_of_ties_is_kept_for_losses_that_know_them_and_counted_for_others(
    tmp_path: Path, tokenizer: Any
) -> None:
    records = [record("Why?", [[0, 1, 2]]), record("How?", [[0], [1, 2]])]
    rows, use = ranking_rows(context(tmp_path, records), "train", tokenizer, 512)
    assert [row["id"] for row in rows] == [records[1].id]
    assert use.dropped == {"all responses tied": 1}
    rows, use = ranking_rows(context(tmp_path, records), "train", tokenizer, 512, ties=True)
    assert {row["id"] for row in rows} == {r.id for r in records}
    assert use.dropped == {}
    assert all("weight" not in row for row in rows)


def steps_file(folder: Path, n: int = 24) -> Path:
    rows = [
        {"prompt": f"What is {i} + {i}?", "completions": [f"{i} + {i}", f"= {2 * i}"], "labels": [True, i % 2 == 0]}
        for i in range(n)
    ]
    path = folder / "steps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_step_rows_end_where_their_steps_end(tmp_path: Path, tokenizer: Any) -> None:
    rows, use = step_rows(context(tmp_path, steps_file(tmp_path, 3)), "train", tokenizer, 512, "correct", "\n")
    assert sorted(row["labels"] for row in rows) == [(1.0, 0.0), (1.0, 1.0), (1.0, 1.0)]
    for row in rows:
        assert row["ends"][-1] == len(row["row"]) - 1
        assert tokenizer.decode(row["row"].ids[: row["ends"][0] + 1]).endswith("\n")
    assert use.n_used == 3
    with pytest.raises(DataError, match="none of 3 records can be used: 3 longer than max_length tokens"):
        step_rows(context(tmp_path, steps_file(tmp_path, 3)), "train", tokenizer, 8, "correct", "\n")
    with pytest.raises(DataError, match="none of 3 records can be used: 3 no step has the label"):
        step_rows(context(tmp_path, steps_file(tmp_path, 3)), "train", tokenizer, 512, "right", "\n")


@pytest.mark.parametrize(("steps", "separator"), [(["a = 1\n\nb = 2", "3"], "\n\n"), (["a\n", "b"], "\n\n")])
def test_steps_that_would_be_scored_as_others_are_refused_by_record(
    tmp_path: Path, tokenizer: Any, steps: list[str], separator: str
) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(json.dumps({"prompt": "What?", "completions": steps, "labels": [True, False]}) + "\n")
    with pytest.raises(DataError, match=r"record \S+: a step holds the separator '\\n\\n' or part of it.* its 2 steps"):
        step_rows(context(tmp_path, path), "train", tokenizer, 512, "correct", separator)
    rows, _ = step_rows(context(tmp_path, path), "train", tokenizer, 512, "correct", " | ")
    assert rows[0]["labels"] == (1.0, 0.0)


def test_margins_that_nobody_stated_cannot_be_scaled(tmp_path: Path, tiny_model_dir: Path) -> None:
    made = context(tmp_path, [record("Why?", [[0], [1], [2]])])
    changed = RunContext(**{**vars(made), "inputs": {"model": f"path:{tiny_model_dir}"}})
    with pytest.raises(DataError, match="no judgement states a strength, so margin_scale has no effect"):
        reward.run(changed, settings(margin_scale=1.0))


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_kind_of_reward_model_is_trained_stored_and_judges(tmp_path: Path, tiny_model_dir: Path) -> None:
    trainer = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 3, "save_strategy": "no"}
    ranked = {"data": "prefs", "trainer": trainer}
    heads = {"heads": 3, "aggregate": "worst", "peft": {"r": 4}, "weights": "annotators"}
    recipe = {
        "name": "tiny",
        "base": f"path:{tiny_model_dir}",
        "data": {
            "prefs": {"source": str(write_records(tmp_path / "records.jsonl"))},
            "steps": {"source": str(steps_file(tmp_path)), "format": "trl"},
        },
        "stages": [
            {"reward": {**ranked, "name": "luce", "loss": "plackett_luce", "length_coefficient": 0.01, **heads}},
            {"reward": {**ranked, "name": "davidson", "loss": "davidson", "tie_parameter": 0.5}},
            {"reward": {**ranked, "name": "rao", "loss": "rao_kupper"}},
            {"process_reward": {"data": "steps", "separator": "\n", "trainer": trainer}},
            {"evaluate": {"data": "prefs", "models": ["base"], "suites": ["helpfulness"], "max_new_tokens": 8}},
            {"report": {}},
        ],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = alignment(tmp_path, "run", "tiny.yaml")
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    for stage in ("luce", "davidson", "rao", "process_reward"):
        logs = training_log(tmp_path, stage)
        assert [row["step"] for row in logs] == [1, 2, 3]
        name = "step_accuracy" if stage == "process_reward" else "accuracy"
        assert all(0 <= row[name] <= 1 for row in logs), stage
    page = (tmp_path / "runs/tiny/report/index.html").read_text(encoding="utf-8")
    assert "process reward model" in page
    assert all(row["head_spread"] > 0 for row in training_log(tmp_path, "luce"))
    folder = tmp_path / "registry" / "tiny-luce" / "1"
    config = json.loads(next(folder.rglob("config.json")).read_text())
    assert config["reward_model"] == {"aggregate": "worst", "heads": 3}
    config = json.loads(next((tmp_path / "registry" / "tiny-process_reward" / "1").rglob("config.json")).read_text())
    assert config["reward_model"] == {"aggregate": "product", "separator": "\n"}
    records = load(DataSpec(source=str(tmp_path / "records.jsonl"))).records
    for stage, ties in (("davidson", ("davidson", 0.5)), ("rao", ("rao_kupper", 2.0))):
        scorer = reward_model_from(f"tiny-{stage}@1", ModelRegistry(tmp_path / "registry"))
        assert isinstance(scorer, RewardModel)
        assert (scorer.ties, scorer.heads) == (ties, 1)
        asked = EvalContext({}, lambda name: (None, None), tmp_path, 0, records=records, scorers={stage: scorer})
        sample = RewardAccuracy().predict(asked, stage, None)[0]
        assert [pair.ties for pair in pairs_of(json.loads(json.dumps([sample])))] == [ties] * 3
