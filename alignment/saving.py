"""Writing weights: safetensors only, and nothing that names a path of this machine."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.atomic import storage_errors
from alignment.errors import ModelError
from alignment.runtime import quiet

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes full weights, config and tokenizer into `folder`; anyone can load it with `from_pretrained`.

    Raises TypeError for a model with an adapter on it (merge it or use `save_adapter`), ModelError for weights that are
    not finite, StorageError for a full disk.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        raise TypeError("save_model writes full weights: merge the adapter first, or use save_adapter")
    _check_finite(dict(model.named_parameters()))
    with _writing(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, parent: str | None = None
) -> None:
    """Writes the adapter of `model` as a delta to `parent` (a model reference), with the tokenizer if one is given.

    `parent` is what the model was loaded from unless given; ValueError when neither is known, ModelError for weights
    that are not finite. Equal weights give equal files: peft keeps the target modules in a set, whose order differs
    between processes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    parent = parent or getattr(model.get_base_model(), "source_ref", None)
    if parent is None:
        raise ValueError("save_adapter: this model was not loaded by alignment.models; say what it adapts with parent=")
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = parent
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    # Embeddings are never trained here; "auto" would look for the parent on the hub.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    _check_finite(state)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{name} has values that are not finite: a model like this is not saved")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """StorageError for a full disk, also when safetensors reports it in its own words."""
    from safetensors import SafetensorError

    with quiet(), storage_errors(folder):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error)) from error
