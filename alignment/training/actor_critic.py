"""Policy, values and reference on one trunk.

The policy is the trunk with its adapter, the reference the same trunk with the adapter off, the value a linear head on
the policy's hidden states or on those of an adapter of its own. Without an adapter the reference is a frozen second
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alignment.errors import ModelError
from alignment.generation.head import unwrap_peft
from alignment.training.logprobs import scored_states, token_logprobs
from alignment.training.projection import entropy, projected

POLICY, VALUE = "default", "value"  # names of adapters
CHUNK_TOKENS = 1024


class ValueHead(nn.Module):
    """Expected return of a state: one linear output in float32, zero at the start."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """States (..., H) -> values (...), float32 whatever the autocast."""
        with torch.autocast(states.device.type, enabled=False):
            values: Tensor = self.linear(states.float()).squeeze(-1)
        return values


class ActorCritic:
    """One trunk in three roles. The model stays in eval mode: dropout would make policy and reference differ."""

    def __init__(self, model: Any, reference: Any | None = None, value_adapter: bool = False) -> None:
        """Takes a policy.

        Args:
            model: a PeftModel with one adapter (the policy's), or a plain model.
            reference: a frozen model, for a plain one; None takes the adapter off instead.
            value_adapter: add an adapter for the values, of the policy adapter's settings.

        Raises:
            ModelError: neither adapter nor reference, or both; a value adapter without a policy adapter.
        """
        adapted = hasattr(model, "disable_adapter")
        if adapted == (reference is not None):
            raise ModelError("give a policy with an adapter, or one without and a frozen reference")
        if value_adapter and not adapted:
            raise ModelError("a value adapter needs a policy adapter; set peft, or value_adapter: false")
        self.model = model.eval()
        self.reference = None if reference is None else reference.eval().requires_grad_(False)
        embeddings = unwrap_peft(model).get_input_embeddings().weight
        self.head = ValueHead(unwrap_peft(model).config.get_text_config().hidden_size).to(embeddings.device)
        self.value_adapter = value_adapter
        if value_adapter:
            model.add_adapter(VALUE, model.peft_config[POLICY])
            model.set_adapter(POLICY)

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything an update changes, by name."""
        with self.as_value():
            wanted = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        wanted |= {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        found = {f"model.{name}": weight for name, weight in self.model.named_parameters() if name in wanted}
        return found | {f"value_head.{name}": weight for name, weight in self.head.named_parameters()}

    def act(
        self, batch: Mapping[str, Tensor], temperature: float, entropy_learns: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, entropies and values of a batch's S completion tokens, row by row: (S,) float32 each.

        Values are None where they come from another adapter (see `values`). Entropies that are only watched
        (`entropy_learns` False) save a product with the head.
        """
        causal, states, targets, _ = scored_states(self.model, batch)
        logps, found = projected(causal, states, targets, temperature, CHUNK_TOKENS, entropy, entropy_learns)
        return logps, found, None if self.value_adapter else self.head(states)

    def values(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Values of the states that predict the S completion tokens: (S,) float32."""
        with self.as_value():
            _, states, _, _ = scored_states(self.model, batch)
        values: Tensor = self.head(states)
        return values

    @torch.no_grad()
    def reference_logps(self, batch: Mapping[str, Tensor], temperature: float) -> Tensor:
        """log πref of the S completion tokens: (S,) float32 nats."""
        scored = batch["completion_mask"][:, 1:].bool()
        if self.reference is not None:
            return token_logprobs(self.reference, batch, temperature)[scored]
        with self.model.disable_adapter():
            return token_logprobs(self.model, batch, temperature)[scored]

    @contextmanager
    def as_value(self) -> Iterator[None]:
        """The values' adapter on instead of the policy's. peft freezes what is off: backward belongs inside too."""
        before = self.model.active_adapter if self.value_adapter else None
        if before not in (None, VALUE):
            self.model.set_adapter(VALUE)
        try:
            yield
        finally:
            if before not in (None, VALUE):
                self.model.set_adapter(before)
