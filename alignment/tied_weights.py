"""Which layers hold one weight together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def weight_places(model: nn.Module) -> dict[int, list[str]]:
    """id of a weight -> the names of the layers that hold it; a tied weight has several."""
    places: dict[int, list[str]] = {}
    for path, weight in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(weight), []).append(shown(path.removesuffix(".weight").removesuffix(".base_layer")))
    return places


def shown(path: str) -> str:
    """The name of a module without what peft puts before it."""
    return path.removeprefix("base_model.model.")
