import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.errors import DataError, ModelError
from alignment.evaluation.benchmarks.benchmark import EvalSettings, samples_file
from alignment.evaluation.benchmarks.forgetting.forward_kl import ForwardKl, vocabulary
from alignment.evaluation.own_samples import own_samples
from alignment.evaluation.stored.rows import Row
from tests.evaluation.benchmarks.run_small import run_small, small_context

SMALL = ForwardKl(prompt_words=3, continuations=2, max_new_tokens=5)


def rows(context: Any, subject: str) -> list[dict[str, Any]]:
    lines = samples_file(context.out_dir, "forward_kl", subject).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_numbers_by_hand(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The origin stands last: it writes before any other model is loaded."""
    said: list[str] = []
    settings = EvalSettings(bf16=False, items=6)
    context = small_context(tmp_path, tiny_model_dir, ("sft", "same", "base"), settings=settings, say=said.append)
    found = run_small(context, SMALL)
    assert {model for model, _, _ in found} == {"sft", "same"}  # no row for the origin
    base, sft = rows(context, "base"), rows(context, "sft")
    assert len(base) == len(sft) == 12
    assert said[0].startswith("forward_kl: base: 12 items")
    kl = 0.0
    models = {name: context.load(name)[0] for name in ("base", "sft")}
    for written, scored in zip(base, sft, strict=True):
        ids, start = written["context"] + written["tokens"], len(written["context"])
        sums = {}
        for name, model in models.items():
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            sums[name] = sum(float(logprobs[t - 1, ids[t]]) for t in range(start, len(ids)))
        assert scored["logprob"] == pytest.approx(sums["sft"], abs=1e-4)
        assert scored["logprob_origin"] == pytest.approx(sums["base"], abs=1e-4)
        assert scored["n_tokens"] == len(written["tokens"])
        kl += sums["base"] - sums["sft"]
    result = found["sft", "forward_kl", None]
    assert result.value == pytest.approx(kl / sum(row["n_tokens"] for row in sft), abs=1e-5)
    assert (result.unit, result.compared_to, result.n_scored) == ("nats/token", "base", 12)
    assert "KL(base || sft)" in result.method
    assert re.search(r"over (\d+ )?clusters", result.method)
    assert found["same", "forward_kl", None].value == pytest.approx(0.0, abs=1e-6)
    assert SMALL.measures(sft)[0].value() == pytest.approx(result.value)


def test_the_estimate_is_that_of_the_whole_distribution(tiny_model_dir: Path, tmp_path: Path) -> None:
    """One token after one prompt: the mean over many draws is Σ p (log p - log q), within four standard errors."""
    context = small_context(tmp_path, tiny_model_dir)
    (base, tokenizer), (sft, _) = context.load("base"), context.load("sft")
    prompt = tokenizer("the cat sat").input_ids
    with torch.no_grad():
        p, q = (m(input_ids=torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for m in (base, sft))
    n = 2000
    drawn = own_samples(base, tokenizer, [prompt] * n, [(0, i) for i in range(n)], max_new_tokens=1, bf16=False)
    ratios = (p - q)[torch.tensor(drawn)[:, 0]]
    exact = float((p.exp() * (p - q)).sum())
    assert float(ratios.mean()) == pytest.approx(exact, abs=4 * float(ratios.std()) / math.sqrt(n))


def test_what_is_stored_is_not_written_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = EvalSettings(bf16=False, items=2)
    context = small_context(tmp_path, tiny_model_dir, settings=settings, cache=tmp_path / "cache")
    first = run_small(context, SMALL)

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    again = replace(context, load=refuse, out_dir=tmp_path / "again", items={})
    assert run_small(again, SMALL).keys() == first.keys()
    other = replace(context, items={}, seed=1)
    run_small(other, SMALL)
    assert rows(other, "base") != rows(again, "base")


def test_one_model_is_skipped_and_other_vocabularies_are_unscored(tiny_model_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    alone = small_context(tmp_path, tiny_model_dir, ("base",), say=said.append)
    assert run_small(alone, SMALL) == {}
    assert said == ["forward_kl: skipped, it needs a model besides the origin"]
    settings = EvalSettings(bf16=False, items=2)
    context = small_context(tmp_path, tiny_model_dir, settings=settings)
    load = context.load

    def other(name: str) -> tuple[Any, Any]:
        model, tokenizer = load(name)
        if name == "sft":
            tokenizer.convert_ids_to_tokens = lambda ids: [f"token {i}" for i in ids]
        return model, tokenizer

    result = run_small(replace(context, load=other), SMALL)["sft", "forward_kl", None]
    assert (result.value, result.n_scored, result.n_unscored) == (None, 0, 4)


def test_added_tokens_change_no_vocabulary(tiny_model_dir: Path, tmp_path: Path) -> None:
    _, tokenizer = small_context(tmp_path, tiny_model_dir).load("base")
    before = vocabulary(tokenizer, len(tokenizer))
    tokenizer.add_tokens(["<|new|>"])
    assert vocabulary(tokenizer, before[0]) == before
    assert vocabulary(tokenizer, len(tokenizer) + 1) == [len(tokenizer), ""]


def test_bad_input(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="f:1: text: Field required"):
        SMALL.parse([Row("f:1", {"id": "a"})], published=True)
    with pytest.raises(DataError, match="f:1: an empty text"):
        SMALL.parse([Row("f:1", {"id": "a", "text": " "})], published=True)
    model, tokenizer = small_context(tmp_path, tiny_model_dir).load("base")
    with pytest.raises(ModelError, match="need 515 tokens, the model has 512"):
        own_samples(model, tokenizer, [[5, 6, 7]], [(0,)], max_new_tokens=512)
    assert own_samples(model, tokenizer, [], [], max_new_tokens=4) == []
