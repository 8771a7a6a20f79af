"""Answers sampled from the policy that is being trained, with the log-probabilities they were drawn at.

There is no top-p and no top-k here: a truncated distribution gives tokens outside its set probability 0, and which set
that was changes with every update, so the update could not evaluate the distribution the answers came from and its
ratios would be wrong. The temperature divides the logits here as it does there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignment.errors import DataError, ModelError
from alignment.generation.decode import BATCH_SIZE, Prefilled, bf16_weights, decode, prefill, stop_ids
from alignment.generation.draws import draw, row_uniforms
from alignment.generation.head import evaluating, head_logits, unwrap_peft
from alignment.generation.kv_cache import grows_in_place
from alignment.generation.merged import merged_adapters
from alignment.runtime import autocast_bf16
from alignment.training.prefix_sharing import shares_prefixes
from alignment.training.shared_prefill import shared_prefill
from reward.context import context_length

Value = Callable[[Tensor], Tensor]  # hidden states (N, H) -> values (N,)


class Rollout(NamedTuple):
    """One sampled answer. The three lists are of one length, never 0."""

    response_ids: list[int]  # with the end token, where one was drawn
    logps: list[float]  # nats: log softmax(logits / temperature) at each id
    values: list[float] | None  # of the state that predicted each id
    finished: bool  # it ended before max_new_tokens
    text: str  # without special tokens


class _Group(NamedTuple):
    """A prompt that runs once, and the answers it gets."""

    ids: Sequence[int]
    answers: list[tuple[int, int]]  # (prompt index, sample index)


def rollouts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    samples: int = 1,
    seeds: Sequence[Sequence[int]],
    ids: Sequence[str] | None = None,
    value: Value | None = None,
    batch_size: int | None = None,
    bf16: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> list[list[Rollout]]:
    """`samples` answers to each prompt, in the prompts' order.

    A prompt runs once, however often it is in `prompts` and however many samples it gets. The draws of sample j of
    prompt i come from (*seeds[i], j) alone: batch size and neighbours change nothing but rounding.

    Args:
        model: a causal language model, or a PeftModel of one, whose active adapters count.
        tokenizer: gives the end token and the text.
        prompts: N prompts' token ids, the generation prompt included.
        max_new_tokens: most tokens of an answer, its end token included.
        temperature, samples: what the logits are divided by; answers per prompt.
        seeds: a key per prompt, of non-negative integers.
        ids: of the prompts' records, for messages; None names a prompt by its index.
        value: makes values (n,) of float32 hidden states (n, H), the states whose logits the tokens are drawn from;
            its own weights stay as they are.
        batch_size: answers decoded together; None takes 64. Longest prompts go first, and the answers to a prompt stay
            together unless they are more than this.
        bf16: weights while sampling; None follows the hardware. Log-probabilities are then those of the bf16 weights.
        say: takes progress lines.

    Raises:
        DataError: a prompt that is empty, or does not fit the model's context with its answer.
        ModelError: no end token, or log-probabilities or values that are not finite.
        ValueError: settings out of range.
    """
    _check_settings(len(prompts), len(seeds), max_new_tokens, temperature, samples, batch_size)
    causal = unwrap_peft(model)
    names = [str(i) for i in range(len(prompts))] if ids is None else ids
    _check_fit(prompts, names, max_new_tokens, context_length(causal))
    stops = stop_ids(causal, tokenizer)
    device = causal.get_input_embeddings().weight.device
    size = batch_size or BATCH_SIZE
    forward, run_prompts = partial(_last_states, causal), _prefill_of(causal)
    found: dict[tuple[int, int], Rollout] = {}
    written, started = 0, time.monotonic()
    with (
        evaluating(model),
        merged_adapters(model),
        bf16_weights(model, autocast_bf16(str(device)) if bf16 is None else bf16),
    ):
        for groups in _batches(prompts, samples, size):
            start = run_prompts([group.ids for group in groups])
            rows = [(place, *answer) for place, group in enumerate(groups) for answer in group.answers]
            for part in _parts(rows, size):
                keys = [(*seeds[i], sample) for _, i, sample in part]
                pick = _Draws(causal, row_uniforms(keys, max_new_tokens).to(device), temperature, value)
                begun = start if len(rows) == len(groups) else start.spread([place for place, _, _ in part])
                answers = decode(forward, begun, pick, stops, max_new_tokens)
                for (_, i, sample), rollout in zip(part, pick.rollouts(answers, tokenizer), strict=True):
                    found[i, sample] = _finite(rollout, names[i])
                    written += len(rollout.response_ids)
                if say is not None:
                    rate = written / (time.monotonic() - started)
                    say(f"{len(found)}/{len(prompts) * samples} answers, {written} tokens, {rate:.0f} tokens/s")
    return [[found[i, sample] for sample in range(samples)] for i in range(len(prompts))]


def _prefill_of(causal: Any) -> Callable[[Sequence[Sequence[int]]], Prefilled]:
    """How prompts run: as a forest, where the model shares prefixes and its cache can be filled from one."""
    if shares_prefixes(causal) and grows_in_place(causal):
        return partial(shared_prefill, causal)
    return partial(prefill, partial(_last_states, causal), causal)


def _last_states(causal: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Hidden states (N, H) at the last ids."""
    output = causal.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return output.last_hidden_state[:, -1]  # type: ignore[no-any-return]


