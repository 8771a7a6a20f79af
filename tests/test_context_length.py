"""Everyone who lays out rows for a policy asks for its context in the same way: a family that names it its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, MptConfig, MptForCausalLM

from alignment.errors import DataError, ModelError
from alignment.evaluation.likelihood import sequence_logprob
from alignment.evaluation.own_samples import own_samples
from alignment.evaluation.rolling import rolling_logprob
from alignment.generation.generate import generate_from_ids
from alignment.training.rollouts import rollouts

LIMIT = 16


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def mpt(tokenizer: Any) -> Any:
    """Its `max_seq_len` is the size of a table: one token more is an error inside the model."""
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": LIMIT}
    config = MptConfig(vocab_size=len(tokenizer), **sizes, eos_token_id=tokenizer.eos_token_id)
    return MptForCausalLM(config).eval()


def test_a_prompt_and_its_answer_fit_or_are_refused(mpt: Any, tokenizer: Any) -> None:
    fits, long = [3] * (LIMIT - 4), [3] * (LIMIT - 3)
    how: dict[str, Any] = {"max_new_tokens": 4}
    ((answer,),) = rollouts(mpt, tokenizer, [fits], seeds=[[0]], **how)
    assert answer.response_ids
    with pytest.raises(DataError, match=rf"prompt q7: its 13 tokens .* do not fit the model's context of {LIMIT}"):
        rollouts(mpt, tokenizer, [long], seeds=[[0]], ids=["q7"], **how)
    written = generate_from_ids(mpt, tokenizer, [long, fits], **how)
    assert written[0] is None
    assert written[1] is not None
    assert own_samples(mpt, tokenizer, [fits], [[0]], **how)[0]
    with pytest.raises(ModelError, match=rf"need 17 tokens, the model has {LIMIT}"):
        own_samples(mpt, tokenizer, [long], [[0]], **how)


def test_a_text_is_scored_in_the_context_or_not_at_all(mpt: Any, tokenizer: Any) -> None:
    long = "the cat sat on the mat " * LIMIT
    short, cut = sequence_logprob(mpt, tokenizer, ["the ", "the "], ["cat", long])
    assert short is not None
    assert cut is None
    (whole,) = rolling_logprob(mpt, tokenizer, [long])
    assert whole is not None
    assert whole.n_tokens > LIMIT  # in windows of the context
    with pytest.raises(ModelError, match=rf"window {LIMIT + 1} is longer than the model's context of {LIMIT} tokens"):
        rolling_logprob(mpt, tokenizer, [long], window=LIMIT + 1)
