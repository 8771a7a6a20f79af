import math
from typing import Any

import pytest
import torch
from full_logits import batch_of, from_full_logits, model_of
from torch import Tensor

from alignment.training.logprobs import scored_states, token_logprobs, token_logprobs_and_hits
from alignment.training.projection import Distributions, collision, entropy, hits, projected

HEADS: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"tie_word_embeddings": False}),
    ("Gemma2", {"final_logit_softcapping": 3.0, "head_dim": 16, "query_pre_attn_scalar": 16}),
    ("Cohere", {"logit_scale": 0.25}),
]


def frozen_head(name: str, changes: dict[str, Any]) -> Any:
    model = model_of(name, **changes)
    model.get_output_embeddings().requires_grad_(False)
    return model


def trunk_gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad]))


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1024])
@pytest.mark.parametrize(("name", "changes"), HEADS)
def test_a_frozen_head_gives_the_gradients_of_the_full_logits(
    name: str, changes: dict[str, Any], chunk_tokens: int
) -> None:
    model, batch = frozen_head(name, changes), batch_of()
    expected = from_full_logits(model, batch, 0.7)
    found = token_logprobs(model, batch, 0.7, chunk_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (trunk_gradients(model, logps.square().sum()) for logps in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).norm()) <= 1e-4 * float(other.norm())


@pytest.mark.parametrize(("learns", "runs"), [(False, 1), (True, 2)])
def test_a_frozen_head_projects_once_and_one_that_learns_again(learns: bool, runs: int) -> None:
    model, batch = model_of("Llama", tie_word_embeddings=False), batch_of()
    model.lm_head.requires_grad_(learns)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    token_logprobs(model, batch, chunk_tokens=4).sum().backward()  # type: ignore[no-untyped-call]
    assert sum(seen) == runs * int(batch["completion_mask"].sum())


@pytest.mark.parametrize("learns", [False, True])
def test_what_is_said_beside_is_the_same_and_has_a_gradient_when_asked_for(learns: bool) -> None:
    model, batch = frozen_head(*HEADS[0]), batch_of()
    causal, states, targets, _ = scored_states(model, batch)
    exact = torch.distributions.Categorical(logits=model.lm_head(states) / 0.7)
    logps, found = projected(causal, states, targets, 0.7, 4, entropy, beside_learns=learns)
    torch.testing.assert_close(logps, exact.log_prob(targets), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, exact.entropy(), rtol=1e-5, atol=1e-5)
    assert found.requires_grad is learns
    ours, theirs = (
        torch.autograd.grad(logps.sum(), states, retain_graph=True),
        torch.autograd.grad(exact.log_prob(targets).sum(), states, retain_graph=True),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    if learns:
        ours, theirs = (torch.autograd.grad(one.square().sum(), states) for one in (found, exact.entropy()))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_without_a_scored_token_gives_zeros_with_a_gradient() -> None:
    model, batch = frozen_head(*HEADS[0]), batch_of()
    batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    found = token_logprobs(model, batch)
    assert not found.any()
    assert not any(gradient.any() for gradient in trunk_gradients(model, found.sum()))


def test_hits_beside_a_frozen_head() -> None:
    model, batch = frozen_head(*HEADS[0]), batch_of()
    logps, found = token_logprobs_and_hits(model, batch, chunk_tokens=4)
    with torch.no_grad():
        _, plain = token_logprobs_and_hits(model, batch)
    assert logps.requires_grad
    assert not found.requires_grad
    assert torch.equal(found, plain)


def test_autocast_keeps_the_gradient_of_a_frozen_head() -> None:
    model, batch = frozen_head(*HEADS[0]), batch_of()
    exact = trunk_gradients(model, token_logprobs(model, batch).sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = token_logprobs(model, batch).sum()
    for one, other in zip(trunk_gradients(model, low), exact, strict=True):
        assert float((one - other).norm()) <= 0.1 * float(other.norm()) + 1e-3


def test_distributions_far_apart_do_not_underflow() -> None:
    found = Distributions(torch.tensor([[0.0, 300.0, -300.0], [1.0, 1.0, 1.0]]))
    targets = torch.tensor([2, 0])
    assert found.probabilities[0, 2] == 0
    torch.testing.assert_close(found.logps(targets), torch.tensor([-600.0, -math.log(3)]))
    torch.testing.assert_close(entropy(found, targets), torch.tensor([0.0, math.log(3)]))
    torch.testing.assert_close(collision(found, targets), torch.tensor([0.0, -math.log(3)]))
    assert hits(found, targets).tolist() == [0.0, 1.0]
