import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignment.errors import AlignmentError, StorageError
from alignment.training.collate import pad_rows
from alignment.training.logprobs import sequence_logprobs
from alignment.training.reference import ReferenceCache, reference_logprobs
from alignment.training.tokens import Encoded

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PAD = 2


def row(*ids: int, prompt: int = 1, mask: list[int] | None = None) -> Encoded:
    completion = list(ids[prompt:])
    return Encoded(list(ids[:prompt]), completion, mask or [1] * len(completion))


ROWS = [row(5, 6), row(5, 7, 8, 9, 10), row(11, 12, 13, prompt=2), row(5, 6, 7)]


class Counting:
    """Stands for a model: the sum of a row's ids, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, rows: Sequence[Encoded]) -> Tensor:
        self.asked += [row.ids for row in rows]
        return -torch.tensor([float(sum(row.ids)) for row in rows]) / 7


def values(rows: Sequence[Encoded]) -> list[float]:
    return Counting()(rows).tolist()


def test_values_come_in_the_order_given_and_are_computed_once(tmp_path: Path) -> None:
    compute = Counting()
    cache = ReferenceCache(tmp_path / "new", "digest", "float32")
    found = cache.get_or_compute([*ROWS, ROWS[0]], compute, block=2)
    assert found.dtype == torch.float32
    assert found.tolist() == values([*ROWS, ROWS[0]])
    assert [len(ids) for ids in compute.asked] == [5, 3, 3, 2]  # longest first, no row twice
    again = Counting()
    assert ReferenceCache(tmp_path / "new", "digest", "float32").get_or_compute(ROWS, again).tolist() == values(ROWS)
    assert again.asked == []


@pytest.mark.parametrize(
    ("digest", "precision", "asked"),
    [
        ("digest", "float32", row(5, 6, mask=[0])),
        ("digest", "float32", row(5, 6, prompt=0)),
        ("other", "float32", row(5, 6)),
        ("digest", "bf16", row(5, 6)),
    ],
    ids=["mask", "prompt end", "weights", "precision"],
)
def test_everything_a_value_depends_on_is_in_its_key(
    tmp_path: Path, digest: str, precision: str, asked: Encoded
) -> None:
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute([row(5, 6)], Counting())
    compute = Counting()
    ReferenceCache(tmp_path, digest, precision).get_or_compute([asked], compute)
    assert compute.asked == [[5, 6]]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_noticed_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, Counting())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    path.write_bytes({"cut": content[:-5], "flipped": flipped, "empty": b"", "text": b"not this"}[damage])
    compute = Counting()
    with caplog.at_level(logging.WARNING):
        found = ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, compute)
    assert found.tolist() == values(ROWS)
    assert len(compute.asked) == len(ROWS)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("is damaged; its reference log-probabilities are computed again")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [content]


def test_a_killed_run_keeps_the_blocks_it_finished(tmp_path: Path) -> None:
    compute = Counting()

    def dies_in_the_second_block(rows: Sequence[Encoded]) -> Tensor:
        if compute.asked:
            raise KeyboardInterrupt
        return compute(rows)

    with pytest.raises(KeyboardInterrupt):
        ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, dies_in_the_second_block, block=2)
    (tmp_path / "abc.123.tmp").write_bytes(b"half")  # what a kill in the middle of a write leaves
    again, told = Counting(), []
    found = ReferenceCache(tmp_path, "digest", "float32").get_or_compute(
        ROWS, again, block=1, progress=lambda done, total: told.append((done, total))
    )
    assert found.tolist() == values(ROWS)
    assert len(again.asked) == 2
    assert told == [(1, 2), (2, 2)]


def test_a_value_that_is_not_finite_is_never_stored(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, "digest", "float32")
    with pytest.raises(AlignmentError, match="not finite"):
        cache.get_or_compute(ROWS, lambda rows: torch.full((len(rows),), torch.nan))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        ReferenceCache(tmp_path / "file", "digest", "float32").get_or_compute(ROWS, Counting())


def test_the_reference_is_the_trunk_with_its_adapter_off(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        expected = sequence_logprobs(base, pad_rows(ROWS, PAD))
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    for batch_size in (1, 3, 10):
        found = reference_logprobs(model, ROWS, PAD, batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not found.requires_grad
    assert model.training
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trainable
    assert all("lora" in name for name in trainable)
    low = reference_logprobs(model, ROWS, PAD, 2, torch.autocast("cpu", dtype=torch.bfloat16))
    assert low.dtype == torch.float32
    assert not torch.equal(low, expected)
