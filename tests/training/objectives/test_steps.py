"""Process rewards: TRL's former PRMTrainer, a token classifier over two classes, is the same loss."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PAD, assert_same_gradients, classifier, encoded
from torch.nn import functional

from alignment.errors import DataError
from alignment.training.objectives import steps as steps_module
from alignment.training.objectives.steps import ProcessRewardObjective, StepRow, collate_steps
from alignment.training.prefix_sharing import share_prefixes

ROWS: list[StepRow] = [
    {"id": "a", "row": encoded([5, 6], [7, 8, 9, 10]), "ends": [3, 5], "labels": [1.0, 0.0]},
    {"id": "b", "row": encoded([11], [12, 13, 14, 15, 16, 17]), "ends": [2, 4, 6], "labels": [None, 0.75, 1.0]},
]


def changed(**changes: Any) -> StepRow:
    return {**ROWS[0], **changes}  # type: ignore[typeddict-item,return-value]


def test_ends_and_labels_are_padded_with_what_means_nothing() -> None:
    batch = collate_steps(ROWS, PAD)
    assert batch["step_ends"].tolist() == [[3, 5, -1], [2, 4, 6]]
    assert batch["step_labels"].tolist() == [
        pytest.approx([1.0, 0.0, math.nan], nan_ok=True),
        pytest.approx([math.nan, 0.75, 1.0], nan_ok=True),
    ]
    assert batch["row_record"].tolist() == [0, 1]
    assert batch["ids"] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1.0]}, "every step has an end and a label or None"),
        ({"labels": [None, None]}, "one at least has a label"),
        ({"labels": [1.0, 2.0]}, "a step's label lies in 0..1"),
        ({"ends": [5, 3]}, "step ends must rise within the row of 6 tokens"),
        ({"ends": [3, 6]}, "step ends must rise within the row of 6 tokens"),
        ({"ends": [3, 3]}, "step ends must rise"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"record a: .*{message}"):
        collate_steps([changed(**changes)], PAD)


def test_loss_and_gradient_equal_a_token_classifier_of_two_classes(tiny_model_dir: Path) -> None:
    """Logits (0, z) and labels -100 everywhere but at the ends: what TRL's PRMTrainer gave to the model."""
    rows = [ROWS[0], changed(id="c", row=ROWS[1]["row"], ends=[2, 4, 6], labels=[1.0, 1.0, 0.0])]
    ours, theirs = classifier(tiny_model_dir), classifier(tiny_model_dir)
    objective = ProcessRewardObjective(PAD)
    batch = objective.collate(rows)
    measured = objective.loss(ours, batch)
    measured.loss.backward()  # type: ignore[no-untyped-call]

    hidden = theirs.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    z = theirs.score(hidden)
    labels = torch.full(batch["input_ids"].shape, -100)
    for n, row in enumerate(rows):
        for end, label in zip(row["ends"], row["labels"], strict=True):
            labels[n, end] = int(label or 0)
    logits = torch.cat([torch.zeros_like(z), z], dim=-1)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(measured.loss, loss, rtol=1e-6, atol=0)
    assert_same_gradients(ours, theirs)
    right = (logits.argmax(-1) == labels)[labels >= 0].float().mean()
    assert measured.sums["step_accuracy"].sum() / measured.counts["step_accuracy"].sum() == right


def test_shared_prefixes_change_nothing(tiny_model_dir: Path) -> None:
    objective = ProcessRewardObjective(PAD)
    batch = objective.collate(ROWS)
    padded, shared = classifier(tiny_model_dir), share_prefixes(classifier(tiny_model_dir), 8)
    losses = [objective.loss(model, batch).loss for model in (padded, shared)]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shared.score.weight.grad, padded.score.weight.grad, rtol=1e-4, atol=1e-6)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([[2.0], [-1.0], [0.5], [1.5], [-0.5]])  # the steps of a, then of b
    monkeypatch.setattr(steps_module, "position_rewards", lambda model, batch, rows, positions: values)
    objective = ProcessRewardObjective(PAD)
    batch = objective.collate(ROWS)
    measured = objective.loss(None, batch)

    def p(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    first = -math.log(p(2.0)) - math.log(p(1.0))
    second = -0.75 * math.log(p(1.5)) - 0.25 * math.log(p(-1.5)) - math.log(p(-0.5))
    assert measured.sums["loss"].tolist() == pytest.approx([first, second])
    assert measured.loss.item() == pytest.approx((first + second) / 4)  # four labelled steps weigh the same
    assert float(objective.weight(batch)) == 4.0
    assert measured.sums["step_accuracy"].tolist() == [2.0, 1.0]
    assert measured.counts["step_accuracy"].tolist() == [2.0, 2.0]
    mean = measured.sums["mean_reward"].sum() / measured.counts["mean_reward"].sum()
    assert float(mean) == pytest.approx((p(2.0) + p(-1.0) + p(1.5) + p(-0.5)) / 4)
    objective.check_start(None, batch, 0.0)
    assert not objective.coupled


def test_an_even_vote_has_a_loss_but_no_right_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "position_rewards", lambda *a: torch.tensor([[3.0], [0.0]]))
    objective = ProcessRewardObjective(PAD)
    measured = objective.loss(None, objective.collate([changed(labels=[0.5, 1.0])]))
    assert measured.counts["step_accuracy"].tolist() == [1.0]
    assert measured.sums["step_accuracy"].tolist() == [0.5]  # a logit of 0 takes no side
    assert measured.counts["loss"].tolist() == [2.0]
