"""PPO on a tiny policy: it is exact, it resumes, it stops when it must, and it reaches what can be computed."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from alignment.errors import AlignmentError
from alignment.lora import LoraSettings
from alignment.training.actor_critic import ActorCritic
from alignment.training.collate import pad_rows
from alignment.training.experience import as_responses
from alignment.training.losses.ppo import approx_kl
from alignment.training.ppo import prompt_order
from alignment.training.ppo_update import START_GAP
from alignment.training.samples import SampleLog
from alignment.training.tokens import Encoded
from tests.tiny_ppo import Said, load, rows, scorer, trainer_of


def starts_with_a(text: str) -> float:
    return float(text[:1] == "a")


def first_half(text: str) -> float:
    """1 for a twentieth to a half of the first tokens of a random policy."""
    return float(text[:1].isascii() and "a" <= text[:1] <= "p")


class Logs(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.rows.append(dict(logs))


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.actor.trainable().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before)


# Learning


def probability(model: Any, tokenizer: Any, ids: list[int], rule: Any) -> float:
    with torch.no_grad():
        share = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    good = [rule(tokenizer.decode([token], skip_special_tokens=True)) for token in range(len(share))]
    return float((share * torch.tensor(good)).sum())


@pytest.fixture(scope="module")
def own_head(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output head of its own, which an adapter may be on.

    With the head frozen, as it is under all-linear, the optimum is out of the reach of so small a model: normed states
    of 64 numbers over 300 tokens.
    """
    folder = tmp_path_factory.mktemp("own-head")
    model, tokenizer = load(tiny_model_dir, share=False)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("peft", "learning_rate"),
    [(None, 3e-3), (LoraSettings(r=4, target_modules=["q_proj", "v_proj", "lm_head"]), 1e-2)],
    ids=["all weights", "lora"],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_bandit_over_tokens_reaches_the_optimum_of_its_objective(
    own_head: Path, tmp_path: Path, seed: int, peft: LoraSettings | None, learning_rate: float
) -> None:
    """max E[r] - beta KL(pi | ref): pi* ~ ref exp(r / beta), P*(good) = p e / (p e + 1 - p) with e = exp(1 / beta)."""
    beta = 0.5
    trainer = trainer_of(
        *(own_head, tmp_path, first_half),
        seed=seed,
        peft=peft,
        steps=40,
        batch_size=64,
        micro=64,
        max_new_tokens=1,
        kl_coef=beta,
        learning_rate=learning_rate,
        trainer={"lr_scheduler_type": "linear", "save_steps": 1000},
        num_ppo_epochs=2,
    )
    model, tokenizer = load(own_head)
    ids = rows(tokenizer)[0].ids
    before = probability(model, tokenizer, ids, first_half)
    good, bad = before * math.exp(1 / beta), 1 - before
    best = good / (good + bad)
    trainer.train()
    assert best - before > 0.3
    assert probability(trainer.actor.model, tokenizer, ids, first_half) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_answers_of_a_wanted_length(tiny_model_dir: Path, tmp_path: Path, seed: int) -> None:
    """Six characters, by an end token in the right place or by tokens that give no text: what counts is the score.

    The optimum is 0; an answer that is one character off costs 1/6, so a policy that settled there fails.
    """
    logs = Logs()
    trainer_of(
        *(tiny_model_dir, tmp_path, lambda text: -abs(len(text) - 6) / 6),
        seed=seed,
        steps=80,
        batch_size=64,
        micro=64,
        max_new_tokens=8,
        trainer={"lr_scheduler_type": "linear", "save_steps": 1000},
        callbacks=[logs],
    ).train()
    assert logs.rows[0]["objective/scores"] < -0.4
    assert np.mean([row["objective/scores"] for row in logs.rows[-5:]]) > -0.12


# Exactness


