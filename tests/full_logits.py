"""Tiny decoders with telling logits, a padded batch, and log-probabilities by the soft-max of all logits."""

from typing import Any

import torch
from torch import Tensor

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def model_of(name: str, **changes: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():  # spread the logits, so that scaling and capping show
        model.get_output_embeddings().weight.mul_(20)
    return model.eval()


def batch_of(vocabulary: int = 60) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths, prompts, width = [9, 5, 7, 3], [3, 4, 2, 2], 9
    position = torch.arange(width)
    attention = (position < torch.tensor(lengths).unsqueeze(1)).long()
    return {
        "input_ids": torch.randint(3, vocabulary, (4, width), generator=generator) * attention,
        "attention_mask": attention,
        "completion_mask": attention.bool() & (position >= torch.tensor(prompts).unsqueeze(1)),
    }


def from_full_logits(model: Any, batch: dict[str, Tensor], temperature: float = 1.0) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float() / temperature
    logps = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
    scored: Tensor = logps * batch["completion_mask"][:, 1:]
    return scored
