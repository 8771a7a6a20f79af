"""The prompts of a stage that samples its own answers, with every record that did not make it counted by reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from alignment.errors import DataError, RecipeError
from alignment.preferences.prompts import prompts
from alignment.preferences.record import PreferenceRecord
from alignment.preferences.views import Messages
from alignment.runs import DataUse, RunContext
from alignment.stages.reference_answers import ReferenceAnswers, reference_answers
from alignment.stages.rows import load


class PromptRow(NamedTuple):
    """A prompt to answer."""

    id: str  # of its record
    messages: Messages
    ids: list[int]  # its tokens, the generation prompt included


class Prompts(NamedTuple):
    """Rows in the records' order, and the reference answers by `reward.rules.prompt_text(prompt)`."""

    rows: list[PromptRow]
    references: ReferenceAnswers
    use: DataUse
    records: dict[str, PreferenceRecord]  # by id: where each row's prompt comes from


def prompt_rows(
    context: RunContext,
    role: str,
    tokenizer: Any,
    max_prompt_length: int,
    max_new_tokens: int,
    context_length: int | None,
    long_prompts: Literal["drop", "error"] = "drop",
) -> Prompts:
    """Every prompt of a data set that an answer fits behind.

    Args:
        context, role: of the stage and its data set.
        tokenizer: of the policy; its chat template opens the assistant's turn.
        max_prompt_length: tokens; longer prompts are dropped and counted, or an error.
        max_new_tokens: of an answer.
        context_length: positions the policy has; None when it has no limit.
        long_prompts: what to do with the longer ones.

    Raises:
        RecipeError: an answer leaves no room for a prompt.
        DataError: no prompt is left, or one is too long and `long_prompts` is "error".
    """
    if context_length is not None and max_new_tokens >= context_length:
        raise RecipeError(
            f"{context.stage}: max_new_tokens {max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{context_length} tokens; lower max_new_tokens"
        )
    loaded = load(context, role)
    spec = context.data[role]
    room = max_prompt_length if context_length is None else min(max_prompt_length, context_length - max_new_tokens)
    items, dropped = prompts(loaded.records)
    rows: list[PromptRow] = []
    too_long: list[str] = []
    for item in items:
        ids = tokenizer.apply_chat_template(item.prompt, tokenize=True, add_generation_prompt=True, return_dict=False)
        if len(ids) <= room:
            rows.append(PromptRow(item.record_id, item.prompt, ids))
            continue
        if long_prompts == "error":
            raise DataError(f"{spec.source}: {_too_long(item.record_id, len(ids), room, max_prompt_length)}")
        too_long.append(item.record_id)
    counts = {reason: count for reason, count in dropped.items() if count}
    if too_long:
        counts[f"prompt longer than {room} tokens"] = len(too_long)
    if loaded.refused:
        counts["refused by the importer"] = len(loaded.refused)
    if not rows:
        reasons = "; ".join(f"{count} {reason}" for reason, count in counts.items())
        raise DataError(f"{spec.source}: none of {len(loaded.records)} prompts can be used: {reasons}")
    source = f"{spec.source} ({spec.split})"
    use = DataUse(role, source, context.data_digests[role], len(loaded.records), len(rows), counts)
    context.say(f"{context.stage}: {len(rows)} of {use.n_records} prompts used{_listed(counts.items())}")
    from reward.rules import prompt_text

    answers = reference_answers(loaded.records, spec.criterion, {prompt_text(row.messages) for row in rows})
    wanted = {row.id for row in rows}
    return Prompts(rows, answers, use, {record.id: record for record in loaded.records if record.id in wanted})


def _too_long(record: str, length: int, room: int, wanted: int) -> str:
    why, fix = f"max_prompt_length {wanted}", "raise it"
    if room < wanted:
        why, fix = f"the {room} that max_new_tokens leaves in the context", "lower max_new_tokens"
    return f"prompt {record}: {length} tokens, more than {why}; {fix}, or set long_prompts: drop"


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return "".join(f", {count} dropped: {reason}" for reason, count in counts)
