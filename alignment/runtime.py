"""Device, precision and the noise of libraries: what every loading and every training loop asks of the machine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def pick_device() -> str:
    """The device to work on: "cuda" when there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast_bf16(device: str) -> bool:
    """Whether bf16 matrix products run in hardware on `device` ("cpu", "cuda", "cuda:1").

    A CPU without AMX, AVX512-BF16 or ARM bf16 emulates them, slower than fp32.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())  # before get_capabilities; False on ARM


def autocast(device: str) -> torch.autocast:
    """bf16 autocast over fp32 weights where the hardware has it, otherwise a context that does nothing."""
    import torch

    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=autocast_bf16(device))


@contextmanager
def quiet() -> Iterator[None]:
    """Silences progress bars, load reports and hub chatter of transformers inside the block, then restores them.

    What matters of a load report (missing weights) is checked by the loader and raised.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    verbosity, bars, hub_bars = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # peft reads an attribute that transformers renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


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
