"""A number that is not finite stops a run before it reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignment.errors import AlignmentError
from alignment.training.metrics import metric_of


def check_loss(sums: Mapping[str, Tensor], ids: Sequence[str], step: int) -> None:
    """Raises AlignmentError, naming the records, where a term of `loss` in `sums` ((P,) each) is not finite."""
    terms = [values for name, values in sums.items() if metric_of(name) == "loss"]
    bad = (~torch.stack(terms).isfinite()).any(dim=0).tolist()
    if any(bad):
        named = ", ".join(name for name, is_bad in zip(ids, bad, strict=True) if is_bad)
        raise AlignmentError(
            f"step {step}: the loss is not finite for record {named}; lower the learning rate, or look at these records"
        )


def check_gradient(norm: Tensor | float, step: int) -> None:
    """Raises AlignmentError for a norm of the step's gradient that is not finite."""
    if not math.isfinite(norm):
        raise AlignmentError(
            f"step {step}: the gradient is not finite (norm {float(norm)}), though the loss is; lower the learning "
            "rate, or train in full precision (bf16: false)"
        )
