"""What the trainer asks of an objective, and what an objective answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from alignment.training.collate import Batch


class Measured(NamedTuple):
    """A batch's loss and its metrics.

    `sums[name] / counts[name]`, each summed over any set of records, is that metric over those records, however they
    were split into batches; for a metric of several terms (`metrics.term`), the sum of their ratios is. Only a
    `batchwise` objective cannot promise that: its losses are those of the batches in which they were measured.
    """

    loss: Tensor  # scalar with gradient: the weighted mean over the batch, its metric `loss`
    sums: Mapping[str, Tensor]  # (P,) each, without gradient: what every record adds to a metric's numerator
    counts: Mapping[str, Tensor]  # (P,) each: ... and to its denominator


class Objective(Protocol):
    """What `ObjectiveTrainer` needs to know."""

    @property
    def coupled(self) -> bool:
        """Whether a record's loss depends on the other records of its batch, which then cannot be split."""
        ...

    @property
    def batchwise(self) -> bool:
        """Whether the metric `loss` of a set of records depends on which of them met in a batch, by definition."""
        ...

    @property
    def gathers(self) -> bool:
        """Whether a coupled loss reads the batches of all processes; if not, it is refused beside other processes."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys that every row has."""
        ...

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows -> batch; raises DataError naming the record that cannot be one."""
        ...

    def weight(self, batch: Batch) -> Tensor:
        """Scalar: how much the batch's mean loss counts beside other batches of the same step."""
        ...

    def loss(self, model: Any, batch: Batch) -> Measured:
        """The loss; `model` is the unwrapped transformers or PEFT model."""
        ...

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """Raises AlignmentError when training starts from something it must not start from."""
        ...


def ordered_right(margin: Tensor) -> Tensor:
    """1 where the margin is positive, 1/2 where it is 0 (a tie), else 0."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()
