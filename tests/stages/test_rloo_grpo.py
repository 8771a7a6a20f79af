"""The rloo and grpo stages: settings, TRL's numbers from our scores, the reference, errors, whole and killed runs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_groups import KINDS, SCORES, Given, trainer_of
from tiny_run import alignment_here, stage_digests, start, training_log, write_records

from alignment import pipeline
from alignment.errors import AlignmentError, DataError, RecipeError
from alignment.recipe import load_recipe, parse_recipe
from alignment.registry import ModelRegistry
from alignment.runtime import quiet
from alignment.scorers import CheckedScorer, Scored
from alignment.stages import STAGES, trl_on_policy
from alignment.stages.groups import GroupSettings
from alignment.stages.grpo import GRPOSettings
from alignment.stages.rloo import RLOOSettings
from alignment.stages.trl_trainer import GroupSampler
from alignment.training.arguments import training_arguments
from alignment.training.prefix_sharing import share_prefixes

SETTINGS: dict[str, type[GroupSettings]] = {"rloo": RLOOSettings, "grpo": GRPOSettings}
BREVITY = [{"rule": "brevity"}]
TRAINER = {"learning_rate": 1e-2, "max_steps": 4, "save_steps": 1, "per_device_train_batch_size": 4}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("rloo", {"num_generations": 1}, "greater than or equal to 2"),
        ("rloo", {"reward_clip_range": [1, -1]}, "from low to high, not from 1 to -1"),
        ("rloo", {"loss_type": "dapo"}, "Extra inputs"),
        ("grpo", {"peft": {"lora_dropout": 0.1}}, "lora_dropout makes the policy differ from its reference"),
        ("grpo", {"loss_type": "gspo"}, "'grpo', 'bnpo', 'dr_grpo' or 'dapo'"),
        ("grpo", {"importance_sampling_level": "sequence"}, "which dapo would count once per token; set loss_type"),
        ("grpo", {"trainer": {"max_steps": 3, "num_train_epochs": 1}}, "both say when to stop"),
        ("rloo", {"trainer": {"bf16": True, "fp16": True}}, "both on; keep one"),
    ],
)
def test_settings_without_sense_are_errors(kind: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SETTINGS[kind](data="prefs", **given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"beta": 0.1}, r"mine.trainer.beta: not to be set here: it is `kl_coef`, beside `trainer`"),
        ({"temperature": 0.7}, r"mine.trainer.temperature: a setting of the stage; write it beside `trainer`"),
        ({"steps_per_generation": 2}, r"steps_per_generation: not to be set here: answers are drawn for one step"),
        ({"eval_strategy": "steps"}, r"eval_strategy: not to be set here: nothing is held out"),
        ({"use_vlm": True}, r"mine.trainer.use_vlm: no such training argument"),
        ({"per_device_train_batch_size": 6}, r"mine.num_generations: 4 does not divide the 6 answers of a step"),
        ({"gradient_accumulation_steps": "3", "per_device_train_batch_size": 2}, r"4 does not divide the 6 answers"),
    ],
)
def test_contradictions_are_found_before_any_work(kind: str, trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        STAGES[kind].check("mine", SETTINGS[kind](data="prefs", trainer=trainer))


def test_groups_may_be_spread_over_accumulated_batches() -> None:
    trainer = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    STAGES["grpo"].check("mine", GRPOSettings(data="prefs", trainer=trainer))
    with pytest.raises(RecipeError, match="12 does not divide the 4 answers"):
        STAGES["grpo"].check("mine", GRPOSettings(data="prefs", num_generations=12, trainer=trainer))


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_reaches_trl(kind: str, tmp_path: Path) -> None:
    import trl

    config = {"rloo": trl.RLOOConfig, "grpo": trl.GRPOConfig}[kind]
    settings = SETTINGS[kind](data="prefs", kl_coef=0.3, max_new_tokens=7, num_iterations=2, epsilon_high=0.3)
    given = settings.trl_arguments()
    args = training_arguments(str(tmp_path), 1, {}, given, config)
    assert {name: getattr(args, name) for name in given} == given
    assert (args.beta, args.max_completion_length, args.num_iterations, args.epsilon_high) == (0.3, 7, 2, 0.3)
    # the rest of TRL's own settings are such that answers are drawn from the policy as it is
    assert (args.top_p, args.top_k, args.min_p, args.repetition_penalty) == (1.0, 0, None, 1.0)
    own = set(type(settings).model_fields) - set(GRPOSettings.__mro__[2].model_fields)
    assert own - {"sample_every"} <= given.keys()


def test_the_gsm8k_recipe_is_checked_as_a_run_would() -> None:
    recipe = load_recipe("recipes/grpo-gsm8k.yaml" if Path("recipes").is_dir() else "grpo-gsm8k")
    stages = {stage.name: stage for stage in recipe.stages}
    assert list(stages) == ["sft", "grpo", "evaluate", "report"]
    for stage in stages.values():
        STAGES[stage.kind].check(stage.name, stage.settings)
    scores = {term.label: term for term in stages["grpo"].settings.reward}  # type: ignore[attr-defined]
    from reward.rules import with_options

    form = with_options("format", scores["format"].options)
    assert [form("", text) for text in ("2 + 2 = 4\n#### 4", "#### 4\nor 5?", "four")] == [1.0, 0.0, 0.0]


# --- TRL on our prompts and scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_our_tokens_and_advantages_those_of_the_formula(
    kind: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    scorer = Given(SCORES)
    own = {"scale_rewards": "group"} if kind == "grpo" else {}
    trainer, rows = trainer_of(kind, tiny_model_dir, tmp_path, scorer, **own)
    trainer.model.train()
    batch = [{"prompt": row.messages, "id": row.id} for row in rows for _ in range(4)]
    with quiet():
        out = trainer._generate_and_score_completions(batch)
    for i, (ids, mask) in enumerate(zip(out["prompt_ids"], out["prompt_mask"], strict=True)):
        assert ids[mask.bool()].tolist() == rows[i // 4].ids
    ids, prompts, responses = scorer.asked
    assert ids == [row.id for row in rows for _ in range(4)]
    assert prompts == [row.messages for row in rows for _ in range(4)]
    tokens = zip(out["completion_ids"], out["completion_mask"], strict=True)
    decode = trainer.processing_class.decode
    assert responses == [decode(row[mask.bool()].tolist(), skip_special_tokens=True) for row, mask in tokens]
    group = torch.tensor(SCORES).view(2, 4)
    if kind == "rloo":  # r_i - mean of the others; the KL is 0, for the adapter is fresh
        expected = group - (group.sum(1, keepdim=True) - group) / 3
    else:  # (r_i - mean) / (std + 1e-4)
        expected = (group - group.mean(1, keepdim=True)) / (group.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(out["advantages"], expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peft", [True, False])
def test_the_reference_is_the_starting_policy(kind: str, peft: bool, tiny_model_dir: Path, tmp_path: Path) -> None:
    """After training, what TRL calls the reference gives the starting policy's log-probabilities."""
    from transformers import AutoModelForCausalLM

    start_policy = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    reference = None if peft else share_prefixes(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    trainer, _ = trainer_of(
        kind, tiny_model_dir, tmp_path, Given(SCORES), peft=peft, reference=reference, num_train_epochs=2, beta=0.05
    )
    assert "ref" not in getattr(trainer.model, "peft_config", {})
    seen: list[tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    real = trainer._get_per_token_logps_and_entropies

    def spy(model: Any, input_ids: Any, mask: Any, keep: int, *args: Any, **kwargs: Any) -> Any:
        found = real(model, input_ids, mask, keep, *args, **kwargs)
        if not torch.is_grad_enabled():
            seen.append((model, input_ids, mask, found[0]))
        return found

    trainer._get_per_token_logps_and_entropies = spy
    with quiet():
        trainer.train()
    assert trainer.beta == trainer.args.beta == 0.05
    _, ids, mask, ref_logps = seen[-1]  # of the last step
    with torch.no_grad():
        logits = start_policy(ids, attention_mask=mask).logits
        logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0][:, -ref_logps.shape[1] :]
    real_tokens = mask[:, -ref_logps.shape[1] :].bool()
    torch.testing.assert_close(ref_logps[real_tokens], logps[real_tokens], rtol=1e-4, atol=1e-4)
    first, *_ = [row for row in trainer.state.log_history if "kl" in row]
    assert first["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_another_reference_stops_the_run_at_its_first_step(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(30)
    trainer, _ = trainer_of(kind, tiny_model_dir, tmp_path, Given(SCORES), peft=False, reference=other)
    with quiet(), pytest.raises(AlignmentError, match="the policy differs from its reference before the first step"):
        trainer.train()


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_told_what_is_trained(
    kind: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer import base_trainer

    def told(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr(base_trainer, "send_telemetry", told)
    monkeypatch.delenv("CI", raising=False)
    trainer_of(kind, tiny_model_dir, tmp_path, Given(SCORES))


def test_the_order_is_trls_and_depends_on_the_epoch_alone() -> None:
    from trl.trainer.utils import RepeatSampler

    ours = GroupSampler(7, per_step=3, group=2, repeats=2, seed=5)
    theirs = RepeatSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=2, seed=5)
    assert list(ours) == list(theirs)
    assert len(ours) == len(list(ours)) == 24
    ours.set_epoch(1)
    second = list(ours)
    again = GroupSampler(7, per_step=3, group=2, repeats=2, seed=5)
    again.set_epoch(1)
    assert second == list(again) != list(theirs)
    neighbour = GroupSampler(7, per_step=3, group=2, repeats=2, seed=6)
    assert list(neighbour) != second  # neighbouring seeds share no epoch


# --- whole runs ------------------------------------------------------------------------------------------------------


def recipe(folder: Path, model: Path, kind: str, **given: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"data": "prefs", "reward": BREVITY, "max_new_tokens": 4, "trainer": TRAINER} | given
    return {
        "name": "tiny",
        "base": f"path:{model}",
        "data": {"prefs": {"source": str(write_records(folder / "records.jsonl"))}},
        "stages": [{kind: settings}],
    }


def run(folder: Path, model: Path, kind: str, **given: Any) -> tuple[list[str], dict[str, Any]]:
    """What the run of one stage says, and the stage's row of the manifest."""
    said: list[str] = []
    parsed = parse_recipe(recipe(folder, model, kind, **given), "x")
    pipeline.run(parsed, folder / "runs" / "tiny", ModelRegistry(folder / "registry"), said.append)
    manifest = json.loads((folder / "runs/tiny/manifest.json").read_text(encoding="utf-8"))
    return said, manifest["stages"][-1]


def lines(folder: Path, kind: str, name: str) -> list[dict[str, Any]]:
    (path,) = (folder / "runs/tiny/stages").glob(f"{kind}-*/{name}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def timeless(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "step_time"} for row in rows]


@pytest.mark.parametrize(("kind", "peft"), [("rloo", {"r": 4}), ("grpo", None)])
def test_a_stage_leaves_a_log_samples_and_a_policy(
    kind: str, peft: dict[str, Any] | None, tiny_model_dir: Path, tmp_path: Path
) -> None:
    said, row = run(
        tmp_path,
        tiny_model_dir,
        kind,
        peft=peft,
        reward=[{"rule": "brevity", "weight": 0.5}, {"rule": "plain"}],
        watch=[{"rule": "finished"}],
        trainer={**TRAINER, "per_device_train_batch_size": 8},
        sample_every=2,
    )
    logs = training_log(tmp_path, kind)
    assert [log["step"] for log in logs] == [1, 2, 3, 4]
    for log in logs:
        terms = [log[f"objective/scores/{name}"] for name in ("brevity", "plain")]
        assert log["objective/scores"] == pytest.approx(0.5 * terms[0] + terms[1])
        assert log["reward"] == log["rewards/reward/mean"] == pytest.approx(log["objective/scores"])
        assert log["objective/response_length"] == pytest.approx(log["completions/mean_length"])
        assert log["objective/eos_rate"] == pytest.approx(1 - log["completions/clipped_ratio"])
        assert log["objective/kl"] == pytest.approx(log["kl"] * log["completions/mean_length"])
        assert "objective/scores/finished" in log
    assert logs[0]["kl"] == pytest.approx(0, abs=1e-6)
    samples = lines(tmp_path, kind, "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1] * 4 + [2] * 4 + [4] * 4
    for sample in samples:
        assert sample["score"] == pytest.approx(0.5 * sample["terms"]["brevity"] + sample["terms"]["plain"])
        assert sample["terms"]["brevity"] == -len(sample["response"])
        assert sample["terms"].keys() == {"brevity", "plain", "finished"}
        assert 1 <= sample["length"] <= 4
    (use,) = row["data"]
    assert (use["n_used"], use["dropped"]) == (29, {})
    assert row["notes"] == ["each epoch leaves out 1 of 29 prompts, others each time: a step takes 2"]
    assert row["metrics"]["steps"] == 4
    assert row["metrics"]["reward"] == pytest.approx(logs[-1]["reward"])
    assert not {"step_time", "train_runtime"} & row["metrics"].keys()
    entry = ModelRegistry(tmp_path / "registry").get(row["models"][kind])
    assert entry.kind == ("adapter" if peft else "policy")
    assert any(f"{kind}  4/4" in line for line in said)
    (folder,) = (tmp_path / "runs/tiny/stages").glob(f"{kind}-*")
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_is_learned(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The longest tokens have five characters: 20 is the best that four tokens can score."""
    trainer = {
        "learning_rate": 0.02,
        "max_steps": 25,
        "per_device_train_batch_size": 32,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "save_strategy": "no",
    }
    run(tmp_path, tiny_model_dir, kind, reward=[{"rule": "length"}], kl_coef=0.0, num_generations=8, trainer=trainer)
    logs = training_log(tmp_path, kind)
    assert logs[0]["objective/scores"] < 7
    assert 19 < logs[-1]["objective/scores"] <= 20
    assert all("kl" not in log for log in logs)


def test_a_models_dropout_is_off(tiny_model_dir: Path, tmp_path: Path) -> None:
    """GPT-2's own is 0.1, with which the policy would differ from its reference, and an answer from itself."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=32, n_layer=2, n_head=2, **ends)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    trainer = {**TRAINER, "max_steps": 1}
    said, row = run(tmp_path, tmp_path / "gpt2", "rloo", trainer=trainer)
    assert said.count("rloo: the model's dropout (0.1) is off in this stage") == 1
    (log,) = training_log(tmp_path, "rloo")
    assert log["kl"] == pytest.approx(0, abs=1e-6)
    saved = ModelRegistry(tmp_path / "registry").path(row["models"]["rloo"])
    assert json.loads((saved / "config.json").read_text(encoding="utf-8"))["resid_pdrop"] == 0.1


def test_fewer_prompts_than_a_step_takes_is_an_error(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"29 prompts, but a step takes 32 \(128 answers, 4 to each\); lower per_device"
    ):
        run(tmp_path, tiny_model_dir, "rloo", trainer={**TRAINER, "per_device_train_batch_size": 128})


class Fails(CheckedScorer):
    """Gives NaN for one answer of the third step."""

    def __init__(self, inner: CheckedScorer) -> None:
        super().__init__(inner.terms)
        self._calls = 0

    def score(self, ids: Sequence[str], prompts: Sequence[Any], responses: Sequence[str]) -> Scored:
        self._calls += 1
        if self._calls == 3:
            raise AlignmentError(f"scorer brevity: the score of {ids[1]} is not finite")
        return super().score(ids, prompts, responses)


@pytest.mark.parametrize(("kind", "num_iterations"), [("rloo", 2), ("grpo", 2), ("grpo", 1)])
def test_a_scorer_error_leaves_no_model_and_the_run_goes_on_exactly(
    kind: str, num_iterations: int, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two updates on the same answers, the checkpoint before the error lies between them."""
    trainer = {**TRAINER, "max_steps": 6, "save_steps": 3 if num_iterations == 2 else 1, "logging_steps": 2}
    given: dict[str, Any] = {"peft": {"r": 4}, "num_iterations": num_iterations, "trainer": trainer}
    given["sample_every"] = num_iterations  # a multiple of it is no step that draws, where two are taken on a draw
    run(tmp_path / "whole", tiny_model_dir, kind, **given)
    killed = tmp_path / "killed"
    real = trl_on_policy.load_scorer
    with monkeypatch.context() as patch:
        patch.setattr(trl_on_policy, "load_scorer", lambda *args: Fails(real(*args)))
        step = 5 if num_iterations == 2 else 3
        with pytest.raises(AlignmentError, match=rf"step {step}: scorer brevity: the score of [0-9a-f]+ is not finite"):
            run(killed, tiny_model_dir, kind, **given)
    assert not list((killed / "registry").glob("tiny-*"))
    said, _ = run(killed, tiny_model_dir, kind, **given)
    assert f"{kind}: resuming from checkpoint-{3 if num_iterations == 2 else 2}" in said
    assert stage_digests(killed) == stage_digests(tmp_path / "whole")
    assert timeless(training_log(killed, kind)) == timeless(training_log(tmp_path / "whole", kind))
    samples = lines(killed, kind, "samples.jsonl")
    assert samples == lines(tmp_path / "whole", kind, "samples.jsonl")
    assert sorted({row["step"] for row in samples}) == list(range(1, 7, num_iterations))


@pytest.mark.slow
def test_kill_dash_nine_and_the_same_command_end_with_the_same_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    import yaml

    kind = "grpo"
    trainer = {**TRAINER, "max_steps": 10, "save_steps": 1, "per_device_train_batch_size": 16}  # 7 steps an epoch
    digests, logs = [], []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        content = recipe(folder, tiny_model_dir, kind, kl_coef=0.1, trainer=trainer)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        if name == "killed":
            process = start(folder, "run", "tiny.yaml")
            deadline = time.monotonic() + 240
            while not list((folder / "runs/tiny/stages").glob(f"{kind}-*/checkpoints/checkpoint-[89]/COMPLETE")):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            assert not list((folder / "runs/tiny/stages").glob(f"{kind}-*/result.json"))
        done = alignment_here(folder, "run", "tiny.yaml")
        assert done.returncode == 0, done.stderr
        assert "arning" not in done.stderr
        assert ("resuming from checkpoint-" in done.stdout + done.stderr) == (name == "killed")
        digests.append(stage_digests(folder))
        logs.append(timeless(training_log(folder, kind)))
    assert digests[0] == digests[1]
    assert logs[0] == logs[1]