@pytest.mark.parametrize("peft", [None, LoraSettings(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("change", [{"micro": 3}, {"share": False}], ids=["micro-batches", "padded"])
def test_how_a_batch_runs_changes_nothing(
    tiny_model_dir: Path, tmp_path: Path, change: dict[str, Any], peft: LoraSettings | None
) -> None:
    def final(**changes: Any) -> dict[str, torch.Tensor]:
        setting = {"steps": 2, "samples_per_prompt": 2, "learning_rate": 1e-3, "num_mini_batches": 2, "kl_coef": 0.1}
        trainer = trainer_of(tiny_model_dir, tmp_path / "out", len, peft=peft, **{**setting, **changes})
        trainer.train()
        return weights(trainer)

    plain, changed = final(), final(**change)
    assert moved(plain, changed) < 1e-4  # Adam turns rounding of tiny gradients into steps


def test_the_gradient_of_a_mini_batch_is_that_of_all_its_parts(tiny_model_dir: Path, tmp_path: Path) -> None:
    def gradients(micro: int) -> dict[str, torch.Tensor]:
        options = {"num_ppo_epochs": 1, "entropy_coef": 0.01}
        trainer = trainer_of(tiny_model_dir, tmp_path / "g", len, steps=1, micro=micro, kl_coef=0.1, **options)
        trainer._update._max_grad_norm = 0.0
        kept: dict[str, torch.Tensor] = {}

        def keep(*args: Any) -> None:
            kept.update({name: weight.grad.clone() for name, weight in trainer.actor.trainable().items()})

        trainer._optimizer.register_step_pre_hook(keep)
        trainer.train()
        return kept

    whole, parts = gradients(8), gradients(3)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max() + 1e-3))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ratios_are_one_before_anything_is_learned(tiny_model_dir: Path, tmp_path: Path, temperature: float) -> None:
    logs = Logs()
    trainer_of(
        *(tiny_model_dir, tmp_path, len),
        steps=1,
        temperature=temperature,
        peft=LoraSettings(r=4),
        num_ppo_epochs=1,
        callbacks=[logs],
    ).train()
    assert logs.rows[0]["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert logs.rows[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert logs.rows[0]["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)


def test_kl_is_against_the_policy_before_any_update(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model_dir, tmp_path, len, steps=3, peft=LoraSettings(r=4))
    trainer.train()
    base, _ = load(tiny_model_dir)
    sampled = trainer.sample(4)
    exp = trainer._experience(sampled)
    for i, (prompt, answer) in enumerate(zip(sampled.prompts, sampled.answers, strict=True)):
        ids = torch.tensor([prompt.ids + answer.response_ids])
        with torch.no_grad():
            logps = base(ids).logits[0].log_softmax(-1)
        places = range(len(prompt.ids) - 1, ids.shape[1] - 1)
        expected = sum(float(logps[place, ids[0, place + 1]]) for place in places)
        assert float(exp.ref_logps[i].sum()) == pytest.approx(expected, abs=1e-4)
    assert abs(float(exp.kl.mean())) > 1e-3


def test_values_of_their_own_adapter_leave_the_policy_alone(tiny_model_dir: Path) -> None:
    model, tokenizer = load(tiny_model_dir, LoraSettings(r=4))
    actor = ActorCritic(model, value_adapter=True)
    torch.nn.init.ones_(actor.head.linear.weight)
    batch = pad_rows([Encoded(row.ids, [5, 6, 7], [1] * 3) for row in rows(tokenizer, 2)], 2)
    before = actor.act(batch, 1.0)[0].detach()
    with actor.as_value():
        actor.values(batch).sum().backward()
    named = actor.trainable()
    learned = {name for name, weight in named.items() if weight.grad is not None and float(weight.grad.abs().max())}
    assert {name for name in named if ".lora_B.value." in name} <= learned
    assert not [name for name in learned if ".default." in name]
    with torch.no_grad():
        for name, weight in named.items():
            if ".value." in name:
                weight += 1.0
    torch.testing.assert_close(actor.act(batch, 1.0)[0].detach(), before, rtol=0, atol=0)
    actor.act(batch, 1.0)[0].sum().backward()
    assert [name for name, weight in named.items() if ".default." in name and weight.grad is not None]


def test_an_update_ends_early_when_it_has_gone_far(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The mini-batch that finds the policy too far is not learned from: what it saw is what is left."""
    limit = 1e-3
    trainer = trainer_of(
        *(tiny_model_dir, tmp_path, len), steps=1, num_ppo_epochs=10, early_stop_kl=limit, learning_rate=3e-2
    )
    sampled = trainer.sample(1)
    exp, seen = trainer._experience(sampled), []
    check = trainer._update._check
    trainer._update._check = lambda sums, first: (seen.append(sums.mean("approxkl")), check(sums, first))
    metrics = trainer._update(exp, sampled.groups, (0, 1))
    with torch.no_grad():
        left = as_responses(trainer.actor.act(pad_rows(exp.rows, 0), 1.0)[0], exp.mask)
    of_the_policy = float((approx_kl(left, exp.logps) * exp.mask).sum() / exp.mask.sum())
    assert metrics["policy/stopped_early"] == 1
    assert metrics["policy/updates"] == len(seen) - 1
    assert max(seen[:-1]) <= limit < seen[-1] == pytest.approx(of_the_policy, rel=1e-4)
    assert all(weight.grad is None or not weight.grad.any() for weight in trainer.actor.trainable().values())


def test_the_guard_sees_what_the_last_step_made_of_the_policy(tiny_model_dir: Path, tmp_path: Path) -> None:
    """With one step an update, no mini-batch comes after it."""
    trainer = trainer_of(*(tiny_model_dir, tmp_path, len), steps=1, num_ppo_epochs=1, learning_rate=1.0)
    with pytest.raises(AlignmentError, match=r"^step 1: an update has moved the policy by .* nats per token"):
        trainer.train()
    assert not list(tmp_path.glob("**/COMPLETE"))


def test_a_score_too_large_to_learn_from_names_its_prompt(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(*(tiny_model_dir, tmp_path, lambda text: 3e38 if len(text) % 2 else -3e38), steps=1)
    ids = "|".join(prompt.id for prompt in trainer._prompts)
    with pytest.raises(AlignmentError, match=rf"^step 1: prompt ({ids}): its score -?3e\+38 is too large"):
        trainer.train()


def broken(trainer: Any, part: str) -> None:
    """Weights of one part of the actor become no numbers."""
    with torch.no_grad():
        {
            "reference": lambda: trainer.actor.reference.model.norm.weight,
            "policy": lambda: trainer.actor.model.model.norm.weight,
            "values": lambda: trainer.actor.head.linear.weight,
        }[part]().fill_(math.nan)


@pytest.mark.parametrize(
    ("part", "message", "settings"),
    [
        ("reference", "the reference's log-probabilities of its answer are not finite: the model", {"kl_coef": 0.1}),
        ("policy", "the log-probabilities of its answer are not finite: the model has diverged", {}),
        ("values", "the values of its answer are not finite: the model has diverged", {}),
        (
            "values",
            "the values of its answer are not finite: the value function has diverged; lower the learning rate",
            {"peft": LoraSettings(r=4), "value_adapter": True},
        ),
    ],
)
def test_numbers_that_are_not_finite_are_not_blamed_on_the_score(
    tiny_model_dir: Path, tmp_path: Path, part: str, message: str, settings: dict[str, Any]
) -> None:
    trainer = trainer_of(*(tiny_model_dir, tmp_path, len), steps=1, **settings)
    broken(trainer, part)
    with pytest.raises(AlignmentError, match=rf"^step 1: prompt prompt-\d: {message}"):
        trainer.train()


def test_the_larger_of_value_and_score_is_too_large(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Finite values whose advantages are not: the prompt is the one with the largest."""
    trainer = trainer_of(*(tiny_model_dir, tmp_path, len), steps=1)
    sampled = trainer.sample(1)
    exp = trainer._experience(sampled)
    values = exp.values.clone()
    values[3, 0] = -3e38
    broken_values = replace(exp, values=values, advantages=exp.advantages / 0)
    with pytest.raises(AlignmentError, match=r"a value of its answer, 3e\+38 in size, is too large") as error:
        trainer._learnable(sampled, broken_values)
    assert str(error.value).startswith(f"prompt {sampled.prompts[3].id}: ")


def test_an_early_stop_below_rounding_is_an_error(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Every update would end before its first step, and the model that is registered would be the one given."""
    trainer = trainer_of(*(tiny_model_dir, tmp_path, len), steps=2, early_stop_kl=1e-20)
    with pytest.raises(AlignmentError, match=r"^step 1: ppo.early_stop_kl 1e-20 is less than rounding .*; raise it$"):
        trainer.train()


def test_every_epoch_takes_every_prompt_once() -> None:
    taken = [i for step in range(1, 7) for i in prompt_order(9, 3, step, seed=5)]
    assert sorted(taken[:9]) == sorted(taken[9:]) == list(range(9))
    assert taken[:9] != taken[9:]
    assert sorted(prompt_order(2, 5, 1, seed=0)).count(0) in (2, 3)  # more answers than prompts


def test_the_coefficient_follows_the_kl_as_in_ziegler(tiny_model_dir: Path, tmp_path: Path) -> None:
    """beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), from the KL of the step before."""
    logs = Logs()
    target, horizon, n = 0.02, 40, 16
    trainer_of(
        *(tiny_model_dir, tmp_path, len),
        steps=6,
        batch_size=n,
        micro=n,
        kl_coef=0.3,
        peft=LoraSettings(r=4),
        adaptive_kl={"target": target, "horizon": horizon},
        callbacks=[logs],
    ).train()
    assert logs.rows[0]["objective/kl_coef"] == 0.3
    errors = [max(-0.2, min(0.2, row["objective/kl"] / target - 1)) for row in logs.rows]
    for row, error, following in zip(logs.rows, errors, logs.rows[1:], strict=False):
        expected = row["objective/kl_coef"] * (1 + error * n / horizon)
        assert following["objective/kl_coef"] == pytest.approx(expected, rel=1e-6)
    for row in logs.rows:  # and it is what the KL costs, by the estimator k1
        cost = -row["objective/kl_coef"] * row["objective/kl"]
        assert row["objective/non_score_reward"] == pytest.approx(cost, rel=1e-5, abs=1e-7)
    assert min(errors) == -0.2  # at the start there is no KL
    assert max(errors) > -0.2


# Resuming


@pytest.mark.parametrize(
    "options",
    [
        {"peft": None},
        {"peft": LoraSettings(r=4), "value_adapter": True},
        {"peft": LoraSettings(r=4), "adaptive_kl": {"target": 0.01, "horizon": 50}, "normalize_scores": True},
    ],
    ids=["full", "value-adapter", "adaptive"],
)
def test_a_resumed_run_is_the_uninterrupted_one(tiny_model_dir: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    def build(folder: Path, logs: Logs, score: Any = None) -> Any:
        setting = {"steps": 4, "kl_coef": 0.1, "learning_rate": 1e-3, "score": score, "callbacks": [logs]}
        samples = SampleLog(folder / "samples.jsonl", every=1, count=2)
        linear = {"lr_scheduler_type": "linear"}
        return trainer_of(tiny_model_dir, folder, len, samples=samples, trainer=linear, **{**setting, **options})

    whole_logs, logs = Logs(), Logs()
    whole = build(tmp_path / "whole", whole_logs)
    whole.train()
    calls = 0

    def dies(*wanted: Any) -> Said:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return scorer(len)(*wanted)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", logs, dies).train()
    again = build(tmp_path / "cut", logs)
    assert again.load() == 2
    again.train()
    assert logs.rows == whole_logs.rows
    assert moved(weights(whole), weights(again)) == 0
    texts = [(tmp_path / name / "samples.jsonl").read_text() for name in ("whole", "cut")]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 8


def test_a_finished_run_only_loads(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model_dir, tmp_path, len, steps=2)
    metrics = trainer.train()

    def never(*wanted: Any) -> Said:
        raise AssertionError("scored again")

    again = trainer_of(tiny_model_dir, tmp_path, len, steps=2, score=never)
    assert again.load() == 2
    assert again.train() == metrics
    assert moved(weights(trainer), weights(again)) == 0


# What stops it


def test_a_scorer_that_raises_leaves_the_policy_as_it_was(tiny_model_dir: Path, tmp_path: Path) -> None:
    def broken(*wanted: Any) -> Said:
        raise AlignmentError("scorer rule: prompt-3: the score is nan")

    trainer = trainer_of(tiny_model_dir, tmp_path, len, score=broken)
    before = weights(trainer)
    with pytest.raises(AlignmentError, match=r"step 1: scorer rule: prompt-3: the score is nan"):
        trainer.train()
    assert moved(before, weights(trainer)) == 0
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_policy_far_away_stops_the_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(
        *(tiny_model_dir, tmp_path, starts_with_a), steps=40, learning_rate=3e-2, guard={"max_kl": 1.0}
    )
    with pytest.raises(
        AlignmentError,
        match=r"step \d+: the policy is .* nats per answer away .*max_kl 1; raise kl_coef, .*start the stage over",
    ):
        trainer.train()


def test_an_update_that_runs_away_stops_the_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(
        *(tiny_model_dir, tmp_path, len),
        steps=20,
        learning_rate=1.0,
        guard={"max_ratio": 2.0, "max_kl": None, "max_log_ratio": None},
    )
    with pytest.raises(AlignmentError, match=r"mean probability ratio of a mini-batch is .*max_ratio 2"):
        trainer.train()


def test_log_probabilities_that_disagree_stop_the_run(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignment.training import ppo

    sample = ppo.rollouts

    def off(*args: Any, **kwargs: Any) -> Any:
        shift = 2 * START_GAP
        return [
            [answer._replace(logps=[x - shift for x in answer.logps]) for answer in group]
            for group in sample(*args, **kwargs)
        ]

    monkeypatch.setattr(ppo, "rollouts", off)
    trainer = trainer_of(tiny_model_dir, tmp_path, len, steps=1)
    before = weights(trainer)
    with pytest.raises(AlignmentError, match="before anything was learned"):
        trainer.train()
    assert moved(before, weights(trainer)) == 0


def test_a_gradient_that_is_not_finite_is_not_stepped_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model_dir, tmp_path, len, steps=1, trainer={"max_grad_norm": 1.0})
    before = weights(trainer)
    trainer.actor.head.linear.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(AlignmentError, match="gradient is not finite"):
        trainer.train()
    assert moved(before, weights(trainer)) == 0


def test_roles_that_contradict_each_other(tiny_model_dir: Path) -> None:
    from alignment.errors import ModelError

    plain, _ = load(tiny_model_dir)
    adapted, _ = load(tiny_model_dir, LoraSettings(r=4))
    with pytest.raises(ModelError, match="without and a frozen reference"):
        ActorCritic(plain)
    with pytest.raises(ModelError, match="without and a frozen reference"):
        ActorCritic(adapted, plain)
    with pytest.raises(ModelError, match="set peft"):
        ActorCritic(plain, load(tiny_model_dir)[0], value_adapter=True)


def test_checkpoints_hold_no_pickles(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer_of(tiny_model_dir, tmp_path, len, steps=2, peft=LoraSettings(r=4)).train()
    (folder,) = tmp_path.glob("checkpoint-*")
    names = {path.name for path in folder.iterdir()}
    assert names == {"trainable.safetensors", "optimizer.safetensors", "state.json", "COMPLETE"}
    assert json.loads((folder / "state.json").read_text())["step"] == 2
