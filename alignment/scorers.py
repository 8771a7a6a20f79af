"""From a model reference to a Scorer, with the tokenizer and the rules the model was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.models import load_reward
from alignment.registry import ModelRegistry
from alignment.runtime import autocast_bf16, pick_device
from alignment.sources import Say
from alignment.sources.resolve import log

if TYPE_CHECKING:
    from reward.model import RewardModel
    from reward.steps import ProcessRewardModel


def reward_model_from(
    ref: str,
    registry: ModelRegistry,
    *,
    name: str = "reward",
    device: str | None = None,
    batch_size: int = 16,
    aggregate: str | None = None,
    share: bool = False,
    say: Say = log,
) -> RewardModel | ProcessRewardModel:
    """The reward model `ref` as a Scorer: text in, scores out, whatever tokenizer the policy has.

    Args:
        ref: a model reference, such as `run-reward@1`.
        registry: where registry references are found.
        name: the scorer's name in results.
        device: None takes a GPU where there is one. bf16 autocast is used where the hardware has it.
        batch_size: rows per forward pass.
        aggregate: how several heads, or the steps of a process model, become one score; None takes what the model was
            trained for.
        share: run what rows have in common once (`share_prefixes`).
        say: gets a line when something is fetched.

    Raises:
        ModelError: as `load_reward` does, and for an architecture that cannot share prefixes.
        ValueError: an unknown aggregate.
    """
    import torch

    from alignment.training.prefix_sharing import share_prefixes
    from alignment.training.steps import step_encoder
    from alignment.training.tokens import text_encoder
    from reward.model import RewardModel, marker
    from reward.steps import ProcessRewardModel

    device = device or pick_device()
    model, tokenizer = load_reward(ref, registry, device=device, say=say)
    if share:
        share_prefixes(model)
    autocast = torch.bfloat16 if autocast_bf16(device) else None
    separator = marker(model).get("separator")
    if separator is not None:
        return ProcessRewardModel(
            model, step_encoder(tokenizer, separator), name, batch_size, autocast=autocast, aggregate=aggregate
        )
    return RewardModel(model, text_encoder(tokenizer), name, batch_size, autocast=autocast, aggregate=aggregate)
