"""Whole stages on a tiny model: held-out records, early stopping, truncation, and the cache that runs share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_run import training_log, write_records

from alignment import pipeline
from alignment.errors import DataError
from alignment.recipe import parse_recipe
from alignment.registry import ModelRegistry
from alignment.training import reference
from alignment.training.prefix_sharing import unique_tokens

TRAINER = {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "num_train_epochs": 1, "eval_steps": 2}
ONE_STEP = {"max_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


def run(
    folder: Path, model: Path, stage: str, before: Sequence[dict[str, Any]] = (), **settings: Any
) -> tuple[list[str], dict[str, Any]]:
    """What the run of one stage, and of those `before` it, says, and the stage's row of the manifest."""
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {"data": "prefs", "trainer": dict(TRAINER), **settings}
    if "eval_split" not in given:
        given["trainer"].pop("eval_steps", None)
    raw = {
        "name": "tiny",
        "base": f"path:{model}",
        "data": {"prefs": {"source": str(write_records(folder / "records.jsonl"))}},
        "stages": [*before, {stage: given}],
    }
    said: list[str] = []
    pipeline.run(parse_recipe(raw, "x"), folder / "runs" / "tiny", ModelRegistry(folder / "registry"), said.append)
    manifest = json.loads((folder / "runs/tiny/manifest.json").read_text())
    return said, manifest["stages"][-1]


@pytest.mark.parametrize(
    ("stage", "metric"), [("sft", "mean_token_accuracy"), ("reward", "accuracy"), ("dpo", "rewards/accuracies")]
)
def test_held_out_records_are_looked_at(tmp_path: Path, tiny_model_dir: Path, stage: str, metric: str) -> None:
    said, row = run(tmp_path, tiny_model_dir, stage, eval_split="test")
    assert [use["role"] for use in row["data"]] == ["train", "eval"]
    logs = [log for log in training_log(tmp_path, stage) if log["split"] == "eval"]
    steps = [log["step"] for log in logs]
    assert steps == sorted({*range(2, steps[-1] + 1, 2), steps[-1]})  # the last step is always looked at
    assert all({"loss", metric} <= log.keys() for log in logs)
    assert sum(f"{stage}  " in line and "held out: loss" in line for line in said) == len(logs)
    assert row["metrics"]["eval_loss"] == pytest.approx(logs[-1]["loss"])
    assert row["metrics"][f"eval_{metric}"] == pytest.approx(logs[-1][metric])
    assert not any("runtime" in name or "second" in name for name in row["metrics"])
    assert row["notes"] == []


def test_early_stopping_says_what_was_kept_and_why(tmp_path: Path, tiny_model_dir: Path) -> None:
    """No evaluation is better than the first by this much, so the second one ends it."""
    stop = {"metric": "eval_accuracy", "patience": 1, "min_delta": 1.0}
    trainer = {**TRAINER, "num_train_epochs": 4}
    said, row = run(tmp_path, tiny_model_dir, "reward", eval_split="test", early_stopping=stop, trainer=trainer)
    (note,) = row["notes"]
    logs = {log["step"]: log["accuracy"] for log in training_log(tmp_path, "reward") if log["split"] == "eval"}
    assert list(logs) == [2, 4]
    kept = 4 if logs[4] > logs[2] else 2
    assert note == (
        f"kept step {kept}: eval_accuracy {logs[kept]:.4g} is the best of 2 evaluations; training stopped at step 4 "
        f"of 16, because an evaluation was no better by more than 1"
    )
    assert f"reward: {note}" in said
    metrics = row["metrics"]
    assert (metrics["steps"], metrics["kept_step"], metrics["eval_accuracy"]) == (4, kept, logs[kept])


def test_rows_are_cut_and_dropped_by_one_rule_that_is_told(tmp_path: Path, tiny_model_dir: Path) -> None:
    dropped_said, dropped = run(tmp_path / "a", tiny_model_dir, "sft", max_length=60, trainer=ONE_STEP)
    cut_said, cut = run(tmp_path / "b", tiny_model_dir, "sft", max_length=60, truncation="keep_start", trainer=ONE_STEP)
    (before,), (after,) = dropped["data"], cut["data"]
    assert before["partly"] == {}
    n = before["dropped"]["longer than max_length tokens (60)"]
    assert n > 0
    assert after["partly"] == {"cut at max_length tokens (60)": n}
    assert (after["n_used"], before["n_used"]) == (before["n_used"] + n, after["n_used"] - n)
    for use in (before, after):
        assert use["n_used"] + sum(use["dropped"].values()) == use["n_records"]
    told = "29 records used (train)"
    assert f"sft: {29 - n} of {told}, {n} dropped: longer than max_length tokens (60)" in dropped_said
    assert f"sft: 29 of {told}, {n} in part: cut at max_length tokens (60)" in cut_said
    with pytest.raises(DataError, match=r"record [0-9a-f-]+: \d+ tokens of prompt and response, more than max_length"):
        run(tmp_path / "c", tiny_model_dir, "sft", max_length=60, truncation="error")


def test_a_record_that_loses_some_of_its_pairs_is_used_in_part(tmp_path: Path, tiny_model_dir: Path) -> None:
    _, row = run(tmp_path, tiny_model_dir, "dpo", max_length=76, trainer=ONE_STEP)
    (use,) = row["data"]
    (reason,) = use["partly"]
    assert reason == "without what is longer than max_length tokens (76)"
    assert use["n_used"] + sum(use["dropped"].values()) == use["n_records"]
    assert 0 < use["partly"][reason] <= use["n_used"]


