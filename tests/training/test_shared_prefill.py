"""Prompts that ran as a forest against the same prompts padded."""

from functools import partial

import pytest
import torch
from tiny_decoders import decoder

from alignment.errors import ModelError
from alignment.generation.decode import prefill
from alignment.generation.kv_cache import grows_in_place
from alignment.training.prefix_sharing import SUPPORTED, share_prefixes
from alignment.training.rollouts import _last_states
from alignment.training.shared_prefill import shared_prefill

PROMPTS = [[5, 9, 40], [7], [30, 31, 32, 33, 34, 35, 36], [5, 9, 41, 60], [5, 9, 40]]


@pytest.mark.parametrize("family", SUPPORTED)
def test_a_forest_goes_on_as_padded_prompts_do(family: str) -> None:
    made = decoder(family).eval()
    made.config.sliding_window = None  # Mistral's: a cache of another kind
    assert grows_in_place(made)
    forward = partial(_last_states, made)
    with torch.no_grad():
        padded_start = prefill(forward, made, PROMPTS)
        share_prefixes(made)
        start = shared_prefill(made, PROMPTS)
        torch.testing.assert_close(start.output, padded_start.output, rtol=1e-4, atol=1e-5)
        ids = torch.arange(3, 3 + len(PROMPTS))[:, None]
        outputs = []
        for _, cache, mask, positions in (padded_start, start):
            longer = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
            outputs.append(forward(ids, longer, positions + 1, cache))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_a_row_that_outgrows_its_positions_is_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 6}
    made = share_prefixes(decoder("llama", rope_parameters=rope).eval())
    with pytest.raises(ModelError, match="a row of 7 tokens is longer than the 6"):
        shared_prefill(made, PROMPTS)
