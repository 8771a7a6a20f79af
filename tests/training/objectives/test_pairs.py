"""Pairs as rows, batches and an objective; against TRL: test_pairs_trl.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PAD, policy, pretrained, reference_rows, rows

from alignment.errors import AlignmentError, DataError, RecipeError
from alignment.training.losses.pair_options import REFERENCE_FREE, PairOptions
from alignment.training.losses.pairs import DPO_LOSSES
from alignment.training.metrics import Meter
from alignment.training.objectives.pairs import DPOObjective, PairRow, collate_pairs, shared_lengths
from alignment.training.tokens import Encoded

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RAW = rows()
NOISE = 0.2  # log-ratios of a few nats
MIX = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}


def test_the_nll_of_orpo_may_leave_out_the_prompt(tiny_model_dir: Path) -> None:
    """With prompts of one token, which nothing predicts, there is no difference; with longer ones there is."""
    model = policy(tiny_model_dir, NOISE)
    short = [row | {"prompt_ids": row["prompt_ids"][:1]} for row in RAW]
    found: dict[tuple[bool, bool], float] = {}
    for is_short, raw in ((True, short), (False, RAW)):
        for with_prompt in (True, False):
            objective = DPOObjective(PAD, loss_type="orpo", options=PairOptions(prompt_nll=with_prompt))
            batch = objective.collate(reference_rows(tiny_model_dir, raw))
            found[is_short, with_prompt] = objective.loss(model, batch).loss.item()
    assert found[True, True] == pytest.approx(found[True, False])
    assert found[False, True] != pytest.approx(found[False, False], rel=1e-3)


@pytest.mark.parametrize("name", sorted(DPO_LOSSES))
def test_pairs_are_coupled_where_the_objective_says_so(tiny_model_dir: Path, name: str) -> None:
    """Uncoupled, a pair's loss is the same alone as in a batch, whose gradient then does not depend on its split."""
    options = PairOptions() if name != "sft" else PairOptions(nll_average="responses")
    losses = name if name != "sft" else {"sigmoid": 1.0, "sft": 1.0}
    objective = DPOObjective(PAD, 0.3, losses, 0.01 if name == "exo_pair" else 0.0, options)
    model, made = policy(tiny_model_dir, NOISE), reference_rows(tiny_model_dir, RAW)
    with torch.no_grad():
        together = objective.loss(model, objective.collate(made))
        alone = [objective.loss(model, objective.collate([row])) for row in made]
    assert objective.coupled == (name in {"aot", "aot_unpaired", "cpo", "orpo"})
    mean = torch.stack([one.loss for one in alone]).mean()
    assert torch.allclose(together.loss, mean, rtol=1e-4, atol=1e-5) != objective.coupled
    # what the metric is made of is a pair's own, but for the quantiles of a batch
    own = torch.cat([one.sums["loss"] for one in alone])
    assert objective.batchwise == (name in {"aot", "aot_unpaired"})
    assert torch.allclose(together.sums["loss"], own, rtol=1e-4, atol=1e-5) != objective.batchwise


def test_a_mean_reward_belongs_to_a_batch() -> None:
    assert DPOObjective(PAD, loss_type="bco_pair", options=PairOptions(reward_shift=True)).batchwise
    assert not DPOObjective(PAD, loss_type="bco_pair").batchwise
    assert not DPOObjective(PAD, loss_type=MIX).batchwise


def test_a_mix_is_the_weighted_sum_of_its_losses(tiny_model_dir: Path) -> None:
    model, made = policy(tiny_model_dir, NOISE), reference_rows(tiny_model_dir, RAW)

    def measure(loss: Any) -> Any:
        objective = DPOObjective(PAD, 0.3, loss)
        return objective.loss(model, objective.collate(made))

    mixed, sigmoid, hinge = measure({"sigmoid": 0.5, "hinge": 2.0}), measure("sigmoid"), measure("hinge")
    torch.testing.assert_close(mixed.sums["loss"], 0.5 * sigmoid.sums["loss"] + 2.0 * hinge.sums["loss"])
    torch.testing.assert_close(mixed.sums["losses/hinge"], hinge.sums["loss"])
    assert not [name for name in sigmoid.sums if name.startswith("losses/")]


