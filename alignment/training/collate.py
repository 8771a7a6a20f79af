"""From rows to batches: plain dicts of right-padded tensors.

Rows that share a prompt stay next to each other, and nothing is sorted. Every batch holds `input_ids`,
`attention_mask` (N, T) int64, `completion_mask` (N, T) bool and the `ids` of its records; what else it holds is in the
file of its objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from alignment.training.tokens import Encoded

Batch = dict[str, Any]


def pad_rows(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Right-padded `input_ids`, `attention_mask` and `completion_mask`, each (N, T)."""
    width = max(len(row) for row in rows)
    padding = [width - len(row) for row in rows]
    return {
        "input_ids": torch.tensor([row.ids + [pad_id] * pad for row, pad in zip(rows, padding, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - pad) + [0] * pad for pad in padding]),
        "completion_mask": torch.tensor(
            [row.mask + [0] * pad for row, pad in zip(rows, padding, strict=True)], dtype=torch.bool
        ),
    }
