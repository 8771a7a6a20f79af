"""PPO whose answers a server samples: it is that of the own decoder, and it stops where the server is another model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from alignment.errors import AlignmentError, ModelError
from alignment.generation.vllm_server import VLLMServer
from alignment.lora import LoraSettings
from alignment.training import vllm_rollouts
from alignment.training.actor_critic import ActorCritic
from alignment.training.ppo import DRAWS
from alignment.training.rollouts import rollouts
from alignment.training.tokens import Encoded
from alignment.training.vllm_options import VLLMOptions
from alignment.training.vllm_rollouts import Passes, VLLMRollouts, agreement, answer_seed, own_view
from tests.conftest import build_tiny_model
from tests.tiny_ppo import load, rows, trainer_of
from tests.vllm_server import FakeVLLM, serving

LORA = LoraSettings(r=4)
MEAN, MAX = "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"


class Logs(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.rows.append(dict(logs))


@pytest.fixture
def fake(tiny_model_dir: Path) -> Iterator[FakeVLLM]:
    """It draws what the own decoder draws for seed 0."""
    keys = [(DRAWS, 0, step, place, j) for step in range(1, 7) for place in range(8) for j in range(2)]
    with serving(FakeVLLM(tiny_model_dir, {answer_seed(key): key for key in keys})) as running:
        yield running


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_rollouts, "VLLMServer", partial(VLLMServer, retries=2, pause=0.01))


def sampler(fake: FakeVLLM, folder: Path, **options: Any) -> VLLMRollouts:
    return VLLMRollouts(VLLMOptions(vllm=fake.url, **options), "path:tiny", 4, folder)


def trainer(model: Path, folder: Path, **changes: Any) -> Any:
    settings = {"steps": 2, "learning_rate": 1e-3, "kl_coef": 0.1, "peft": LORA, "num_mini_batches": 2, **changes}
    return trainer_of(model, folder, len, **settings)


def weights(made: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in made.actor.trainable().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.7, "samples_per_prompt": 2, "micro": 3},
        {"value_adapter": True},
    ],
    ids=["plain", "temperature", "value-adapter"],
)
def test_the_run_is_that_of_the_own_decoder(
    tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM, changes: dict[str, Any]
) -> None:
    here, there = Logs(), Logs()
    own = trainer(tiny_model_dir, tmp_path / "own", callbacks=[here], **changes)
    own.train()
    place = tmp_path / "served"
    served = trainer(tiny_model_dir, place, callbacks=[there], server=sampler(fake, place), **changes)
    served.train()
    assert moved(weights(own), weights(served)) < 1e-4  # Adam turns rounding of tiny gradients into steps
    for mine, its in zip(here.rows, there.rows, strict=True):
        assert its[MEAN] < 1e-5
        assert its["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-5)
        assert {name: its[name] for name in mine} == pytest.approx(mine, rel=1e-3, abs=1e-4)
    assert len(set(fake.names)) == 2  # a name of its own for each step
    assert fake.loaded == {}
    assert not list((place / "vllm").iterdir())


def test_an_own_pass_gives_what_decoding_gave(tiny_model_dir: Path) -> None:
    model, tokenizer = load(tiny_model_dir, LORA)
    actor = ActorCritic(model)
    torch.nn.init.normal_(actor.head.linear.weight)
    prompts = [row.ids for row in rows(tokenizer)]
    found = rollouts(
        *(model, tokenizer, prompts),
        max_new_tokens=5,
        temperature=0.7,
        seeds=[(i,) for i in range(8)],
        value=actor.head,
        bf16=False,
    )
    answers = [group[0] for group in found]
    encoded = [Encoded(p, a.response_ids, [1] * len(a.response_ids)) for p, a in zip(prompts, answers, strict=True)]
    logps, values = own_view(actor, encoded, 0.7, Passes(3, 2, torch.no_grad))
    assert values is not None
    for i, answer in enumerate(answers):
        assert logps[i] == pytest.approx(answer.logps, abs=1e-5)
        assert values[i] == pytest.approx(answer.values, abs=1e-4)


def test_agreement_by_hand() -> None:
    found = agreement(sampled=[math.log(0.5), math.log(0.2)], own=[math.log(0.4), math.log(0.3)])
    assert found == pytest.approx(
        {
            MEAN: (math.log(1.25) + math.log(1.5)) / 2,
            MAX: math.log(1.5),
            "sampling/importance_sampling_ratio/min": 0.8,
            "sampling/importance_sampling_ratio/mean": 1.15,
            "sampling/importance_sampling_ratio/max": 1.5,
        }
    )


def test_every_answer_has_a_seed_of_its_own() -> None:
    keys = [(7, step, place, j) for step in range(20) for place in range(20) for j in range(4)]
    seeds = [answer_seed(key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [answer_seed(key) for key in keys]


# A server that is not the policy


def test_another_model_on_the_server_stops_the_run(tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM) -> None:
    fake.base = build_tiny_model(tmp_path / "other", seed=1)
    made = trainer(tiny_model_dir, tmp_path, server=sampler(fake, tmp_path, max_logp_difference=0.001))
    before = weights(made)
    with pytest.raises(AlignmentError, match=r"step 1: log-probabilities .* beyond rollouts.max_logp_difference 0.001"):
        made.train()
    assert moved(before, weights(made)) == 0
    assert not list(tmp_path.glob("checkpoint-*"))
    assert fake.loaded == {}


def test_raw_log_probabilities_are_wrong_at_a_temperature(tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM) -> None:
    fake.raw_logprobs = True
    trainer(tiny_model_dir, tmp_path / "1", server=sampler(fake, tmp_path, max_logp_difference=0.001)).train()
    made = trainer(
        tiny_model_dir, tmp_path / "2", server=sampler(fake, tmp_path, max_logp_difference=0.001), temperature=0.5
    )
    with pytest.raises(AlignmentError, match=r"at temperature 0.5 started with --logprobs-mode processed_logprobs"):
        made.train()


def test_a_server_that_leaves_the_adapter_out(tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM) -> None:
    fake.ignores_adapter = True
    made = trainer(tiny_model_dir, tmp_path, server=sampler(fake, tmp_path, max_logp_difference=0.001))
    for name, weight in made.actor.trainable().items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    with pytest.raises(AlignmentError, match="with this adapter on it"):
        made.train()


def test_tokens_the_policy_does_not_have(
    tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = '{"choices": [{"token_ids": [5, 6, 7, 4000], "logprobs": {"token_logprobs": [-1, -1, -1, -1]}}]}'
    monkeypatch.setattr(fake, "complete", lambda body: (200, said))
    with pytest.raises(ModelError, match=r"step 1: .* answers token 4000, the policy has \d+: it serves another model"):
        trainer(tiny_model_dir, tmp_path, server=sampler(fake, tmp_path)).train()


# A server that fails


def test_a_server_that_dies_costs_no_step(tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM) -> None:
    """And the run that goes on is the uninterrupted one, log for log."""

    def build(folder: Path, logs: Logs) -> Any:
        return trainer(tiny_model_dir, folder, steps=4, batch_size=4, callbacks=[logs], server=sampler(fake, folder))

    whole_logs, logs = Logs(), Logs()
    whole = build(tmp_path / "whole", whole_logs)
    whole.train()
    fake.dies_after = len(fake.bodies) + 2 * 4 + 1
    with pytest.raises(ModelError, match=r"step 3: http.*: the server does not answer after 2 retries"):
        build(tmp_path / "cut", logs).train()
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-2"]
    assert not list((tmp_path / "cut" / "vllm").iterdir())
    fake.dies_after = None
    again = build(tmp_path / "cut", logs)
    assert again.load() == 2
    again.train()
    assert logs.rows == whole_logs.rows
    assert moved(weights(whole), weights(again)) == 0


def test_what_a_killed_run_left_is_taken_away(tiny_model_dir: Path, tmp_path: Path, fake: FakeVLLM) -> None:
    """Of this stage, on the server and on disk; not what others put there."""
    shared = tmp_path / "shared"
    left, other = (sampler(fake, tmp_path / name, adapter_folder=str(shared)) for name in ("one", "two"))
    model, _ = load(tiny_model_dir, LORA)
    cut_off = [one._adapter(model) for one in (left, other)]
    for each in cut_off:
        each.__enter__()
    assert len(fake.loaded) == len(list(shared.iterdir())) == 2
    sampler(fake, tmp_path / "one", adapter_folder=str(shared)).check(100)
    assert [name.startswith("two-") for name in fake.loaded] == [True]
    assert [path.name.startswith("two-") for path in shared.iterdir()] == [True]


def test_a_server_that_cannot_be_used_is_one_error_with_the_command(tmp_path: Path, fake: FakeVLLM) -> None:
    command = r"alignment models export path:tiny policy && VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve policy .*"
    command += r"--max-lora-rank 8 .*--max-model-len 700 --host 127.0.0.1 --port \d+$"
    with pytest.raises(ModelError, match=rf"takes 512 tokens, .* are 700; start it with: {command}"):
        sampler(fake, tmp_path).check(700)
    fake.runtime_lora = False
    with pytest.raises(ModelError, match=rf"loads no adapters at run time.*; start one with: {command}"):
        sampler(fake, tmp_path).check(700)
    nowhere = VLLMRollouts(VLLMOptions(vllm="http://127.0.0.1:9"), "path:tiny", 4, tmp_path)
    with pytest.raises(ModelError, match=rf"does not answer .*; start one with: {command}"):
        nowhere.check(700)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "is no address"),
        ("ftp://x", "is no address"),
        ("http://key:secret@x", "leave keys out"),
        ("http://x/v1", "leave out /v1"),
    ],
)
def test_addresses(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMOptions(vllm=url)
    assert VLLMOptions(vllm="http://x:1/").vllm == "http://x:1"
