"""PL-DPO: DPO's own objective is the oracle for pairs, the formula by hand for rankings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import PAD, assert_same_gradients, encoded, policy, rows

from alignment.errors import AlignmentError, DataError, RecipeError
from alignment.training.logprobs import sequence_logprobs
from alignment.training.objectives.pairs import DPOObjective
from alignment.training.objectives.policy_rankings import PolicyRankingObjective
from alignment.training.prefix_sharing import share_prefixes, unique_tokens
from alignment.training.reference import reference_logprobs
from reward.losses import RANKING_LOSSES

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def rankings(folder: Path, counts: list[int], **changes: Any) -> list[dict[str, Any]]:
    """Rankings of K responses to a prompt, the first the best, with the reference's log-probabilities."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder)
    made = []
    for p, k in enumerate(counts):
        raw = rows(k, seed=p)
        responses = [encoded(raw[0]["prompt_ids"], row["chosen_ids"]) for row in raw]
        made.append(
            {
                "id": str(p),
                "responses": responses,
                "wins": np.triu(np.ones((k, k)), 1),
                "tiers": [list(range(k))],
                "tier_weights": [1.0],
                "ref_logps": reference_logprobs(reference, responses, PAD, 8).tolist(),
                **changes,
            }
        )
    return made


def pairs_of(ranking: dict[str, Any]) -> list[dict[str, Any]]:
    responses, logps = ranking["responses"], ranking["ref_logps"]
    ends = [(i, j) for i in range(len(responses)) for j in range(i + 1, len(responses))]
    return [
        {
            "id": ranking["id"],
            "chosen": responses[i],
            "rejected": responses[j],
            "weight": 1 / len(ends),
            "ref_chosen_logps": logps[i],
            "ref_rejected_logps": logps[j],
        }
        for i, j in ends
    ]


def ratios(measured: Any) -> dict[str, float]:
    return {name: float(measured.sums[name].sum() / measured.counts[name].sum()) for name in measured.sums}


@pytest.mark.parametrize(
    ("loss_type", "counts"), [("plackett_luce", [2, 2, 2]), ("bradley_terry", [2, 2]), ("bradley_terry", [4, 2, 3])]
)
def test_it_is_dpo_on_pairs(tiny_model_dir: Path, loss_type: str, counts: list[int]) -> None:
    """Two responses: DPO itself. More: with Bradley-Terry, DPO on all pairs, each response run once."""
    made = rankings(tiny_model_dir, counts)
    ours, theirs = policy(tiny_model_dir), policy(tiny_model_dir)
    whole, dpo = PolicyRankingObjective(PAD, 0.3, loss_type), DPOObjective(PAD, 0.3)
    batch = whole.collate(made)
    assert len(batch["input_ids"]) == sum(counts)
    measured = whole.loss(ours, batch)
    expected = dpo.loss(theirs, dpo.collate([pair for ranking in made for pair in pairs_of(ranking)]))
    torch.testing.assert_close(measured.loss, expected.loss, rtol=1e-6, atol=0)
    measured.loss.backward()  # type: ignore[no-untyped-call]
    expected.loss.backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(ours, theirs)
    assert ratios(measured) == pytest.approx(ratios(expected), rel=1e-5, abs=1e-6)


def implicit(model: Any, objective: PolicyRankingObjective, batch: dict[str, Any]) -> list[float]:
    """β log πθ/πref of every row."""
    with torch.no_grad():
        return (objective.beta * (sequence_logprobs(model, batch) - batch["row_ref_logps"])).tolist()


def test_plackett_luce_by_the_formula(tiny_model_dir: Path) -> None:
    """Rafailov et al. 2023, eq. 20: - Σ_k log exp(r_k) / Σ_{j >= k} exp(r_j)."""
    objective, model = PolicyRankingObjective(PAD, 0.5), policy(tiny_model_dir)
    batch = objective.collate(rankings(tiny_model_dir, [4, 3]))
    r = np.exp(implicit(model, objective, batch))
    expected = [-sum(np.log(own[k] / own[k:].sum()) for k in range(len(own))) for own in (r[:4], r[4:])]
    measured = objective.loss(model, batch)
    assert measured.sums["loss"].tolist() == pytest.approx(expected, rel=1e-4)
    assert measured.loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_ties_and_partial_orders_take_part(tiny_model_dir: Path) -> None:
    """The first two are tied and above the third; the fourth was not compared, and learns nothing."""
    wins, ties = np.zeros((4, 4)), np.zeros((4, 4))
    wins[:2, 2], ties[0, 1], ties[1, 0] = 1, 1, 1
    made = rankings(tiny_model_dir, [4], wins=wins, ties=ties, tiers=[[0, 0, 1, -1]])
    objective, model = PolicyRankingObjective(PAD, 0.5), policy(tiny_model_dir)
    batch = objective.collate(made)
    a, b, c, _ = np.exp(implicit(model, objective, batch))
    measured = objective.loss(model, batch)
    expected = -np.log(a * b / ((a + b + c) * ((a + b) / 2 + c)))
    assert measured.loss.item() == pytest.approx(expected, rel=1e-4)
    batch["row_ref_logps"] = batch["row_ref_logps"] + torch.tensor([0.0, 0.0, 0.0, 9.0])
    assert objective.loss(model, batch).loss.item() == measured.loss.item()


