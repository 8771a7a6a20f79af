import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked
from torch import Tensor

from alignment.errors import AlignmentError, DataError, StorageError
from alignment.training import reference
from alignment.training.collate import pad_rows
from alignment.training.logprobs import sequence_logprobs
from alignment.training.prefix_sharing import share_prefixes, unique_tokens
from alignment.training.reference import ReferenceCache, prompts_together, reference_logprobs
from alignment.training.splitting import padded_tokens
from alignment.training.tokens import Encoded, encode

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
    assert [len(ids) for ids in compute.asked] == [5, 3, 2, 3]  # prompts by their longest row, no row twice
    again = Counting()
    assert ReferenceCache(tmp_path / "new", "digest", "float32").get_or_compute(ROWS, again).tolist() == values(ROWS)
    assert again.asked == []


@pytest.mark.parametrize(
    ("digest", "precision", "asked"),
    [
        ("digest", "float32", row(5, 7)),
        ("digest", "float32", row(5, 6, mask=[0])),
        ("digest", "float32", row(5, 6, prompt=0)),
        ("other", "float32", row(5, 6)),
        ("digest", "bf16", row(5, 6)),
    ],
    ids=["token", "mask", "prompt end", "weights", "precision"],
)
def test_everything_a_value_depends_on_is_in_its_key(
    tmp_path: Path, digest: str, precision: str, asked: Encoded
) -> None:
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute([row(5, 6)], Counting())
    compute = Counting()
    ReferenceCache(tmp_path, digest, precision).get_or_compute([asked], compute)
    assert compute.asked == [asked.ids]


def test_another_version_of_transformers_computes_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, Counting())
    again, other = Counting(), Counting()
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, again)
    monkeypatch.setattr(reference.transformers, "__version__", "0.0.0")
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, other)
    assert (len(again.asked), len(other.asked)) == (0, len(ROWS))


def test_the_order_of_rows_and_other_rows_beside_them_change_nothing(tmp_path: Path) -> None:
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, Counting(), block=2)
    compute = Counting()
    asked = [ROWS[3], row(1, 2), ROWS[0]]
    assert ReferenceCache(tmp_path, "digest", "float32").get_or_compute(asked, compute).tolist() == values(asked)
    assert compute.asked == [[1, 2]]


def test_a_row_cut_otherwise_is_another_row(tmp_path: Path, tiny_model_dir: Path) -> None:
    """A truncation rule or length changes the key of the rows it changes, and of no others."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    prompt = [{"role": "user", "content": "say"}]
    responses = [[{"role": "assistant", "content": text}] for text in ("hi", "the cat sat on the mat and the dog ran")]
    whole = [encode(tokenizer, prompt, response) for response in responses]
    cut = [encode(tokenizer, prompt, response, len(whole[1]) - 2, "keep_start") for response in responses]
    shorter = [encode(tokenizer, prompt, response, len(whole[1]) - 3, "keep_start") for response in responses]
    asked = []
    for rows in (whole, cut, shorter, whole):
        compute = Counting()
        ReferenceCache(tmp_path, "digest", "float32").get_or_compute(rows, compute)  # type: ignore[arg-type]
        asked.append(len(compute.asked))
    assert asked == [2, 1, 1, 0]


WRITER = """
import sys, time
from pathlib import Path
import torch
from alignment.training.reference import ReferenceCache
from alignment.training.tokens import Encoded

rows = [Encoded([i % 7], [i, i + 1], [1, 1]) for i in range(60)]

def compute(part):
    time.sleep(0.01)
    return -torch.tensor([float(sum(row.ids)) for row in part])

said = []
(Path(sys.argv[1]) / sys.argv[2]).touch()
while len(list(Path(sys.argv[1]).glob("ready-*"))) < 2:
    time.sleep(0.01)
for turn in range(3):  # one starts with what is there already, one computes everything anew
    block = 1 + 2 * turn + int(sys.argv[3])
    cache = ReferenceCache(Path(sys.argv[1]) / "cache", f"model {turn}", "float32", said.append)
    assert cache.get_or_compute(rows, compute, block=block).tolist() == compute(rows).tolist()
