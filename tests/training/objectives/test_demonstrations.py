"""Supervised fine-tuning equals TRL's, value and gradient, on the same tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PAD, assert_same_gradients, encoded, policy, rows

from alignment.training.objectives.demonstrations import SFTObjective


def test_equals_trl(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    pairs = rows(4)
    demonstrations: list[Any] = [
        {"id": str(i), "row": encoded(pair["prompt_ids"], pair["chosen_ids"])} for i, pair in enumerate(pairs)
    ]
    ours, theirs = policy(tiny_model_dir), policy(tiny_model_dir)
    objective = SFTObjective(PAD)
    batch = objective.collate(demonstrations)
    measured = objective.loss(ours, batch)
    measured.loss.backward()

    labels = [[i if m else -100 for i, m in zip(d["row"].ids, d["row"].mask, strict=True)] for d in demonstrations]
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    trainer = SFTTrainer(
        model=theirs,
        args=SFTConfig(
            str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            activation_checkpointing=False,
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_dict({"input_ids": [d["row"].ids for d in demonstrations], "labels": labels}),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    their_batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    loss = trainer.compute_loss(theirs.train(), dict(their_batch))
    loss.backward()
    torch.testing.assert_close(measured.loss, loss, rtol=1e-6, atol=1e-6)
    assert_same_gradients(ours, theirs)
    accuracy = measured.sums["mean_token_accuracy"].sum() / measured.counts["mean_token_accuracy"].sum()
    assert float(accuracy) == pytest.approx(trainer._metrics["train"]["mean_token_accuracy"][0], abs=1e-6)


def test_every_scored_token_weighs_the_same(tiny_model_dir: Path) -> None:
    pairs = rows(3)
    demonstrations: list[Any] = [
        {"id": str(i), "row": encoded(pair["prompt_ids"], pair["chosen_ids"])} for i, pair in enumerate(pairs)
    ]
    objective, model = SFTObjective(PAD), policy(tiny_model_dir)
    whole = objective.collate(demonstrations)
    parts = [objective.collate(demonstrations[:1]), objective.collate(demonstrations[1:])]
    tokens = [float(objective.weight(part)) for part in parts]
    assert sum(tokens) == float(objective.weight(whole)) == sum(len(pair["chosen_ids"]) for pair in pairs)
    expected = sum(n * float(objective.loss(model, part).loss.detach()) for n, part in zip(tokens, parts, strict=True))
    assert float(objective.loss(model, whole).loss.detach()) == pytest.approx(expected / sum(tokens), rel=1e-5)