@pytest.mark.parametrize("loss_type", RANKING_LOSSES)
def test_every_ranking_loss_is_one_for_policies(tiny_model_dir: Path, loss_type: str) -> None:
    made = rankings(tiny_model_dir, [3, 2])
    objective, model = PolicyRankingObjective(PAD, 0.5, loss_type), policy(tiny_model_dir)
    measured = objective.loss(model, objective.collate(made))
    measured.loss.backward()  # type: ignore[no-untyped-call]
    assert any(weight.grad.abs().max() > 0 for weight in model.parameters())
    assert set(objective.columns) <= {"ties", *made[0]}


def test_options_reach_the_loss(tiny_model_dir: Path) -> None:
    made = rankings(tiny_model_dir, [3])
    model = policy(tiny_model_dir)
    losses = [
        objective.loss(model, objective.collate(made)).loss.item()
        for objective in (PolicyRankingObjective(PAD, 0.5, "davidson", {"nu": nu}) for nu in (0.5, 2.0))
    ]
    assert losses[0] < losses[1]  # nothing is tied here
    with pytest.raises(RecipeError, match="plackett_luce has no option 'nu'"):
        PolicyRankingObjective(PAD, options={"nu": 1.0})
    with pytest.raises(RecipeError, match="unknown ranking loss 'plackett_lucy'"):
        PolicyRankingObjective(PAD, loss_type="plackett_lucy")


def test_weights_weigh_records_and_ties_count_for_no_accuracy(tiny_model_dir: Path) -> None:
    made = rankings(tiny_model_dir, [3, 2])
    made[0]["weight"], made[1]["weight"] = 2.0, 0.5
    made[1] |= {"wins": np.zeros((2, 2)), "ties": np.ones((2, 2)) - np.eye(2), "tiers": [[0, 0]]}
    objective, model = PolicyRankingObjective(PAD), policy(tiny_model_dir)
    batch = objective.collate(made)
    measured = objective.loss(model, batch)
    assert measured.counts["loss"].tolist() == [2.0, 0.5]
    assert measured.counts["rewards/accuracies"].tolist() == [2.0, 0.0]
    assert float(measured.sums["loss"].sum() / 2.5) == pytest.approx(measured.loss.item())
    assert float(objective.weight(batch)) == 2.5
    with pytest.raises(DataError, match="record 1: every pair is tied, and bradley_terry learns nothing"):
        PolicyRankingObjective(PAD, loss_type="bradley_terry").collate(made)


def test_a_missing_reference_is_named(tiny_model_dir: Path) -> None:
    made = rankings(tiny_model_dir, [3])
    made[0]["ref_logps"] = made[0]["ref_logps"][:2]
    with pytest.raises(DataError, match="record 0: every response needs a reference"):
        PolicyRankingObjective(PAD).collate(made)


def test_the_prompt_of_k_responses_runs_once(tiny_model_dir: Path) -> None:
    objective, model = PolicyRankingObjective(PAD, 0.5), policy(tiny_model_dir)
    made = rankings(tiny_model_dir, [4])
    batch = objective.collate(made)
    prompt, *_ = {tuple(response.prompt_ids) for response in made[0]["responses"]}
    assert unique_tokens(batch["input_ids"], batch["attention_mask"]) <= int(batch["attention_mask"].sum()) - 3 * len(
        prompt
    )
    padded = objective.loss(model, batch).loss
    torch.testing.assert_close(objective.loss(share_prefixes(model), batch).loss, padded, rtol=1e-5, atol=0)


def test_starting_from_the_reference_passes_and_from_elsewhere_does_not(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    objective = PolicyRankingObjective(PAD)
    batch = objective.collate(rankings(tiny_model_dir, [3, 2]))
    objective.check_start(policy(tiny_model_dir, noise=0.0), batch, 1e-4)
    adapted = get_peft_model(policy(tiny_model_dir, noise=0.0), LoraConfig(target_modules="all-linear"))
    objective.check_start(adapted.train(), batch, 1e-4)
    with pytest.raises(AlignmentError, match="the reference is not the starting policy"):
        objective.check_start(policy(tiny_model_dir, noise=0.02), batch, 1e-4)