assert said == [], said
"""


@pytest.mark.slow
def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    script = tmp_path / "writer.py"
    script.write_text(WRITER, encoding="utf-8")
    writers = [Forked((str(script), str(tmp_path), f"ready-{n}", str(n)), tmp_path, environment) for n in range(2)]
    outputs = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], outputs
    rows = [Encoded([i % 7], [i, i + 1], [1, 1]) for i in range(60)]
    for turn in range(3):
        compute, said = Counting(), list[str]()
        cache = ReferenceCache(tmp_path / "cache", f"model {turn}", "float32", said.append)
        assert cache.get_or_compute(rows, compute).tolist() == [-float(sum(row.ids)) for row in rows]
        assert (compute.asked, said) == ([], [])
    assert not list(tmp_path.glob("cache/*/*.tmp"))


def test_a_file_that_vanishes_while_it_is_read_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody empties the cache, or another process finds the file damaged first."""
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, Counting())
    (path,) = tmp_path.glob("*/*")
    path.unlink()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [path])
    compute = Counting()
    found = ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, compute)
    assert found.tolist() == values(ROWS)
    assert len(compute.asked) == len(ROWS)


def test_prompts_stay_together_and_lengths_fall() -> None:
    rows = [row(1, 2, 3), row(9, 8), row(1, 5), row(4, 6, 7, 8, 9), row(9, 7, 7, 7)]
    assert [rows[i].ids[0] for i in prompts_together(rows)] == [4, 9, 9, 1, 1]
    assert [len(rows[i]) for i in prompts_together(rows)] == [5, 4, 2, 3, 2]


@pytest.mark.parametrize("shared", [False, True], ids=["padded", "shared"])
def test_a_batch_holds_no_more_tokens_than_it_may(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    rows = [Encoded([5, 6, 7, 8 + i % 3], [20 + i] * (1 + i % 4), [1] * (1 + i % 4)) for i in range(13)]
    expected = sequence_logprobs(model, pad_rows(rows, PAD)).detach()
    seen: list[int] = []

    def counted(given: Any, batch: Any) -> Tensor:
        count = unique_tokens if shared else padded_tokens
        seen.append(count(batch["input_ids"], batch["attention_mask"]))
        return sequence_logprobs(given, batch)

    monkeypatch.setattr(reference, "sequence_logprobs", counted)
    if shared:
        share_prefixes(model)
    torch.testing.assert_close(reference_logprobs(model, rows, PAD, 3), expected, rtol=1e-5, atol=1e-5)
    assert max(seen) <= 3 * 8  # three rows of the longest length
    assert len(seen) == (2 if shared else 4)  # 13 rows in batches of 3 would be 5

    seen.clear()
    bounded = reference_logprobs(model, rows, PAD, 3, max_tokens=10)
    torch.testing.assert_close(bounded, expected, rtol=1e-5, atol=1e-5)
    assert max(seen) <= 10
    seen.clear()
    reference_logprobs(model, rows, PAD, 3, max_tokens=10_000)  # the smaller bound holds
    assert max(seen) <= 3 * 8
    with pytest.raises(DataError, match="a row has 8 tokens, more than max_tokens_per_forward 7; raise it, or shorten"):
        reference_logprobs(model, rows, PAD, 3, max_tokens=7)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_noticed_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, Counting())
    (path,) = tmp_path.glob("*/*")
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
    assert [p.read_bytes() for p in tmp_path.glob("*/*")] == [content]


def test_a_killed_run_keeps_the_blocks_it_finished(tmp_path: Path) -> None:
    compute = Counting()

    def dies_in_the_second_block(rows: Sequence[Encoded]) -> Tensor:
        if compute.asked:
            raise KeyboardInterrupt
        return compute(rows)

    with pytest.raises(KeyboardInterrupt):
        ReferenceCache(tmp_path, "digest", "float32").get_or_compute(ROWS, dies_in_the_second_block, block=2)
    (folder,) = tmp_path.iterdir()
    (folder / "abc.123.tmp").write_bytes(b"half")  # what a kill in the middle of a write leaves
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