class _Draws:
    """Draws the tokens of a batch's rows and keeps what they were drawn with."""

    def __init__(self, causal: Any, drawn: Tensor, temperature: float, value: Value | None) -> None:
        self.causal, self.drawn, self.temperature, self.value = causal, drawn, temperature, value
        self.logps = torch.zeros(drawn.shape, device=drawn.device)  # (N, max_new_tokens)
        self.values = torch.zeros_like(self.logps)

    def __call__(self, states: Tensor, rows: list[int], step: int) -> Tensor:
        """Tokens (n,) from hidden states (n, H)."""
        logits = head_logits(self.causal, states)
        probabilities = (logits if self.temperature == 1.0 else logits / self.temperature).softmax(-1)
        tokens = draw(probabilities, self.drawn[rows, step])
        self.logps[rows, step] = probabilities.gather(-1, tokens[:, None]).squeeze(-1).log()
        if self.value is not None:
            self.values[rows, step] = self.value(states.float()).float()
        return tokens

    def rollouts(self, answers: Sequence[tuple[list[int], bool]], tokenizer: Any) -> Iterator[Rollout]:
        logps, values = self.logps.tolist(), self.values.tolist()
        for (ids, finished), logp, states in zip(answers, logps, values, strict=True):
            text = tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=True)
            kept = None if self.value is None else states[: len(ids)]
            yield Rollout(ids, logp[: len(ids)], kept, finished, text)


def _batches(prompts: Sequence[Sequence[int]], samples: int, size: int) -> Iterator[list[_Group]]:
    """Groups of at most `size` answers together, or one group alone that has more; longest prompts first."""
    groups: dict[tuple[int, ...], _Group] = {}
    for i, prompt in enumerate(prompts):
        group = groups.setdefault(tuple(prompt), _Group(prompt, []))
        group.answers.extend((i, sample) for sample in range(samples))
    batch: list[_Group] = []
    for group in sorted(groups.values(), key=lambda group: -len(group.ids)):
        if batch and sum(len(one.answers) for one in batch) + len(group.answers) > size:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _parts(rows: Sequence[tuple[int, int, int]], size: int) -> list[Sequence[tuple[int, int, int]]]:
    """The rows in as few parts of at most `size` as there can be, about equally long."""
    count = math.ceil(len(rows) / size)
    bounds = [len(rows) * part // count for part in range(count + 1)]
    return [rows[first:last] for first, last in pairwise(bounds)]


def _check_settings(
    prompts: int, seeds: int, max_new_tokens: int, temperature: float, samples: int, batch_size: int | None
) -> None:
    if seeds != prompts:
        raise ValueError(f"{seeds} seeds for {prompts} prompts")
    if max_new_tokens < 1 or not temperature > 0 or samples < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"max_new_tokens {max_new_tokens}, temperature {temperature}, samples {samples}, batch_size {batch_size}: "
            "out of range"
        )


def _check_fit(prompts: Sequence[Sequence[int]], names: Sequence[str], max_new_tokens: int, limit: int | None) -> None:
    for name, prompt in zip(names, prompts, strict=True):
        if not len(prompt):
            raise DataError(f"prompt {name} has no tokens")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise DataError(
                f"prompt {name}: its {len(prompt)} tokens and an answer of max_new_tokens {max_new_tokens} do not fit "
                f"the model's context of {limit}; drop it or lower max_new_tokens"
            )


def _finite(rollout: Rollout, name: str) -> Rollout:
    for what, numbers in (("log-probabilities", rollout.logps), ("values", rollout.values or [])):
        if not all(map(math.isfinite, numbers)):
            raise ModelError(
                f"prompt {name}: the {what} of its answer are not finite: the model has diverged, or overflows in this "
                "precision; train it with a lower learning rate, or in float32"
            )
    return rollout
