"""The PPO stage: its settings, whole recipes through the real command line, a kill in the middle."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import alignment, alignment_here, stage_digests, start, training_log, write_records
from tiny_sampling import run

from alignment.errors import AlignmentError, DataError, RecipeError
from alignment.recipe import parse_recipe
from alignment.registry import ModelRegistry
from alignment.stages.ppo import check
from alignment.training import optimizers, ppo_update
from alignment.training.ppo import PPOTrainer

RULE = [{"rule": "brevity", "weight": 0.1}]
TRAINER = {"max_steps": 4, "learning_rate": 1e-3}
CHECKPOINTS = "runs/tiny/stages/ppo-*/checkpoints"


def raw(base: str, records: str, before: list[dict[str, Any]] | None = None, **settings: Any) -> dict[str, Any]:
    ppo = {"data": "prefs", "reward": RULE, "batch_size": 8, "max_new_tokens": 6, "trainer": TRAINER, **settings}
    return {
        "name": "tiny",
        "base": base,
        "data": {"prefs": {"source": records}},
        "stages": [*(before or []), {"ppo": ppo}],
    }


def write(folder: Path, base: Path, before: list[dict[str, Any]] | None = None, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    records = write_records(folder / "records.jsonl")
    path.write_text(yaml.safe_dump(raw(f"path:{base}", str(records), before, **settings)), encoding="utf-8")
    return path


def settings_of(**settings: Any) -> Any:
    return parse_recipe(raw("path:x", "x.jsonl", **settings), "x").stages[-1].settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8, "samples_per_prompt": 3}, "batch_size 8 is not a multiple of samples_per_prompt"),
        ({"samples_per_prompt": 4, "ppo": {"num_mini_batches": 3}}, "num_mini_batches is more than the prompts"),
        ({"ppo": {"value_adapter": True}}, "ppo.value_adapter needs `peft`"),
        ({"kl_coef": 0, "ppo": {"adaptive_kl": {"target": 1}}}, "cannot move a kl_coef of 0"),
        ({"ppo": {"adaptive_kl": {"horizon": 1}}}, "horizon 1 is too short for batch_size 8"),
        ({"ppo": {"early_stop_kl": 0.1, "num_ppo_epochs": 1}}, "ppo: early_stop_kl has nothing to stop"),
        ({"ppo": {"vf_coef": 0}}, "rloo and grpo need none"),
        ({"ppo": {"clip_range": 0.1}}, "unknown key; nearest: cliprange"),
        ({"peft": {"r": 4, "lora_dropout": 0.1}}, "set it to 0"),
        ({"top_p": 0.9}, "top_p: unknown key"),
        ({"trainer": {"max_steps": 1, "num_train_epochs": 2}}, "keep one"),
        ({"trainer": {"max_steps": "3", "num_train_epochs": 2}}, "keep one"),
        ({"trainer": {"max_steps": math.inf}}, "ppo: trainer.max_steps: must be a finite number, not inf"),
        ({"reward": [{"rule": "f1", "options": {"x": [math.nan]}}]}, r"reward\.0\.options\.x\.0: must be a finite"),
        ({"temperature": "inf"}, "ppo: temperature: Input should be a finite number"),
        ({"temperature": math.inf}, "ppo: temperature: must be a finite number, not inf"),
        ({"kl_coef": "inf"}, "ppo: kl_coef: Input should be a finite number"),
        ({"ppo": {"guard": {"max_kl": "inf"}}}, r"ppo: ppo\.guard\.max_kl: Input should be a finite number"),
        ({"ppo": {"clip_scores": "inf"}}, r"ppo: ppo\.clip_scores: Input should be a finite number"),
        ({"reward": "auto"}, "no earlier stage makes one"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        settings_of(**settings)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: has no effect on PPO"),
        ({"use_cpu": True}, "use_cpu: has no effect on PPO"),
        ({"optim": "galore_adamw"}, "trainer.optim: galore_adamw needs the package galore_torch, which is not inst"),
        ({"optim": "lomo"}, "trainer.optim: lomo needs the package lomo_optim, which is not installed"),
        ({"optim": "schedule_free_sgd"}, "trainer.optim: schedule_free_sgd needs the package schedulefree, which"),
        ({"save_steps": 0.5}, "save_steps and logging_steps count PPO steps"),
        ({"learningrate": 1}, "no such training argument; nearest: learning_rate"),
        ({"max_steps": None}, "ppo.trainer.max_steps: expects int, not None"),
        ({"max_steps": None, "num_train_epochs": 2}, "ppo.trainer.max_steps: expects int, not None"),
    ],
)
def test_training_arguments_that_cannot_be(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check("ppo", settings_of(trainer=trainer))


def test_an_optimizer_that_needs_the_trainer_is_refused_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: name)
    with pytest.raises(RecipeError, match=r"optim: schedule_free_sgd is not one that PPO's own loop .*adamw_torch, "):
        check("ppo", settings_of(trainer={"optim": "schedule_free_sgd"}))
    check("ppo", settings_of(trainer={"optim": "adafactor"}))


def test_the_whole_chain(tmp_path: Path, tiny_model_dir: Path) -> None:
    """A reward model trained on rankings is what PPO learns from; a rule is only watched."""
    step = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no"}
    before = [{"reward": {"data": "prefs", "trainer": step}}]
    recipe = write(
        *(tmp_path, tiny_model_dir, before),
        reward="auto",
        watch=[{"rule": "finished"}],
        samples_per_prompt=2,
        peft={"r": 4},
        sample_every=2,
    )
    done = alignment(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert "ppo: 29 of 29 prompts used" in done.stdout
    logs = training_log(tmp_path, "ppo")
    assert [row["step"] for row in logs] == [1, 2, 3, 4]
    assert logs[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert all({"objective/scores/reward", "objective/scores/finished", "val/ratio"} <= row.keys() for row in logs)
    assert logs[-1]["episode"] == 32
    (samples,) = tmp_path.glob("runs/tiny/stages/ppo-*/samples.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert sorted({row["step"] for row in rows}) == [1, 2, 4]
    assert {"score", "kl", "length", "finished", "terms", "prompt", "response", "id"} <= rows[0].keys()
    manifest = json.loads((tmp_path / "runs/tiny/manifest.json").read_text())
    assert manifest["stages"][-1]["metrics"]["steps"] == 4
    assert manifest["stages"][-1]["inputs"]["reward"].startswith("tiny-reward@")
    assert not list(tmp_path.glob("runs/tiny/stages/ppo-*/checkpoints"))
    lineage = alignment_here(tmp_path, "models", "lineage", "tiny-ppo@1")
    assert lineage.returncode == 0, lineage.stderr
    again = alignment_here(tmp_path, "run", str(recipe))
    assert "nothing to do" in again.stdout


def test_a_reward_model_with_another_tokenizer(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Text crosses, never token ids."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["Where did", " sat on", " the roof"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    step = {"max_steps": 1, "per_device_train_batch_size": 4, "save_strategy": "no"}
    before = [{"reward": {"data": "prefs", "model": f"path:{other}", "trainer": step}}]
    recipe = write(tmp_path, tiny_model_dir, before, reward="auto", trainer={"max_steps": 1}, model="base")
    done = alignment_here(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert training_log(tmp_path, "ppo")[0]["objective/scores"] is not None


def test_prompts_that_do_not_fit_are_counted_or_an_error(tmp_path: Path, tiny_model_dir: Path) -> None:
    recipe = write(tmp_path, tiny_model_dir, max_prompt_length=41, trainer={"max_steps": 1})
    done = alignment_here(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert "dropped: prompt longer than 41 tokens" in done.stdout
    failed = alignment_here(tmp_path, "run", str(recipe), "ppo.long_prompts=error")
    assert failed.returncode == 2
    assert "more than max_prompt_length 41; raise it, or set long_prompts: drop" in failed.stderr
    none = alignment_here(tmp_path, "run", str(recipe), "ppo.max_prompt_length=512", "ppo.max_new_tokens=600")
    assert none.returncode == 2
    assert "ppo: max_new_tokens 600 leaves no room for a prompt in the model's context of 512 tokens" in none.stderr
    assert "lower max_new_tokens" in none.stderr
    little = alignment_here(
        tmp_path, "run", str(recipe), "ppo.max_prompt_length=512", "ppo.max_new_tokens=500", "ppo.long_prompts=error"
    )
    assert little.returncode == 2
    assert "more than the 12 that max_new_tokens leaves in the context; lower max_new_tokens, or set" in little.stderr


def test_a_reward_model_of_a_shorter_context_is_found_before_anything_is_sampled(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    short = tmp_path / "short"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.config.max_position_embeddings = 42
    model.save_pretrained(short)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(short)
    step = {"max_steps": 1, "per_device_train_batch_size": 4, "save_strategy": "no"}
    cut = {"max_length": 42, "truncation": "keep_start"}
    before = [{"reward": {"data": "prefs", "model": f"path:{short}", "trainer": step, **cut}}]
    monkeypatch.setattr(PPOTrainer, "sample", lambda self, step: pytest.fail("a step was sampled"))
    with pytest.raises(DataError, match=r"^prompt \w+: scorer reward: \d+ tokens with an answer of 6, limit 42; lower"):
        run(tmp_path, tiny_model_dir, [*before, *half_way(reward="auto", model="base")])


def test_values_of_their_own_adapter_stay_out_of_the_registry(tmp_path: Path, tiny_model_dir: Path) -> None:
    """What is registered is the policy's adapter alone, and it is the one that answered."""
    import torch
    from safetensors.torch import load_file

    recipes = {
        own: write(tmp_path / str(own), tiny_model_dir, peft={"r": 4}, ppo={"value_adapter": own})
        for own in (True, False)
    }
    stored = {}
    for own, path in recipes.items():
        done = alignment_here(path.parent, "run", str(path))
        assert done.returncode == 0, done.stderr
        folder = path.parent / "registry/tiny-ppo/1"
        (weights,) = folder.rglob("*.safetensors")
        assert len(list(folder.rglob("adapter_config.json"))) == 1
        stored[own] = load_file(weights)
        first, *_, last = training_log(path.parent, "ppo")
        assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
        assert last["objective/kl"] != first["objective/kl"]
    assert stored[True].keys() == stored[False].keys()
    assert not any("value" in name for name in stored[True])
    assert any(weight.abs().max() > 0 for name, weight in stored[True].items() if "lora_B" in name)
    assert any(not torch.equal(weight, stored[False][name]) for name, weight in stored[True].items())


