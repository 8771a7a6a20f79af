"""What the machine offers. Device and precision follow it unless a recipe says otherwise."""

from __future__ import annotations

import os
from typing import Any


def describe() -> dict[str, Any]:
    """The machine as the manifest records it."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": "cuda" if gpu else "cpu",
        "gpu": gpu,
        "gpus": torch.cuda.device_count(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
