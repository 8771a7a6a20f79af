"""What tests against TRL need: random rows, tiny models away from their start, gradients compared."""

from pathlib import Path
from typing import Any

import torch

from alignment.training.logprobs import sequence_logprobs
from alignment.training.objectives.pairs import collate_pairs, shared_lengths
from alignment.training.tokens import Encoded

PAD = 2


def rows(n: int = 4, seed: int = 3) -> list[dict[str, Any]]:
    """Pairs of random tokens with prompts and answers of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return [int(t) for t in torch.randint(3, 250, (length,), generator=generator)]

    return [{"prompt_ids": tokens(2, 6), "chosen_ids": tokens(1, 9), "rejected_ids": tokens(1, 9)} for _ in range(n)]


def encoded(prompt: list[int], completion: list[int]) -> Encoded:
    return Encoded(prompt, completion, [1] * len(completion))


def pretrained(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def policy(folder: Path, noise: float = 0.05) -> Any:
    model = pretrained(folder).train()
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight += noise * torch.randn_like(weight)
    return model


def reference_rows(folder: Path, raw: list[dict[str, Any]], ld_alpha: float | None = None) -> list[dict[str, Any]]:
    """Pairs with the reference's log-probabilities, as the stage makes them."""
    reference = pretrained(folder)
    made: list[dict[str, Any]] = []
    for i, row in enumerate(raw):
        sides = {side: encoded(row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected")}
        made.append({"id": str(i), **sides, "weight": 1.0})
        for side, part in zip(sides, shared_lengths(sides["chosen"], sides["rejected"]), strict=True):
            with torch.no_grad():
                batch = collate_pairs([{"id": "0", "weight": 1.0, "chosen": sides[side], "rejected": part}], PAD)
                whole, shared = sequence_logprobs(reference, batch).tolist()
            made[-1][f"ref_{side}_logps"] = whole if ld_alpha is None else shared + ld_alpha * (whole - shared)
    return made


def classifier(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(5)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).train()


def assert_same_gradients(ours: Any, theirs: Any) -> None:
    named = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        expected = named[name].grad
        scale = float(expected.abs().max())
        torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-6 * max(scale, 1e-3), msg=name)