def test_two_stages_of_a_run_answer_other_prompts(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Rounds of a `repeat` are such stages: with the same draws, a later one would see no new prompt."""
    (one,) = half_way(trainer={"max_steps": 1}, sample_every=1)
    stages = [{"ppo": {**one["ppo"], "model": "base", "name": name}} for name in ("first", "second")]
    run(tmp_path, tiny_model_dir, stages)
    first, second = (
        [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]
        for name in ("first", "second")
        for path in tmp_path.glob(f"runs/tiny/stages/{name}-*/samples.jsonl")
    )
    assert first != second


def half_way(**settings: Any) -> list[dict[str, Any]]:
    """Two mini-batches a step, one step of the optimizer each."""
    own = {"data": "prefs", "reward": RULE, "batch_size": 8, "max_new_tokens": 6, "peft": {"r": 4}}
    return [{"ppo": {**own, "trainer": TRAINER | {"max_steps": 3}, **settings}}]


def only_step_1_is_left(folder: Path) -> None:
    assert not ModelRegistry(folder / "registry").names()
    (checkpoint,) = folder.glob("runs/tiny/stages/ppo-*/checkpoints/checkpoint-*")
    assert (checkpoint / "COMPLETE").exists()
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 1


def test_an_update_that_breaks_half_way_leaves_the_last_whole_step(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of step 2's second mini-batch is no number, after a step of the optimizer; the run goes on from 1."""
    stages = half_way(ppo={"num_ppo_epochs": 1, "num_mini_batches": 2})
    kept, calls = ppo_update.clipped_policy_loss, 0

    def spoiled(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        losses, clipped = kept(*args)
        return losses * (math.nan if calls == 4 else 1), clipped

    monkeypatch.setattr(ppo_update, "clipped_policy_loss", spoiled)
    with pytest.raises(AlignmentError, match=r"step 2: the loss is not finite; .* stop at this step again"):
        run(tmp_path / "cut", tiny_model_dir, stages)
    monkeypatch.undo()
    only_step_1_is_left(tmp_path / "cut")
    said, _ = run(tmp_path / "cut", tiny_model_dir, stages)
    assert any("resuming from step 1" in line for line in said)
    run(tmp_path / "whole", tiny_model_dir, stages)
    assert stage_digests(tmp_path / "cut") == stage_digests(tmp_path / "whole")


def test_a_guard_that_stops_half_way_stops_there_again_until_settings_change(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Nothing moves at step 1, whose learning rate is 0; step 2 moves between its mini-batches."""
    ppo = {"num_ppo_epochs": 1, "num_mini_batches": 2, "guard": {"max_log_ratio": 1e-5}}
    stages = half_way(ppo=ppo, trainer=TRAINER | {"max_steps": 3, "warmup_steps": 2})
    for _ in range(2):
        with pytest.raises(AlignmentError, match=r"step 2: an update has moved the policy by .*max_log_ratio 1e-05"):
            run(tmp_path, tiny_model_dir, stages)
        only_step_1_is_left(tmp_path)
    changed = half_way(ppo=ppo | {"guard": {}}, trainer=TRAINER | {"max_steps": 3, "warmup_steps": 2})
    said, _ = run(tmp_path, tiny_model_dir, changed)
    assert not any("resuming" in line for line in said)


@pytest.mark.slow
def test_a_killed_run_ends_where_an_uninterrupted_one_ends(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = {"peft": {"r": 4}, "trainer": {"max_steps": 8, "learning_rate": 1e-3}, "kl_coef": 0.2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    recipes = {folder: write(folder, tiny_model_dir, **settings) for folder in (whole, cut)}
    assert alignment_here(whole, "run", str(recipes[whole])).returncode == 0
    process = start(cut, "run", str(recipes[cut]))
    end = time.monotonic() + 120
    while not list(cut.glob(f"{CHECKPOINTS}/checkpoint-[3-7]/COMPLETE")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.communicate()
    kept = max(int(path.parent.name.split("-")[1]) for path in cut.glob(f"{CHECKPOINTS}/checkpoint-*/COMPLETE"))
    begun = training_log(cut, "ppo")[-1]["step"]  # a step is logged before it is saved
    resumed = alignment_here(cut, "run", str(recipes[cut]))
    assert resumed.returncode == 0, resumed.stderr
    assert f"ppo: resuming from step {kept}\n" in resumed.stdout
    assert 3 <= kept <= begun <= kept + 1  # one step is lost at most
    assert training_log(cut, "ppo") == training_log(whole, "ppo")
    assert stage_digests(cut)["ppo"] == stage_digests(whole)["ppo"]