def test_runs_in_other_folders_with_other_settings_find_the_reference(tmp_path: Path, tiny_model_dir: Path) -> None:
    def computed(name: str, trainer: dict[str, Any] | None = None, **settings: Any) -> bool:
        said, _ = run(
            tmp_path / name, tiny_model_dir, "dpo", peft={"r": 4}, trainer={**ONE_STEP, **(trainer or {})}, **settings
        )
        return any("reference log-probabilities" in line for line in said)

    assert computed("first")
    assert not computed("second", beta=0.5)
    assert not computed("third", trainer={"learning_rate": 3e-3})
    assert not computed("fourth", label_smoothing=0.1, group_by_length=True)
    assert computed("fifth", trainer={"bf16": True})  # another precision
    assert computed("sixth", eval_split="test")  # rows of another split


@pytest.mark.parametrize("stage", ["dpo", "dpo_rankings", "kto"])
def test_the_bound_of_a_forward_pass_holds_for_the_reference(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    seen: list[int] = []
    scored = reference.sequence_logprobs

    def counted(model: Any, batch: Any) -> Any:
        seen.append(unique_tokens(batch["input_ids"], batch["attention_mask"]))
        return scored(model, batch)

    monkeypatch.setattr(reference, "sequence_logprobs", counted)
    run(tmp_path, tiny_model_dir, stage, max_tokens_per_forward=256, trainer=ONE_STEP)
    assert 128 < max(seen) <= 256


def gpt2(folder: Path, tiny_model_dir: Path) -> Path:
    """GPT-2 at its default config, which has dropout everywhere, with the tiny tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=512, **special)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_dropout_does_not_part_a_policy_from_its_reference(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = gpt2(tmp_path / "gpt2", tiny_model_dir)
    for stage, first in (("dpo", math.log(2)), ("kto", 0.5)):
        said, _ = run(tmp_path / stage, model, stage, trainer=ONE_STEP)
        assert training_log(tmp_path / stage, stage)[0]["loss"] == pytest.approx(first, abs=1e-4)
        assert said.count(f"{stage}: the model's dropout (0.1) is off in this stage") == 1
    stored = json.loads((tmp_path / "dpo/registry/tiny-dpo/1/config.json").read_text())
    assert (stored["resid_pdrop"], stored["attn_pdrop"]) == (0.1, 0.1)  # a later stage may want it
    said, _ = run(tmp_path / "reward", model, "reward", trainer=ONE_STEP)
    assert sum("its dropout (0.1) is off while a reward model is trained from it" in line for line in said) == 1
    said, _ = run(tmp_path / "sft", model, "sft", trainer=ONE_STEP)
    assert not any("dropout" in line for line in said)


def test_single_responses_stop_early_by_their_margin(tmp_path: Path, tiny_model_dir: Path) -> None:
    stop = {"metric": "eval_rewards/margins", "patience": 1, "min_delta": 100.0}
    trainer = {**TRAINER, "per_device_eval_batch_size": 3}
    said, row = run(tmp_path, tiny_model_dir, "kto", eval_split="test", early_stopping=stop, trainer=trainer)
    note, outcome = row["notes"]  # z0 belongs to a batch
    assert note == "this loss compares the records of a batch: eval_loss is that of batches of 3"
    assert outcome.startswith("kept step")
    assert said.count(f"kto: {note}") == 1
    logs = training_log(tmp_path, "kto")
    assert row["metrics"]["eval_rewards/margins"] in [log["rewards/margins"] for log in logs if log["split"] == "eval"]
    for log in logs:
        assert log["rewards/margins"] == pytest.approx(log["rewards/chosen"] - log["rewards/rejected"])


def test_an_adapter_is_part_of_the_reference_it_makes(tmp_path: Path, tiny_model_dir: Path) -> None:
    def computed(name: str, rate: float) -> bool:
        tuned = {
            "sft": {"data": "prefs", "peft": {"r": 4}, "trainer": {**ONE_STEP, "max_steps": 2, "learning_rate": rate}}
        }
        said, row = run(tmp_path / name, tiny_model_dir, "dpo", [tuned], peft={"r": 4}, trainer=ONE_STEP)
        assert row["inputs"] == {"model": "tiny-sft@1"}
        return any("reference log-probabilities" in line for line in said)

    assert computed("first", 1e-2)
    assert not computed("same", 1e-2)  # trained again, to the same weights
    assert computed("other", 1e-3)


def test_a_damaged_cache_is_said_and_mended(tmp_path: Path, tiny_model_dir: Path) -> None:
    run(tmp_path / "first", tiny_model_dir, "dpo", trainer=ONE_STEP)
    for path in (tmp_path / "cache" / "reference").glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    said, _ = run(tmp_path / "second", tiny_model_dir, "dpo", trainer=ONE_STEP)
    assert any("is damaged; its reference log-probabilities are computed again" in line for line in said)
    weights = [json.loads((tmp_path / n / "registry/tiny-dpo/1/entry.json").read_text()) for n in ("first", "second")]
    assert weights[0]["digest"] == weights[1]["digest"]


def test_bounded_memory_and_grouped_lengths_train_to_the_end(tmp_path: Path, tiny_model_dir: Path) -> None:
    _, bounded = run(tmp_path / "bounded", tiny_model_dir, "reward", max_tokens_per_forward=256)
    _, whole = run(tmp_path / "whole", tiny_model_dir, "reward")
    for name in ("loss", "accuracy", "margin"):
        assert bounded["metrics"][name] == pytest.approx(whole["metrics"][name], rel=2e-2, abs=1e-3)
    with pytest.raises(DataError, match=r"tokens in one forward pass, more than max_tokens_per_forward 64; raise it"):
        run(tmp_path / "small", tiny_model_dir, "reward", max_tokens_per_forward=64)
