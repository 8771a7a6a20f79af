"""The kto stage: what its settings refuse, the rows it reads, and whole runs on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from tiny_run import training_log, write_records

from alignment import pipeline
from alignment.errors import DataError, RecipeError
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Label,
    Message,
    PreferenceRecord,
    Prompt,
    Response,
    dump,
)
from alignment.preferences.sources import DataSpec, load
from alignment.preferences.unpaired import labelled_responses
from alignment.recipe import Recipe, parse_recipe
from alignment.registry import ModelRegistry
from alignment.runs import RunContext
from alignment.stages import kto
from alignment.stages.rows import unpaired_rows
from alignment.training.losses.kto import KTO_LOSSES, NEEDS_KL

# --- settings --------------------------------------------------------------------------------------------------------


def test_what_is_known_without_torch_equals_the_table() -> None:
    assert {loss: loss in NEEDS_KL for loss in KTO_LOSSES} == kto.LOSSES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "apo_zero"}, "unknown loss 'apo_zero'; nearest: apo_zero_unpaired"),
        ({"beta": 0.0}, "greater than 0"),
        ({"desirable_weight": 0.0}, "greater than 0"),
        ({"responses": "best"}, "'all' or 'best_worst'"),
        ({"peft": {"lora_dropout": 0.1}}, "lora_dropout makes the policy differ from its reference"),
    ],
)
def test_settings_without_sense_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kto.KTOSettings(data="prefs", **given)


def test_the_kl_estimate_needs_a_whole_batch() -> None:
    alone = {"per_device_train_batch_size": "1"}
    with pytest.raises(RecipeError, match=r"mine.trainer.per_device_train_batch_size: kto .* needs at least 2"):
        kto.check("mine", kto.KTOSettings(data="prefs", trainer=alone))
    split = {"gradient_accumulation_steps": 2}
    with pytest.raises(RecipeError, match=r"mine.trainer.gradient_accumulation_steps: .* max_tokens_per_forward"):
        kto.check("mine", kto.KTOSettings(data="prefs", trainer=split))
    kto.check("mine", kto.KTOSettings(data="prefs", trainer=alone | split, loss="apo_zero_unpaired"))


# --- rows ------------------------------------------------------------------------------------------------------------


def context(folder: Path, said: list[str], seed: int = 1) -> RunContext:
    spec = DataSpec(source=str(write_records(folder / "records.jsonl")), split="all")
    return RunContext(
        run="tiny",
        run_dir=folder,
        folder=folder,
        stage="kto",
        key="k",
        seed=seed,
        chat_template=None,
        recipe_digest="d",
        registry=ModelRegistry(folder / "registry"),
        inputs={},
        input_digests={},
        data={"train": spec},
        data_digests={"train": load(spec).digest},
        say=said.append,
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_rows_are_the_labelled_responses_in_an_order_of_the_seed(tmp_path: Path, tokenizer: Any) -> None:
    made = context(tmp_path, [])
    rows, use = unpaired_rows(made, "train", tokenizer, 512, "all")
    records = load(made.data["train"]).records
    items, _ = labelled_responses(records)
    assert len(rows) == len(items)
    assert use.n_used == len({item.record_id for item in items})
    wanted = {(item.record_id, item.response[0]["content"], item.label) for item in items}
    decoded = [tokenizer.decode(row["row"].completion_ids).removesuffix("<|im_end|>") for row in rows]
    assert {(row["id"], text, row["label"]) for row, text in zip(rows, decoded, strict=True)} == wanted

    ids = [row["id"] for row in rows]
    assert ids != [item.record_id for item in items]  # shuffled, but the responses of a record stay together
    assert len(set(ids)) == 1 + sum(a != b for a, b in pairwise(ids))
    again = [row["id"] for row in unpaired_rows(made, "train", tokenizer, 512, "all")[0]]
    other = [row["id"] for row in unpaired_rows(context(tmp_path, [], 2), "train", tokenizer, 512, "all")[0]]
    assert again == ids != other
    assert not any("kl_row" in row for row in rows)


def test_mismatched_rows_are_made_batch_by_batch(tmp_path: Path, tokenizer: Any) -> None:
    rows, _ = unpaired_rows(context(tmp_path, []), "train", tokenizer, 512, "all", block=6)
    own = [row["row"] for row in rows]
    for start in range(0, len(rows) - 6, 6):
        completions = sorted(row.completion_ids for row in own[start : start + 6])
        assert sorted(row["kl_row"].completion_ids for row in rows[start : start + 6]) == completions
    assert all(row["kl_row"].prompt_ids == row["row"].prompt_ids for row in rows)
    prompt_of = {tuple(row.completion_ids): row.prompt_ids for row in own}
    assert all(prompt_of[tuple(row["kl_row"].completion_ids)] != row["row"].prompt_ids for row in rows)


def test_records_of_one_prompt_stay_together(tmp_path: Path, tokenizer: Any) -> None:
    """Unpaired files have one record per response, and rows that begin alike can share."""
    records = [labelled_record(f"Why {n % 5}?", f"Because {n}.", n % 2 == 0) for n in range(15)]
    rows, use = unpaired_rows(with_records(tmp_path, records, []), "train", tokenizer, 512, "all", block=6)
    prompts = [tokenizer.decode(row["row"].prompt_ids) for row in rows]
    assert len(set(prompts)) == 5 == 1 + sum(a != b for a, b in pairwise(prompts))
    assert use.n_used == 15
    assert all(row["kl_row"].completion_ids != row["row"].completion_ids for row in rows)


def with_records(folder: Path, records: list[PreferenceRecord], said: list[str]) -> RunContext:
    path = folder / "labelled.jsonl"
    path.write_text("".join(f"{dump(record)}\n" for record in records), encoding="utf-8")
    spec = DataSpec(source=str(path), split="all")
    return replace(context(folder, said), data={"train": spec}, data_digests={"train": load(spec).digest})


def labelled_record(question: str, answer: str, label: bool) -> PreferenceRecord:
    response = Response(messages=(Message(role="assistant", content=answer),))
    said = Label(response_id=response.id, name="kto_tag", value=label)
    judgement = Judgement(id=UUID(int=1), annotator=Annotator(id="anna", kind="human"), labels=(said,))
    prompt = Prompt(messages=(Message(role="user", content=question),))
    return PreferenceRecord(prompt=prompt, responses=(response,), judgements=(judgement,))


def test_a_mismatched_row_that_is_too_long_is_cut_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    said: list[str] = []
    records = [labelled_record("Why? " * 9, "So.", True), labelled_record("Why?", "So it is. " * 9, False)]
    made = with_records(tmp_path, records, said)
    every, _ = unpaired_rows(made, "train", tokenizer, 512, "all", block=4)
    assert {row["id"]: row["label"] for row in every} == {records[0].id: True, records[1].id: False}
    assert not any("cut" in line for line in said)
    longest = max(len(row["row"]) for row in every)
    rows, _ = unpaired_rows(made, "train", tokenizer, longest, "all", block=4)
    assert sorted(row["kl_row"].truncated for row in rows) == [False, True]
    assert all(len(row["kl_row"]) <= longest for row in rows)
    assert said[-1] == f"kto: 1 mismatched rows of the KL estimate cut at {longest} tokens"


def test_a_record_is_dropped_whole_when_a_response_is_too_long(tmp_path: Path, tokenizer: Any) -> None:
    every, _ = unpaired_rows(context(tmp_path, []), "train", tokenizer, 512, "all")
    limit = sorted({len(row["row"]) for row in every})[-2]
    rows, use = unpaired_rows(context(tmp_path, []), "train", tokenizer, limit, "all")
    too_long = {row["id"] for row in every if len(row["row"]) > limit}
    assert {row["id"] for row in rows} == {row["id"] for row in every} - too_long
    assert [count for reason, count in use.dropped.items() if "longer than max_length" in reason] == [len(too_long)]
    with pytest.raises(DataError, match="longer than max_length"):
        unpaired_rows(context(tmp_path, []), "train", tokenizer, 8, "all")


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


def recipe(folder: Path, model: Path, **settings: Any) -> Recipe:
    trainer = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2}
    raw = {
        "name": "tiny",
        "base": f"path:{model}",
        "data": {"prefs": {"source": str(folder / "records.jsonl")}},
        "stages": [{"kto": {"data": "prefs", "trainer": trainer, **settings}}],
    }
    return parse_recipe(raw, "tiny.yaml")


def run(folder: Path, made: Recipe) -> list[str]:
    """What the run says."""
    said: list[str] = []
    pipeline.run(made, folder / "runs" / "tiny", ModelRegistry(folder / "registry"), said.append)
    return said


def weights(folder: Path, version: int = 1) -> str:
    entry = json.loads((folder / "registry" / "tiny-kto" / str(version) / "entry.json").read_text())
    assert entry["role"] == "policy"
    return str(entry["digest"])


def test_a_run_trains_a_policy_and_other_settings_find_the_reference_cached(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    write_records(tmp_path / "records.jsonl")
    held_out = {"eval_split": "validation", "peft": {"r": 4}}
    said = run(tmp_path, recipe(tmp_path, tiny_model_dir, **held_out))
    assert any("reference log-probabilities" in line for line in said)
    assert any(line.startswith("kto: ") and "desirable responses" in line for line in said)
    every = training_log(tmp_path, "kto")
    assert all(0 < row["loss"] < 1 and row["kl"] >= 0 for row in every if row["split"] == "eval")
    assert {row["split"] for row in every} == {"train", "eval"}
    logs = [row for row in every if row["split"] == "train"]
    assert [row["step"] for row in logs] == list(range(1, 7))
    assert logs[0]["loss"] == pytest.approx(0.5, abs=5e-3)  # λ (1 - σ(0)) of both kinds
    assert logs[0]["kl"] == pytest.approx(0.0, abs=5e-2)
    assert logs[-1]["loss"] != pytest.approx(0.5, abs=1e-4)
    before = weights(tmp_path)

    again = run(tmp_path, recipe(tmp_path, tiny_model_dir, **held_out, beta=0.3))
    assert not any("reference log-probabilities" in line for line in again)
    assert weights(tmp_path, 2) != before


def test_a_run_that_died_goes_on_exactly(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.training.objectives.kto import KTOObjective

    folders = tmp_path / "whole", tmp_path / "died"
    for folder in folders:
        folder.mkdir()
        write_records(folder / "records.jsonl")
    whole, died = folders
    run(whole, recipe(whole, tiny_model_dir))

    calls: list[int] = []
    original = KTOObjective.loss

    def dies_in_step_4(self: Any, model: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError("no memory left")
        return original(self, model, batch)

    with monkeypatch.context() as patched:
        patched.setattr(KTOObjective, "loss", dies_in_step_4)
        with pytest.raises(MemoryError):
            run(died, recipe(died, tiny_model_dir))
    said = run(died, recipe(died, tiny_model_dir))
    assert "kto: resuming from checkpoint-2" in said
    assert not any("reference log-probabilities" in line for line in said)
    assert weights(died) == weights(whole)
    assert training_log(died, "kto") == training_log(whole, "kto")


def test_apo_needs_no_mismatched_rows(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_records(tmp_path / "records.jsonl")
    made = recipe(tmp_path, tiny_model_dir, loss="apo_zero_unpaired", responses="best_worst", desirable_weight=2.0)
    run(tmp_path, made)
    logs = training_log(tmp_path, "kto")
    assert "kl" not in logs[0]
    assert 0.5 < logs[0]["loss"] < 1.0  # desirable ones start at 1, undesirable ones at 1/2


def test_the_balance_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    made = context(tmp_path, said)
    kto._say_balance(made, kto.KTOSettings(data="prefs"), [True] * 2 + [False] * 6)
    kto._say_balance(made, kto.KTOSettings(data="prefs", desirable_weight=3.5), [True] * 2 + [False] * 6)
    kto._say_balance(made, kto.KTOSettings(data="prefs"), [True])
    assert said == [
        "kto: 2 desirable responses, 6 undesirable; a desirable_weight from 3.00 to 4.00 would balance them",
        "kto: 2 desirable responses, 6 undesirable",
        "kto: 1 desirable responses, 0 undesirable",
    ]
