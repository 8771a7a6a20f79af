"""A key-value cache that grows in place. Imported while generating only: it needs torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

_ROOM = 64  # positions a buffer is made larger than needed


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values (rows, heads, positions, head size) as the front part of a buffer with room behind them.

    The library's layer concatenates instead: each new token copies all keys and values before it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys: Tensor
        self.values: Tensor
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends new positions and returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        buffers = self._buffers
        if buffers is None or buffers[0].shape[-2] < end or self.keys.data_ptr() != buffers[0].data_ptr():
            buffers = self._buffers = self._grown(key_states, value_states, start, end)
        keys, values = (buffer[: len(key_states), :, :end] for buffer in buffers)
        keys[:, :, start:], values[:, :, start:] = key_states, value_states
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows, at the front of the same buffer."""
        if self._buffers is None:
            return
        kept = []
        for buffer, held in zip(self._buffers, (self.keys, self.values), strict=True):
            front = buffer[: len(indices), :, : held.shape[-2]]
            front.copy_(held[indices])
            kept.append(front)
        self.keys, self.values = kept

    def spread(self, indices: torch.Tensor) -> GrowingLayer:
        """A layer with a buffer of its own whose row i is row indices[i] of this one."""
        found = copy.copy(self)
        buffers = []
        for held in (self.keys, self.values):
            _, heads, length, size = held.shape
            buffer = held.new_empty(len(indices), heads, length + _ROOM, size)
            buffer[:, :, :length] = held[indices]
            buffers.append(buffer)
        found._buffers = buffers[0], buffers[1]
        found.keys, found.values = (buffer[:, :, : self.get_seq_length()] for buffer in buffers)
        return found

    def _grown(self, key_states: Tensor, value_states: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
        grown = []
        for new, held in ((key_states, self.keys), (value_states, self.values)):
            rows, heads, _, size = new.shape
            buffer = new.new_empty(rows, heads, end + _ROOM, size)
            if start:
                buffer[:, :, :start] = held
            grown.append(buffer)
        return grown[0], grown[1]


def growing_cache(model: Any) -> DynamicCache:
    """The model's DynamicCache with growing layers; layers of another kind (sliding window...) stay the library's."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def grows_in_place(model: Any) -> bool:
    """Whether every layer of the model keeps a plain cache, which grows in place here."""
    return all(type(layer) is GrowingLayer for layer in growing_cache(model).layers)


def keep_rows(cache: DynamicCache, indices: torch.Tensor) -> None:
    """Keeps some rows, in place."""
    for layer in cache.layers:
        _select(layer, indices)


def spread_cache(cache: DynamicCache, indices: torch.Tensor) -> DynamicCache:
    """A cache whose row i is row indices[i] of `cache`, which stays as it is."""
    found = copy.copy(cache)
    found.layers = []
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            found.layers.append(layer.spread(indices))
        else:
            found.layers.append(copy.deepcopy(layer))
            _select(found.layers[-1], indices)
    return found


def join_caches(caches: Sequence[DynamicCache], width: int) -> DynamicCache:
    """The rows of several caches of growing layers below each other, each aligned right in `width` positions."""
    found = copy.copy(caches[0])
    layers = [[cache.layers[i] for cache in caches] for i in range(len(found.layers))]
    found.layers = [filled_layer(each[0], [(one.keys, one.values) for one in each], width) for each in layers]
    return found


def filled_cache(model: Any, layers: Iterable[Sequence[tuple[Tensor, Tensor]]], width: int) -> DynamicCache:
    """The model's cache, its layers filled with the keys and values of each, aligned right in `width` positions."""
    found = growing_cache(model)
    for i, parts in enumerate(layers):
        found.layers[i].lazy_initialization(*parts[0])
        found.layers[i] = filled_layer(found.layers[i], parts, width)
    return found


def filled_layer(like: GrowingLayer, parts: Sequence[tuple[Tensor, Tensor]], width: int) -> GrowingLayer:
    """A layer with the rows of keys and values (rows, heads, positions, head size), aligned right.

    What is left of a row's keys is 0: masked out, but it must be a number.
    """
    found = copy.copy(like)
    buffers = []
    for states in zip(*parts, strict=True):
        _, heads, _, size = states[0].shape
        buffer = states[0].new_zeros(sum(len(part) for part in states), heads, width + _ROOM, size)
        first = 0
        for part in states:
            buffer[first : first + len(part), :, width - part.shape[2] : width] = part
            first += len(part)
        buffers.append(buffer)
    found._buffers = buffers[0], buffers[1]
    found.keys, found.values = (buffer[:, :, :width] for buffer in buffers)
    return found


def _select(layer: Any, indices: torch.Tensor) -> None:
    # what a recurrent layer (Mamba, short convolutions) calls the same thing; its other method forgets its states
    recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
    (layer.reorder_cache if recurrent else layer.batch_select_indices)(indices)