def test_weights_weigh_loss_and_metrics(tiny_model_dir: Path) -> None:
    objective = DPOObjective(PAD, 0.3, MIX, options=PairOptions(nll_average="responses"))
    model = policy(tiny_model_dir, NOISE)
    batch = objective.collate(reference_rows(tiny_model_dir, RAW[:3]))
    each = objective.loss(model, batch).sums
    weights = batch["weights"] = torch.tensor([0.5, 0.25, 2.0])
    measured = objective.loss(model, batch)
    torch.testing.assert_close(measured.loss, (each["loss"] * weights).sum() / 2.75)
    torch.testing.assert_close(measured.sums["rewards/margins"], each["rewards/margins"] * weights)
    assert measured.counts["rewards/margins"].tolist() == [0.5, 0.25, 2.0]
    lengths = torch.tensor([float(len(row["chosen_ids"])) for row in RAW[:3]])
    torch.testing.assert_close(measured.counts["nll_loss"], weights * lengths)
    assert float(objective.weight(batch)) == 2.75


def test_weights_weigh_the_tokens_of_an_nll_term(tiny_model_dir: Path) -> None:
    objective, model = DPOObjective(PAD, 0.3, MIX), policy(tiny_model_dir, NOISE)
    batch = objective.collate(reference_rows(tiny_model_dir, RAW[:3]))
    batch["weights"] = torch.tensor([0.5, 0.25, 2.0])
    measured = objective.loss(model, batch)
    meter = Meter()
    meter.add(measured.sums, measured.counts)
    found = meter.ratios()
    assert found["losses/sft"] == pytest.approx(found["nll_loss"], rel=1e-6)
    assert found["loss"] == pytest.approx(sum(mix * found[f"losses/{name}"] for name, mix in MIX.items()), rel=1e-6)
    assert found["loss"] == pytest.approx(measured.loss.item(), rel=1e-6)


