"""LoRA layers as plain ones while a model decodes: at one token a step, their two small products cost as much as the
layer itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from alignment.errors import ModelError
from alignment.tied_weights import shown, weight_places


@contextmanager
def merged_adapters(model: Any) -> Iterator[None]:
    """W + Σ delta in the place of W inside the block, for the active LoRA adapters of a PeftModel.

    The weights are put back, not subtracted from, so nothing of the sum stays. A plain model, or one whose adapters are
    off or merged already, is left alone. Raises ModelError for an adapter that is not the same as a sum of weights.
    """
    from peft.tuners.lora import LoraLayer

    layers = {
        layer: active
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and not layer.disable_adapters and not layer.merged
        if (active := [a for a in layer.active_adapters if a in layer.lora_A or a in layer.lora_embedding_A])
    }
    _check_sums(model, layers)
    originals = []
    try:
        with torch.no_grad():
            for layer, active in layers.items():
                weight = layer.get_base_layer().weight
                originals.append((weight, weight.data))
                total = weight.data.clone()
                for name in active:
                    total += layer.get_delta_weight(name).to(total.dtype)
                weight.data = total
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for weight, data in originals:
            weight.data = data


def _check_sums(model: Any, layers: dict[Any, list[str]]) -> None:
    """Raises ModelError for a layer that another weight would stand in for wrongly: answers would be sampled from
    another policy than the one that is trained."""
    from transformers.pytorch_utils import Conv1D

    if not layers:
        return
    places = weight_places(model)
    names = {module: shown(path) for path, module in model.named_modules()}
    for layer, active in layers.items():
        name, base = names[layer], layer.get_base_layer()
        if not isinstance(base, nn.Linear | Conv1D) or not base.weight.is_floating_point():
            why = f"is a {type(base).__name__}, not a linear layer"
        elif others := [place for place in places[id(base.weight)] if place != name]:
            why = f"shares its weight with {', '.join(others)}, which has no adapter"
        elif any(adapter in layer.lora_variant or layer.lora_bias[adapter] for adapter in active):
            raise ModelError(
                f"{name}: its adapter is no plain LoRA (DoRA, a bias...), and only that can be sampled from"
            )
        else:
            continue
        raise ModelError(f"{name} {why}: a LoRA on it cannot be sampled from; leave it out of peft.target_modules")
