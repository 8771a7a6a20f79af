import torch

from alignment.training.objectives.objective import ordered_right


def test_a_tie_counts_one_half() -> None:
    assert ordered_right(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]
