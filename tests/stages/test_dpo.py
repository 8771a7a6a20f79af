"""The dpo stage: what its settings refuse, the rows it reads, and whole runs on a tiny model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from tiny_run import training_log, write_records

from alignment import pipeline
from alignment.errors import DataError, RecipeError
from alignment.preferences.record import Annotator, Judgement, Message, Order, PreferenceRecord, Prompt, Response, dump
from alignment.preferences.sources import DataSpec, load
from alignment.recipe import parse_recipe
from alignment.registry import ModelRegistry
from alignment.runs import RunContext
from alignment.stages import dpo
from alignment.stages.dpo import DPOSettings
from alignment.stages.rows import NO_SOFT_LABEL, pair_rows
from alignment.training.objectives.pairs import DPOObjective

# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "sigmod"}, "unknown loss 'sigmod'; nearest: sigmoid"),
        ({"loss": {"sigmoid": 1.0, "stf": 0.2}}, "unknown loss 'stf'; nearest: sft"),
        ({"loss": {"sigmoid": "much"}}, "the weight of sigmoid must be a positive number, not 'much'"),
        ({"loss": 5}, "valid string"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "ipo does not read label_smoothing, only sigmoid"),
        ({"loss_options": {"simpo_gamma": 1.0}}, "sigmoid does not read simpo_gamma, only simpo; leave it out"),
        ({"loss": "exo_pair"}, "exo_pair needs label_smoothing above 0"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0.0}, "greater than 0"),
        ({"peft": {"lora_dropout": 0.1}}, "lora_dropout makes the policy differ from its reference"),
        ({"loss": {"simpo": 1, "hinge": 1}, "peft": {"lora_dropout": 0.1}}, "differ from its reference"),
    ],
)
def test_settings_without_effect_or_sense_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DPOSettings(data="prefs", **given)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"loss_options": {"simpo_gama": 1.0}}, r"dpo: loss_options.simpo_gama: unknown key; nearest: simpo_gamma"),
        ({"loss": "dpo"}, r"dpo: loss: unknown loss 'dpo'; nearest: dpop"),
        ({"loss": {"sigmoid": 0}}, r"dpo: loss: the weight of sigmoid must be a positive number, not 0"),
    ],
)
def test_a_recipe_names_the_key_and_the_fix(stage: dict[str, Any], message: str) -> None:
    raw = {"name": "x", "base": "path:x", "stages": [{"dpo": {"data": "x", **stage}}]}
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw, "x.yaml")


def test_dropout_is_free_where_nothing_is_compared_with_a_reference() -> None:
    settings = DPOSettings(data="prefs", loss={"simpo": 1, "sft": 1}, peft={"lora_dropout": 0.1})  # type: ignore[arg-type]
    assert not settings.needs_reference


def test_a_loss_that_compares_the_pairs_of_a_batch_is_not_accumulated() -> None:
    split = {"gradient_accumulation_steps": "2"}
    for loss, way_out in (("orpo", "set loss_options.nll_average: responses, or raise"), ("aot", "split; raise per_")):
        with pytest.raises(RecipeError, match=rf"mine.trainer.gradient_accumulation_steps: .*{way_out}"):
            dpo.check("mine", DPOSettings(data="prefs", loss=loss, trainer=split))
    by_response = {"nll_average": "responses"}
    dpo.check("mine", DPOSettings(data="prefs", loss="orpo", loss_options=by_response, trainer=split))  # type: ignore[arg-type]
    dpo.check("mine", DPOSettings(data="prefs", loss="hinge", trainer=split))


# --- rows ------------------------------------------------------------------------------------------------------------


def judged(question: str, *orders: str, strength: float | None = None, c: str = "c.") -> PreferenceRecord:
    """Orders like "ab" (a over b), one per annotator, of responses named by their letters."""
    texts = {"a": "a.", "b": "b.", "c": c}
    responses = {name: Response(messages=(Message(role="assistant", content=text),)) for name, text in texts.items()}
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=question),)),
        responses=tuple(responses.values()),
        judgements=tuple(
            Judgement(
                id=UUID(int=number),
                annotator=Annotator(id=f"a{number}", kind="human"),
                orders=(Order(tiers=tuple((responses[name].id,) for name in order), strength=strength),),
            )
            for number, order in enumerate(orders, 1)
        ),
    )


def write(folder: Path, *records: PreferenceRecord) -> Path:
    path = folder / "judged.jsonl"
    path.write_text("".join(f"{dump(record)}\n" for record in records), encoding="utf-8")
    return path


def rows_of(
    folder: Path, tokenizer: Any, records: list[PreferenceRecord], mode: str, max_length: int = 512, **how: Any
) -> Any:
    spec = DataSpec(source=str(write(folder, *records)), split="all")
    made = RunContext(
        run="tiny",
        run_dir=folder,
        folder=folder,
        stage="dpo",
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
    return pair_rows(made, "train", tokenizer, max_length, mode, **how)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_rows_carry_what_was_said_about_a_pair(tmp_path: Path, tokenizer: Any) -> None:
    records = [judged("Why?", "ab", "ab", "ba"), judged("How?", "cb", strength=2)]
    rows, use = rows_of(tmp_path, tokenizer, records, "all")
    assert [(row["soft_label"], row["margin"]) for row in rows] == [(pytest.approx(2 / 3), None), (1.0, 2)]
    assert use.n_used == 2


def test_a_pair_that_nobody_compared_has_no_soft_label_and_is_dropped(tmp_path: Path, tokenizer: Any) -> None:
    indirect = judged("Why?", "ab", "bc")  # best against worst is a against c, which nobody compared
    rows, _ = rows_of(tmp_path, tokenizer, [indirect, judged("How?", "ab")], "best_worst")
    assert [row["soft_label"] for row in rows] == [None, 1.0]
    rows, use = rows_of(tmp_path, tokenizer, [indirect, judged("How?", "ab")], "best_worst", soft_labels=True)
    assert [row["soft_label"] for row in rows] == [1.0]
    assert use.dropped == {NO_SOFT_LABEL: 1}


def test_a_record_counts_once_over_the_pairs_that_are_kept(tmp_path: Path, tokenizer: Any) -> None:
    """Also where max_length drops some of them; and a single pair that is left can be sorted by aot."""
    long = judged("Why?", "ab", "bc", "ac", c="zyx wvu " * 25)
    records = [long, judged("How?", "ab"), judged("Who?", "ab", "bc", "ac")]
    weights = {}
    for max_length in (100, 512):
        rows, _ = rows_of(tmp_path, tokenizer, records, "all", max_length=max_length)
        weights[max_length] = [(row["id"], row["weight"]) for row in rows]
    names = [str(record.id) for record in records]
    third = pytest.approx(1 / 3)
    assert weights[512] == [(names[0], third)] * 3 + [(names[1], 1.0)] + [(names[2], third)] * 3
    assert weights[100] == [(names[0], 1.0), (names[1], 1.0)] + [(names[2], third)] * 3
    DPOObjective(0, loss_type="aot").refuse([{"id": name, "weight": weight} for name, weight in weights[100][:2]])


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


def run(folder: Path, model: Path, source: Path, *stages: dict[str, Any]) -> list[str]:
    """What the run says."""
    trainer = {"learning_rate": 1e-2, "max_steps": 3, "save_strategy": "no", "per_device_train_batch_size": 4}
    every = {"data": "prefs", "model": "base", "split": "all", "trainer": trainer}
    raw = {
        "name": "tiny",
        "base": f"path:{model}",
        "data": {"prefs": {"source": str(source)}},
        "stages": [{"dpo": {**every, **stage}} for stage in stages],
    }
    said: list[str] = []
    pipeline.run(parse_recipe(raw, "x"), folder / "runs" / "tiny", ModelRegistry(folder / "registry"), said.append)
    return said


def test_losses_with_and_without_a_reference_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    stages: list[dict[str, Any]] = [
        {"name": "plain", "label_smoothing": 0.1, "peft": {"r": 4}},
        {"name": "length", "loss_options": {"ld_alpha": 0.5}},
        {"name": "mixed", "loss": {"ipo": 0.5, "sft": 1.0}, "max_tokens_per_forward": 256},
        {"name": "odds", "loss": "orpo", "peft": {"r": 4, "lora_dropout": 0.1}},
        {"name": "quantiles", "loss": "aot", "pairs": "best_worst"},
    ]
    said = run(tmp_path, tiny_model_dir, write_records(tmp_path / "records.jsonl"), *stages)
    logs = {stage["name"]: training_log(tmp_path, stage["name"]) for stage in stages}
    for name in ("plain", "length", "quantiles"):
        assert logs[name][0]["loss"] == pytest.approx(math.log(2), abs=1e-3), name
        assert logs[name][-1]["loss"] != pytest.approx(math.log(2), abs=1e-5), name
    assert logs["mixed"][0]["losses/ipo"] == pytest.approx(25.0, abs=0.1)  # (1 / 2β)²
    assert logs["mixed"][0]["losses/sft"] == pytest.approx(logs["mixed"][0]["nll_loss"])
    assert {"nll_loss", "log_odds_ratio", "log_odds_chosen", "rewards/margins"} <= logs["odds"][0].keys()
    referring = {line.split(":")[0] for line in said if "reference log-probabilities" in line}
    assert referring == {"plain", "length"}  # the others find theirs, or need none


def test_margins_and_soft_labels_come_from_the_records(tmp_path: Path, tiny_model_dir: Path) -> None:
    source = write(tmp_path, *(judged(f"Why {n}?", "ab", "ab", "ba", strength=1) for n in range(4)))
    stages: list[dict[str, Any]] = [
        {"name": "soft", "loss_options": {"use_soft_labels": True}},
        {"name": "offset", "loss_options": {"margin_scale": 3.0}},
    ]
    run(tmp_path, tiny_model_dir, source, *stages)
    assert training_log(tmp_path, "soft")[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    mean_margin = 1 / 3  # two say 1, one says -1
    expected = math.log1p(math.exp(3.0 * mean_margin))
    assert training_log(tmp_path, "offset")[0]["loss"] == pytest.approx(expected, abs=1e-3)


def test_data_that_a_loss_cannot_use_is_named(tmp_path: Path, tiny_model_dir: Path) -> None:
    source = write_records(tmp_path / "records.jsonl")
    with pytest.raises(DataError, match="no judgement states a strength, so margin_scale has no effect; leave it out"):
        run(tmp_path, tiny_model_dir, source, {"loss_options": {"margin_scale": 1.0}})
    with pytest.raises(DataError, match="aot compares quantiles, which belong to no pair"):
        run(tmp_path, tiny_model_dir, source, {"loss": "aot"})
