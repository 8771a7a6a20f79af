"""RLOO's and GRPO's trainer: what answers are drawn from, where their tokens stand, and how far they are in nats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_groups import KINDS, SCORES, Given, drawn, trainer_of
from torch import Tensor

from alignment.errors import RecipeError
from alignment.runtime import quiet

OFTEN = [2, *range(3, 100)]  # tokens that end an answer: about a third of what the tiny model says


def with_ends(folder: Path, model_dir: Path, ends: list[int]) -> Path:
    """The model with other tokens that end an answer."""
    shutil.copytree(model_dir, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"eos_token_id": ends}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peft", [True, False])
def test_a_models_own_sampling_settings_do_not_bend_the_draw(
    kind: str, peft: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    trainer, rows = trainer_of(
        kind, with_ends(tmp_path / "m", tiny_model_dir, OFTEN), tmp_path, Given(SCORES), peft=peft, beta=0.0
    )
    plain = drawn(trainer, rows)
    own = trainer.model.get_base_model().generation_config if peft else trainer.model.generation_config
    given = {"suppress_tokens": list(range(50, 200)), "min_p": 0.5, "typical_p": 0.1, "epsilon_cutoff": 0.004}
    given |= {"no_repeat_ngram_size": 1, "num_beams": 2, "min_new_tokens": 4}
    own.update(**given)
    again = drawn(trainer, rows)
    assert torch.equal(plain["completion_ids"], again["completion_ids"])
    assert (own.min_p, own.num_beams) == (0.5, 2)
    assert own is (trainer.model.get_base_model() if peft else trainer.model).generation_config
    # every token that ends an answer for the model still does
    lengths = plain["completion_mask"].sum(1)
    assert set(trainer.eos_token_ids) == set(OFTEN)
    assert 0 < int((lengths < 5).sum()) < 8
    for ids, length in zip(plain["completion_ids"].tolist(), lengths.tolist(), strict=True):
        assert not set(ids[: length - 1]) & set(OFTEN)


def test_the_models_own_settings_are_there_again_after_an_error(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer, _ = trainer_of("rloo", tiny_model_dir, tmp_path, Given(SCORES), peft=False, beta=0.0)
    own = trainer.model.generation_config
    with pytest.raises(TypeError):
        trainer._generate_single_turn()
    assert trainer.model.generation_config is own


def family(name: str, folder: Path, model_dir: Path) -> Path:
    """GPT-2 has learned positions; Bloom's forward takes none."""
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    if name == "gpt2":
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=32, **sizes, **ends, **none)).save_pretrained(folder)
    else:
        BloomForCausalLM(BloomConfig(hidden_size=32, **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "share"), [("gpt2", True), ("gpt2", False), ("bloom", False)])
def test_an_answer_scores_as_if_it_were_alone(
    kind: str, name: str, share: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """TRL pads prompts on the left: a token's place is counted from its own prompt's first, not from the padding."""
    from transformers import AutoModelForCausalLM

    model_dir = family(name, tmp_path / name, tiny_model_dir)
    trainer, rows = trainer_of(kind, model_dir, tmp_path, Given(SCORES), peft=False, share=share, beta=0.0)
    out = drawn(trainer, rows)
    ids = torch.cat([out["prompt_ids"], out["completion_ids"]], dim=1)
    mask = torch.cat([out["prompt_mask"], out["completion_mask"]], dim=1)
    kept = out["completion_ids"].shape[1]
    with torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept, 3)[0]
        alone = AutoModelForCausalLM.from_pretrained(model_dir).eval()
        for i, row in enumerate(ids):
            text = row[mask[i].bool()]
            length = int(out["completion_mask"][i].sum())
            logps = alone(text[None]).logits[0].log_softmax(-1)
            expected = logps[:-1].gather(1, text[1:, None])[-length:, 0]
            torch.testing.assert_close(found[i, :length], expected, rtol=1e-4, atol=1e-4)


def moved(trainer: Any) -> None:
    """An adapter that does something: a policy away from its reference."""
    torch.manual_seed(1)
    for name, weights in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)


def per_token_kl(trainer: Any, kind: str, out: dict[str, Any]) -> Tensor:
    """(N, T), nats: k1 for RLOO, k3 for GRPO, of the adapter on and off."""
    ids = torch.cat([out["prompt_ids"], out["completion_ids"]], dim=1)
    mask = torch.cat([out["prompt_mask"], out["completion_mask"]], dim=1)
    kept = out["completion_ids"].shape[1]
    with torch.no_grad():
        policy = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept)[0]
        with trainer.model.disable_adapter():
            reference = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept)[0]
    ratio: Tensor = policy - reference
    return ratio if kind == "rloo" else (-ratio).exp() + ratio - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_kl_is_of_the_answers_that_count(kind: str, masked: bool, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The mean over answers of the sum over tokens; with mask_truncated_completions over the answers that ended."""
    trainer, rows = trainer_of(
        kind,
        with_ends(tmp_path / "m", tiny_model_dir, OFTEN),
        tmp_path,
        Given(SCORES),
        mask_truncated_completions=masked,
    )
    moved(trainer)
    out = drawn(trainer, rows)
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, out)
    counts = out["completion_mask"].any(dim=1)
    assert counts.sum() < 8 if masked else counts.all()
    kl = (per_token_kl(trainer, kind, out) * out["completion_mask"]).sum(1)
    assert trainer._metrics["train"]["objective/kl"] == [pytest.approx(float(kl[counts].mean()), rel=1e-4)]
    assert abs(float(kl[counts].mean())) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_token_counts_no_kl_is_logged(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer, _ = trainer_of(
        kind,
        with_ends(tmp_path / "m", tiny_model_dir, [2]),
        tmp_path,
        Given(SCORES),
        mask_truncated_completions=True,
        max_completion_length=2,
        max_steps=2,
    )
    with quiet():
        trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["completions/clipped_ratio"] for log in logs] == [1.0, 1.0]
    assert not [log for log in logs if "objective/kl" in log]


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_of_several_steps_is_their_mean(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Not the product of a mean KL per token and a mean length; also where two updates are made on a draw."""
    model_dir, logs = with_ends(tmp_path / "m", tiny_model_dir, OFTEN), []
    for steps in (1, 4):
        trainer, _ = trainer_of(
            kind,
            model_dir,
            tmp_path,
            Given(SCORES),
            max_steps=4,
            num_iterations=2 if kind == "grpo" else 1,
            logging_steps=steps,
            logging_first_step=False,
            learning_rate=0.1,
        )
        with quiet():
            trainer.train()
        logs.append([log for log in trainer.state.log_history if "loss" in log])
    each, (whole,) = logs
    assert len({log.get("objective/response_length") for log in each}) > 2
    assert whole["objective/kl"] == pytest.approx(sum(log["objective/kl"] for log in each) / 4, rel=1e-6)
    assert whole["objective/kl"] != pytest.approx(whole["kl"] * whole["objective/response_length"], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_that_never_ends_is_refused(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    slow = {"lr_scheduler_type": "linear", "warmup_steps": 3, "max_steps": 3}
    trainer, _ = trainer_of(kind, tiny_model_dir, tmp_path, Given(SCORES), **slow)
    with quiet(), pytest.raises(RecipeError, match=r"^trainer\.warmup_steps: 3 steps of warm-up, but the run has 3: "):
        trainer.train()