def test_soft_labels_and_margins_reach_the_loss(tiny_model_dir: Path) -> None:
    model, made = policy(tiny_model_dir, NOISE), reference_rows(tiny_model_dir, RAW[:2])
    made = [row | {"soft_label": p, "margin": m} for row, p, m in zip(made, (0.75, 1.0), (2.0, None), strict=True)]
    plain = DPOObjective(PAD, 0.3)
    z = plain.loss(model, plain.collate(made)).sums["rewards/margins"] - torch.tensor([0.1 * 2.0, 0.0])
    p = torch.tensor([0.75, 1.0])
    asked = DPOObjective(PAD, 0.3, options=PairOptions(use_soft_labels=True, margin_scale=0.1))
    assert {"soft_label", "margin"} <= set(asked.columns)
    assert not {"soft_label", "margin"} & set(plain.columns)
    found = asked.loss(model, asked.collate(made)).sums["loss"]
    torch.testing.assert_close(found, -p * z.sigmoid().log() - (1 - p) * (-z).sigmoid().log(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        plain.loss(model, plain.collate(made)).loss,
        plain.loss(
            model,
            plain.collate(
                [{key: value for key, value in row.items() if key not in ("soft_label", "margin")} for row in made]
            ),
        ).loss,
    )


START: list[tuple[Any, float, dict[str, Any]]] = [
    *((name, 0.01 if name == "exo_pair" else 0.0, {}) for name in sorted(set(DPO_LOSSES) - REFERENCE_FREE)),
    (MIX, 0.0, {"ld_alpha": 0.3}),
    ("sigmoid", 0.0, {"use_weighting": True}),
]


@pytest.mark.parametrize(("loss", "label_smoothing", "given"), START)
def test_a_start_at_the_reference_passes_and_another_does_not(
    tiny_model_dir: Path, loss: Any, label_smoothing: float, given: dict[str, Any]
) -> None:
    options = PairOptions(**given)
    objective = DPOObjective(PAD, 0.3, loss, label_smoothing, options)
    batch = objective.collate(reference_rows(tiny_model_dir, RAW, options.ld_alpha))
    start = pretrained(tiny_model_dir).train()
    objective.check_start(start, batch, 1e-4)
    assert start.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective.check_start(start, batch, 0.05)
    with pytest.raises(AlignmentError, match="the reference is not the starting policy"):
        objective.check_start(policy(tiny_model_dir, 0.02), batch, 1e-4)


def test_the_first_loss_is_named_and_a_new_adapter_changes_nothing(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    objective = DPOObjective(PAD)
    batch = objective.collate(reference_rows(tiny_model_dir, RAW))
    adapter = LoraConfig(target_modules="all-linear", lora_dropout=0.5)
    objective.check_start(get_peft_model(pretrained(tiny_model_dir), adapter).train(), batch, 1e-4)
    with pytest.raises(AlignmentError, match=r"first loss 0\.\d+ instead of 0\.6931; give the stage the same model"):
        objective.check_start(policy(tiny_model_dir, 0.02), batch, 1e-4)


@pytest.mark.parametrize("loss", ["simpo", "cpo", "orpo", {"simpo": 1.0, "sft": 0.1}])
def test_without_a_reference_a_policy_may_start_anywhere(tiny_model_dir: Path, loss: Any) -> None:
    objective = DPOObjective(PAD, loss_type=loss)
    assert not objective.needs_reference
    bare = [{k: v for k, v in row.items() if not k.startswith("ref_")} for row in reference_rows(tiny_model_dir, RAW)]
    objective.check_start(policy(tiny_model_dir, NOISE), objective.collate(bare), 0.0)


def test_what_cannot_be_asked_of_an_objective_is_named() -> None:
    with pytest.raises(RecipeError, match="unknown loss 'sigmod'; nearest: sigmoid"):
        DPOObjective(PAD, loss_type="sigmod")
    with pytest.raises(RecipeError, match="ipo does not read label_smoothing"):
        DPOObjective(PAD, loss_type="ipo", label_smoothing=0.1)


# Rows and batches


def row(prompt: list[int], completion: list[int], mask: list[int] | None = None) -> Encoded:
    return Encoded(prompt, completion, mask or [1] * len(completion))


def pair(**changes: Any) -> PairRow:
    base: dict[str, Any] = {
        "id": "a",
        "chosen": row([1, 2], [3, 4, 5], [1, 0, 1]),
        "rejected": row([1, 2], [6]),
        "weight": 0.5,
        "ref_chosen_logps": -3.0,
        "ref_rejected_logps": -1.0,
    }
    return {**base, **changes}  # type: ignore[typeddict-item]


def test_pairs_are_interleaved_and_right_padded() -> None:
    batch = collate_pairs([pair(), pair(id="b", chosen=row([7], [8]))], 9)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 6, 9, 9], [7, 8, 9, 9, 9], [1, 2, 6, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch["completion_mask"].int().tolist() == [
        [0, 0, 1, 0, 1],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
    ]
    assert batch["completion_mask"].dtype == torch.bool
    assert batch["row_record"].tolist() == [0, 0, 1, 1]
    assert batch["weights"].tolist() == [0.5, 0.5]
    assert batch["ref_chosen_logps"].tolist() == [-3.0, -3.0]
    assert batch["ids"] == ["a", "b"]
    assert not {"margins", "soft_labels"} & batch.keys()


def test_what_nobody_said_is_no_number() -> None:
    batch = collate_pairs([pair(margin=1.5, soft_label=0.75), pair(margin=None, soft_label=None)], 9)
    assert batch["margins"].tolist() == pytest.approx([1.5, float("nan")], nan_ok=True)
    assert batch["soft_labels"].tolist() == pytest.approx([0.75, float("nan")], nan_ok=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"weight": weight}, "a pair needs a positive weight") for weight in (0.0, -1.0, float("nan"), float("inf"))),
        ({"soft_label": 1.2}, r"a soft label lies in \[0, 1\], not 1.2"),
        ({"margin": float("inf")}, "a margin is a finite number, not inf"),
    ],
)
def test_a_pair_that_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"record a: {message}"):
        collate_pairs([pair(**changes)], 9)


def test_pairs_that_a_loss_cannot_learn_from_are_named() -> None:
    with pytest.raises(DataError, match=r"record a: aot compares quantiles, .* cannot weigh one by 0\.5"):
        DPOObjective(PAD, loss_type="aot").collate([pair()])
    soft = DPOObjective(PAD, options=PairOptions(use_soft_labels=True))
    with pytest.raises(DataError, match="record a: nobody compared chosen and rejected; there is no soft label"):
        soft.collate([pair(soft_label=None)])


def test_responses_are_cut_to_the_scored_tokens_they_share() -> None:
    long = row([1, 2], [3, 4, 5, 6, 7], [1, 0, 1, 0, 1])
    for chosen, rejected in ((long, row([1, 2], [8, 9])), (row([1, 2], [8, 9]), long)):
        cut = dict(zip((id(chosen), id(rejected)), shared_lengths(chosen, rejected), strict=True))
        assert cut[id(long)] == row([1, 2], [3, 4, 5], [1, 0, 1])
        assert cut[id(rejected if chosen is long else chosen)] == row([1, 2], [8, 9])
