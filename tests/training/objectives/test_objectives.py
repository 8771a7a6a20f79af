"""TRL is the oracle: the same token batch must give the same loss and the same gradients."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PAD, assert_same_gradients, encoded, policy, rows

from alignment.errors import AlignmentError
from alignment.training.logprobs import sequence_logprobs
from alignment.training.losses.pairs import DPO_LOSSES, dpo_loss
from alignment.training.objectives.objective import ordered_right
from alignment.training.objectives.pairs import DPOObjective

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Arguments that make TRL run on the CPU in float32, silently."""
    from trl.trainer import base_trainer

    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *a, **k: None)
    return {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "bf16": False,
        "dataloader_pin_memory": False,
    }


def dpo_batch(folder: Path, n: int = 4) -> tuple[DPOObjective, dict[str, Any], list[dict[str, Any]]]:
    from transformers import AutoModelForCausalLM

    objective, raw = DPOObjective(PAD, beta=0.3), rows(n)
    pairs = [
        {
            "id": str(i),
            "chosen": encoded(row["prompt_ids"], row["chosen_ids"]),
            "rejected": encoded(row["prompt_ids"], row["rejected_ids"]),
            "weight": 1.0,
            "ref_chosen_logps": 0.0,
            "ref_rejected_logps": 0.0,
        }
        for i, row in enumerate(raw)
    ]
    batch = objective.collate(pairs)
    with torch.no_grad():
        logps = sequence_logprobs(AutoModelForCausalLM.from_pretrained(folder), batch)
    batch["ref_chosen_logps"], batch["ref_rejected_logps"] = logps[0::2], logps[1::2]
    return objective, batch, raw


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_dpo_equals_trl(tiny_model_dir: Path, trl: dict[str, Any], label_smoothing: float) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    objective, batch, raw = dpo_batch(tiny_model_dir)
    ours, theirs = policy(tiny_model_dir), policy(tiny_model_dir)
    trainer = DPOTrainer(
        theirs,
        ref_model=AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        args=DPOConfig(**trl, beta=0.3, max_length=None),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),  # never read
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    loss = trainer.compute_loss(theirs, trainer.data_collator(raw))
    measured = objective.loss(ours, batch)
    torch.testing.assert_close(measured.loss, loss, rtol=1e-6, atol=0)
    loss.backward()
    measured.loss.backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(ours, theirs)

    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    for name in measured.sums.keys() - {"loss"}:
        ratio = float(measured.sums[name].sum() / measured.counts[name].sum())
        assert ratio == pytest.approx(logged[name], rel=1e-5), name

    if label_smoothing:  # TRL 1.16 smooths only in its aot losses; its term for it, by hand
        chosen, rejected = (sequence_logprobs(ours, batch)[i::2] for i in (0, 1))
        reference = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        margin = 0.3 * ((chosen - reference[0]) - (rejected - reference[1]))
        expected = -0.9 * margin.sigmoid().log() - 0.1 * (-margin).sigmoid().log()
        losses = dpo_loss(chosen, rejected, *reference, beta=0.3, label_smoothing=0.1)[0]
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def test_dpo_by_hand() -> None:
    chosen, rejected = torch.tensor([-10.0]), torch.tensor([-12.0])
    losses, chosen_rewards, rejected_rewards = dpo_loss(
        chosen, rejected, torch.tensor([-11.0]), torch.tensor([-11.5]), 0.2
    )
    assert chosen_rewards.item() == pytest.approx(0.2)
    assert rejected_rewards.item() == pytest.approx(-0.1)
    assert losses.item() == pytest.approx(math.log1p(math.exp(-0.3)))
    assert DPO_LOSSES["sigmoid"] is dpo_loss


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_the_loss_starts_at_ln_2(label_smoothing: float) -> None:
    logps = torch.tensor([-3.0, -50.0])
    losses, *rewards = dpo_loss(logps, 2 * logps, logps, 2 * logps, 0.1, label_smoothing)
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert not torch.stack(rewards).any()


def test_dpo_stays_finite_far_away() -> None:
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    losses = dpo_loss(chosen, torch.zeros(2), torch.zeros(2), torch.zeros(2), 1.0, 0.1)[0]
    (gradient,) = torch.autograd.grad(losses.sum(), chosen)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()


def test_a_tie_counts_one_half() -> None:
    assert ordered_right(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]


def test_weights_weigh_loss_and_metrics(tiny_model_dir: Path) -> None:
    objective, batch, _ = dpo_batch(tiny_model_dir, 3)
    model = policy(tiny_model_dir)
    each = objective.loss(model, batch).sums["loss"]
    batch["weights"] = torch.tensor([0.5, 0.25, 2.0])
    measured = objective.loss(model, batch)
    torch.testing.assert_close(measured.loss, (each * batch["weights"]).sum() / 2.75)
    assert measured.counts["rewards/margins"].tolist() == [0.5, 0.25, 2.0]
    assert float(objective.weight(batch)) == 2.75


def test_starting_from_the_reference_passes_and_from_elsewhere_does_not(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    objective, batch, _ = dpo_batch(tiny_model_dir)
    start = policy(tiny_model_dir, noise=0.0).train()
    objective.check_start(start, batch, 1e-4)
    assert start.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective.check_start(start, batch, 0.05)
    adapted = get_peft_model(
        policy(tiny_model_dir, noise=0.0), LoraConfig(target_modules="all-linear", lora_dropout=0.5)
    )
    objective.check_start(adapted.train(), batch, 1e-4)
    with pytest.raises(AlignmentError, match=r"the reference is not the starting policy: .* instead of 0\.6931"):
        objective.check_start(policy(tiny_model_dir, noise=0.02), batch, 1e-4)
