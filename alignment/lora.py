"""LoRA: the settings a recipe gives, a fresh adapter on a model, a trained one merged into it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from alignment.errors import ModelError
from alignment.runtime import quiet
from alignment.tied_weights import shown, weight_places

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class LoraSettings(BaseModel):
    """LoRA (Hu et al. 2021, arXiv:2106.09685): W + (lora_alpha / r) · B·A, with peft's names for the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["lora"] = "lora"
    r: int = Field(16, ge=1)
    lora_alpha: int | None = Field(None, ge=1)  # None: 2·r
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"  # all but the output head
    bias: Literal["none"] = "none"  # trained biases could not be stored as a delta


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """Freezes `model` and adds a fresh adapter to it, in place: A random from torch's global seed, B zero.

    The score head of a reward model stays trainable and is saved with the adapter. Raises ModelError when
    `target_modules` names nothing in the model, or a layer whose weight another layer shares.
    """
    from peft import LoraConfig, get_peft_model

    from alignment.lora_product import as_one_product

    config = LoraConfig(
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.lora_alpha or 2 * settings.r,
        lora_dropout=settings.lora_dropout,
        target_modules=settings.target_modules,
        bias=settings.bias,
    )
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Model (with|has) `?tie_word_embeddings")  # refused below
            adapted: PeftModel = get_peft_model(model, config)
    except ValueError as error:
        wanted = settings.target_modules
        known = ", ".join(sorted(linear_names(model)))
        raise ModelError(
            f"peft.target_modules {wanted!r} fits nothing here; use all-linear, or some of: {known}"
        ) from error
    _refuse_shared(adapted)
    as_one_product(adapted)
    return adapted


def _refuse_shared(adapted: PeftModel) -> None:
    """An adapter on one of two tied layers moves that one alone while it trains, and both once it is merged."""
    from peft.tuners.lora import LoraLayer

    places = weight_places(adapted)
    for path, layer in adapted.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = shown(path)
        others = [place for place in places.get(id(layer.get_base_layer().weight), []) if place != name]
        if others:
            raise ModelError(
                f"peft.target_modules: {name} shares its weight with {', '.join(others)}, and merging its adapter "
                "would change both; leave it out"
            )


def linear_names(model: PreTrainedModel) -> set[str]:
    """The last parts of the names of a model's linear layers: q_proj, down_proj..."""
    from torch.nn import Linear

    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Linear)}


def merge_adapter(model: PreTrainedModel, folder: Path, ref: str) -> PreTrainedModel:
    """Adds the stored adapter in `folder` to the weights of `model`, in place, and returns the plain model.

    Raises ModelError when the adapter does not fit the model or is incomplete.
    """
    import torch
    from peft import PeftModel
    from safetensors import SafetensorError

    # peft fills the adapter with random numbers before it reads it; a caller's seed must not depend on that.
    with quiet(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
        try:
            merged: Any = PeftModel.from_pretrained(model, folder, local_files_only=True).merge_and_unload()
        except (ValueError, RuntimeError, KeyError, TypeError, UserWarning, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{ref}: the adapter does not fit the model it is applied to ({reason})") from error
    # peft froze the base; a merged model is an ordinary one again, and full fine-tuning must reach all of it.
    return merged.requires_grad_(True)
