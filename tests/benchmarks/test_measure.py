"""What the numbers are made of: tokens, FLOPs, and a reference that runs in each step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PAD, encoded, policy

from alignment.lora import LoraSettings, add_lora
from alignment.training.logprobs import sequence_logprobs
from alignment.training.objectives.pairs import DPOObjective

# 2 layers, hidden 32, intermediate 64, 2 heads of 16, 1 key-value head
LAYER = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 64


def test_useful_flops_by_hand(tiny_model_dir: Path) -> None:
    from measure import Matrices
    from workload import Step

    model = policy(tiny_model_dir)
    sizes = Matrices.of(model, vocabulary_head=True)
    head = 32 * model.config.vocab_size
    assert (sizes.trunk, sizes.adapter, sizes.head) == (2 * LAYER, 0, head)
    rows = [encoded([3, 4, 5], [6, 7]), encoded([3, 4, 5], [8])]  # 3 + 2 + 1 different tokens, 3 of them scored
    seen = 1 + 2 + 3 + 4 + 5 + 4
    forward = 2 * (2 * LAYER) * 6 + 2 * head * 3 + 4 * 2 * 32 * seen
    assert sizes.forward(rows) == forward
    assert sizes.step(Step(rows), reference=False) == 3 * forward
    assert sizes.step(Step(rows), reference=True) == 4 * forward
    # a row without gradient shares its prompt with the others: two more tokens
    extra = [encoded([3, 4, 5], [9, 10])]
    more = 2 * (2 * LAYER) * 2 + 2 * head * 2 + 4 * 2 * 32 * (4 + 5)
    assert sizes.step(Step(rows, extra), reference=False) == 3 * forward + more


def test_frozen_weights_have_no_gradient_to_compute(tiny_model_dir: Path) -> None:
    from measure import Matrices
    from workload import Step

    model = add_lora(policy(tiny_model_dir), LoraSettings(r=2))
    sizes = Matrices.of(model, vocabulary_head=False)
    adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert (sizes.trunk, sizes.adapter, sizes.head) == (2 * LAYER, adapter, 0)
    rows = [encoded([3], [4])]
    weights, attention = 2 * (2 * LAYER + adapter) * 2, 4 * 2 * 32 * 3
    assert sizes.step(Step(rows), reference=False) == 2 * weights + 2 * adapter * 2 + 3 * attention


def test_batches_that_are_not_the_rows_are_noticed() -> None:
    from measure import SeenBatches
    from workload import Step

    from alignment.errors import AlignmentError

    row, other = encoded([3], [4, 5]), encoded([3], [6])
    batches = SeenBatches(lambda rows: rows)
    batches({"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3)})
    packed = torch.tensor([[3, 4, 5, 3, 6]])
    batches({"input_ids": packed, "position_ids": torch.tensor([[0, 1, 2, 0, 1]])})
    batches.check([Step([row]), Step([other, row])])
    assert batches.padded() == [3, 5]
    with pytest.raises(AlignmentError, match="step 2 did not train on the rows"):
        batches.check([Step([row]), Step([other])])
    with pytest.raises(AlignmentError, match="step 1 did not train on the rows"):
        batches.check([Step([row], [other]), Step([other, row])])


@pytest.mark.parametrize("lora", [False, True])
def test_a_reference_in_each_step_is_the_cached_one(tiny_model_dir: Path, lora: bool) -> None:
    from sides import DPOReferenceEachStep

    torch.manual_seed(0)
    start = policy(tiny_model_dir, noise=0.0).eval()
    reference = policy(tiny_model_dir, noise=0.0).eval()
    model: Any = add_lora(start, LoraSettings(r=2)) if lora else start
    answers = [(encoded([5, 6], [7, 8]), encoded([5, 6], [9])), (encoded([9], [3]), encoded([9], [4, 4]))]
    rows = [
        {"id": str(i), "chosen": c, "rejected": r, "weight": 1.0, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
        for i, (c, r) in enumerate(answers)
    ]
    cached, each_step = DPOObjective(PAD), DPOReferenceEachStep(PAD, reference=None if lora else reference)
    batch = cached.collate(rows)
    with torch.no_grad():
        logps = sequence_logprobs(reference, batch)
    filled = {**batch, "ref_chosen_logps": logps[0::2], "ref_rejected_logps": logps[1::2]}
    each_step.check_start(model, batch, 1e-4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    expected, found = cached.loss(model, filled), each_step.loss(model, batch)
    torch.testing.assert_close(found.loss, expected.loss)
    assert float(found.sums["rewards/margins"].abs().sum()) > 0
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in reference.parameters())


def test_sides_that_differ_in_their_work_are_refused() -> None:
    from compare import check_same_work

    from alignment.errors import AlignmentError

    run = {"rows": "a", "trainable": 3, "dtype": "float32"}
    check_same_work([run, run])
    with pytest.raises(AlignmentError, match="not do the same work: trainable 3, 4"):
        check_same_work([run, run | {"trainable": 4}])


def test_a_log_probability_that_differs_counts_too() -> None:
    """The first loss of DPO is ln 2 for any model, its log-probabilities are not."""
    from compare import disagreement

    ours = {"logged": {"loss": [0.69], "logps/chosen": [-100.0]}}
    assert disagreement([ours], [ours], 1e-4, 1e-4) == (0.0, "")
    theirs = {"logged": {"loss": [0.69], "logps/chosen": [-101.0]}}
    difference, complaint = disagreement([ours], [theirs], 1e-4, 1e-4)
    assert difference == 0.0
    assert complaint.startswith("logps/chosen disagrees")
    assert "-100 " in complaint
    assert "-101" in complaint


def test_a_loss_that_is_no_number_disagrees() -> None:
    from compare import disagreement

    ours, theirs = {"logged": {"loss": [float("nan")]}}, {"logged": {"loss": [1.0]}}
    assert disagreement([ours], [theirs], 1.0, 1.0)[1]


def test_the_sample_depends_on_the_seed_alone(
    tiny_model_dir: Path, bench_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import samples
    from settings import Settings

    from alignment.models import load_tokenizer
    from alignment.registry import ModelRegistry

    monkeypatch.setenv("ALIGNMENT_REAL_DATA", str(bench_data))
    tokenizer = load_tokenizer(f"path:{tiny_model_dir}", ModelRegistry(tiny_model_dir / "none"))
    settings = Settings(data="qa_feedback/dev_feedback.json", batch=2, steps=3)
    sample = samples.rankings(settings, tokenizer)
    assert len(sample.rows) == 8
    assert sample.passed_over[samples.TIES] > 0
    assert sample == samples.rankings(settings, tokenizer)
    assert [len(batch) for batch in sample.batches(2)] == [2, 2, 2, 2]
    for best, *others in sample.rows:
        assert len(others) == 3
        # preference [1, 2, 1, 2, 1, 1]: the third answer beats the first, which beats the second
        assert [tokenizer.decode(row.completion_ids).split()[-1][0] for row in (best, *others)] == ["3", "1", "2", "4"]


def test_memory_is_the_most_so_far() -> None:
    from measure import peak_bytes

    before = peak_bytes()
    block = torch.ones(16 * 2**20)  # 64 MiB
    del block
    assert peak_bytes() >= before
    assert peak_bytes() > 50 * 2**20
