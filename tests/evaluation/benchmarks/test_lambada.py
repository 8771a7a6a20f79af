import json
import math
from pathlib import Path

import pytest
import torch

from alignment.errors import DataError
from alignment.evaluation.benchmarks.forgetting.lambada import Lambada, perplexity_change
from alignment.evaluation.stored.rows import Row
from tests.evaluation.benchmarks.run_small import run_small, small_context

# The last one ends as the tiny model goes on itself.
TEXTS = [
    "the cat sat on the mat",
    "please answer the question in one sentence",
    "why  not",
    "the dog cat on",
]  # the tiny model says " on"


def test_numbers_by_hand(tiny_model_dir: Path, tmp_path: Path) -> None:
    context = small_context(tmp_path, tiny_model_dir)
    model, tokenizer = context.load("base")
    path = tmp_path / "lambada.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    found = run_small(context, Lambada(data=str(path)))
    greedy, nats = [], []
    for text in TEXTS:
        before, _, last = text.rpartition(" ")
        ids = tokenizer(text, add_special_tokens=False).input_ids
        start = len(tokenizer(before, add_special_tokens=False).input_ids)
        assert ids[:start] == tokenizer(before, add_special_tokens=False).input_ids
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats.append(-sum(float(logprobs[t - 1, ids[t]]) for t in range(start, len(ids))))
        greedy.append(all(int(logprobs[t - 1].argmax()) == ids[t] for t in range(start, len(ids))))
        assert tokenizer.decode(ids[start:]) == f" {last}"
    assert set(greedy) == {True, False}
    accuracy, perplexity = found["base", "acc", None], found["base", "perplexity", None]
    assert accuracy.value == sum(greedy) / 4
    assert perplexity.value == pytest.approx(math.exp(sum(nats) / 4), rel=1e-4)
    assert (accuracy.primary, perplexity.primary, perplexity.unit) == (True, False, "perplexity")
    change = found["sft", "perplexity_difference", None]
    assert change.value == pytest.approx(found["sft", "perplexity", None].value - perplexity.value)  # type: ignore[operator]
    assert change.compared_to == "base"
    assert "exact McNemar" in found["sft", "acc_difference", None].method
    assert len(Lambada().hub.revision) == 40


def test_where_nothing_changed_there_is_no_p(tiny_model_dir: Path, tmp_path: Path) -> None:
    context = small_context(tmp_path, tiny_model_dir)
    rows = [{"id": str(i), "target": " a", "logprob": -1.0 - i, "greedy": i > 1} for i in range(4)]
    moved = [row | {"greedy": True} for row in rows]
    same, more = (Lambada().score(context, {"base": rows, "sft": other}) for other in (rows, moved))
    told = [next(one.method for one in found if one.metric == "acc_difference") for found in (same, more)]
    assert told[0].endswith("gained 0, lost 0, exact McNemar: no item changed, nothing to test")
    assert told[1].endswith("gained 2, lost 0, exact McNemar, p = 0.5")


def test_the_last_word_with_its_space() -> None:
    [item] = Lambada().parse([Row("f:1", {"text": 'a b "c'})], published=False)
    assert (item.context, item.target) == ("a b", ' "c')
    for bad in ({"text": "word"}, {"text": "ends with a space "}, {"passage": "a b"}, {"text": 3}):
        with pytest.raises(DataError, match="f:1: `text` must be a passage"):
            Lambada().parse([Row("f:1", bad)], published=True)


def test_a_change_of_perplexity() -> None:
    change = perplexity_change([-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0], seed=0)
    assert change.value == pytest.approx(math.exp(2) - math.e)
    assert change.low is not None
    assert change.low <= math.exp(2) - math.e <= change.high  # type: ignore[operator]
    assert perplexity_change([-1e4, -1.0], [-1.0, -1.0], seed=0).value is None  # too large for a number
    assert perplexity_change([], [], seed=0).value is None
