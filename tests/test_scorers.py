"""From a reference to a scorer: heads, process models, and the tokenizer they come with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignment.errors import AlignmentError, DataError, ModelError
from alignment.lora import LoraSettings
from alignment.models import load_reward, model_digest, new_reward_model, quiet, save_model
from alignment.registry import ModelRegistry
from alignment.scorers import CheckedScorer, Term, reward_model_from
from alignment.training.tokens import text_encoder
from reward.ensemble import ScorerEnsemble
from reward.model import RewardModel, sequence_rewards
from reward.rules import RuleScorer
from reward.scorer import Messages
from reward.steps import ProcessRewardModel

PROMPTS = [[{"role": "user", "content": text}] for text in ("Where did the cat sit?", "please answer", "the dog ran")]
ANSWERS = ["On the mat.", "In one sentence,\nthen another.", "the ball"]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))
    return ModelRegistry(tmp_path / "registry")


def stored(registry: ModelRegistry, folder: Path, marker: Mapping[str, Any]) -> tuple[str, Any]:
    """A reward model moved away from its start, in the registry."""
    base = f"path:{folder}"
    model, tokenizer = new_reward_model(base, registry, seed=1, marker=marker)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    digest = model_digest(base, registry)
    entry = registry.add(
        "rm",
        kind="reward",
        parent=base,
        parent_digest=digest,
        fill=lambda folder: save_model(model, tokenizer, folder),
    )
    return entry.ref, model


def test_one_head_as_ever(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, model = stored(registry, tiny_model_dir, {})
    assert not hasattr(model.config, "reward_model")
    scorer = reward_model_from(ref, registry, name="rm", device="cpu", batch_size=2)
    assert isinstance(scorer, RewardModel)
    assert scorer.name == "rm"
    loaded, tokenizer = load_reward(ref, registry)
    encode = text_encoder(tokenizer)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=scorer._autocast is not None):
        expected = [
            sequence_rewards(
                loaded, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            ).item()
            for ids in (encode(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True))
        ]
    np.testing.assert_allclose(scorer.score(PROMPTS, ANSWERS), expected, atol=0.02)
    assert scorer.spread(PROMPTS, ANSWERS).tolist() == [0.0] * 3


def test_heads_start_apart_and_come_back_as_a_standard_classifier(
    registry: ModelRegistry, tiny_model_dir: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    marker = {"heads": 3, "aggregate": "worst"}
    fresh, _ = new_reward_model(f"path:{tiny_model_dir}", registry, seed=1, marker=marker)
    single, _ = new_reward_model(f"path:{tiny_model_dir}", registry, seed=1)
    neighbour, _ = new_reward_model(f"path:{tiny_model_dir}", registry, seed=2, marker=marker)
    heads = fresh.score.weight
    assert torch.equal(heads[:1], single.score.weight)  # the first head is that of a model with one
    rows = [*heads, *neighbour.score.weight]
    assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])

    ref, _ = stored(registry, tiny_model_dir, marker)
    with quiet():
        plain = AutoModelForSequenceClassification.from_pretrained(registry.path(ref))
    assert plain.config.num_labels == 3
    scorer = reward_model_from(ref, registry, device="cpu")
    assert isinstance(scorer, RewardModel)
    each = scorer.head_scores(PROMPTS, ANSWERS)
    assert each.shape == (3, 3)
    np.testing.assert_array_equal(scorer.score(PROMPTS, ANSWERS), each.min(axis=1))
    np.testing.assert_allclose(scorer.spread(PROMPTS, ANSWERS), each.std(axis=1), rtol=1e-5)
    mean = reward_model_from(ref, registry, device="cpu", aggregate="mean").score(PROMPTS, ANSWERS)
    np.testing.assert_allclose(mean, each.mean(axis=1), rtol=1e-5)
    _, tokenizer = load_reward(ref, registry)
    ids = torch.tensor([text_encoder(tokenizer)(PROMPTS[0], ANSWERS[0])])
    with torch.no_grad():  # anyone's loader gives the same scores, up to the precision of the trunk
        np.testing.assert_allclose(plain.eval()(ids).logits[0].numpy(), each[0], atol=0.02)
    with pytest.raises(ValueError, match="unknown aggregate 'median'"):
        reward_model_from(ref, registry, device="cpu", aggregate="median")


def test_a_classifier_of_several_labels_is_no_ensemble_by_accident(
    registry: ModelRegistry, tiny_model_dir: Path
) -> None:
    ref, model = stored(registry, tiny_model_dir, {"heads": 2})
    del model.config.reward_model
    folder = registry.root / "plain"
    model.save_pretrained(folder)
    load_reward(ref, registry)[1].save_pretrained(folder)
    with pytest.raises(ModelError, match="has 2 labels; a reward model has one"):
        load_reward(f"path:{folder}", registry)


def test_a_process_model_splits_what_it_scores(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, _ = stored(registry, tiny_model_dir, {"separator": "\n", "aggregate": "min"})
    scorer = reward_model_from(ref, registry, device="cpu")
    assert isinstance(scorer, ProcessRewardModel)
    steps = scorer.step_scores(PROMPTS, ANSWERS)
    assert [len(p) for p in steps] == [1, 2, 1]
    np.testing.assert_allclose(scorer.score(PROMPTS, ANSWERS), [p.min() for p in steps], rtol=1e-6)
    product = reward_model_from(ref, registry, device="cpu", aggregate="product").score(PROMPTS, ANSWERS)
    np.testing.assert_allclose(product, [p.prod() for p in steps], rtol=1e-5)


def test_sharing_prefixes_changes_no_score(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, _ = stored(registry, tiny_model_dir, {"heads": 2})
    plain, shared = (reward_model_from(ref, registry, device="cpu", share=share) for share in (False, True))
    same_prompt = PROMPTS[:1] * 3
    np.testing.assert_allclose(shared.score(same_prompt, ANSWERS), plain.score(same_prompt, ANSWERS), atol=0.02)


def test_an_adapter_trains_several_heads(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    model, _ = new_reward_model(
        f"path:{tiny_model_dir}", registry, seed=1, adapter_config=LoraSettings(r=2), marker={"heads": 2}
    )
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    sequence_rewards(model, batch).sum().backward()  # type: ignore[no-untyped-call]
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("score" in name for name in trained)
    assert any("lora_" in name for name in trained)


# --- checked sums ----------------------------------------------------------------------------------------------------

IDS = ["one", "two", "three"]


class Counted:
    """A scorer that says what it is told to, and counts how often it is asked."""

    name = "counted"

    def __init__(self, answer: Callable[[Sequence[str]], Any]) -> None:
        self.answer = answer
        self.asked = 0

    def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> Any:
        self.asked += 1
        return self.answer(responses)


def fixed(*scores: float) -> Counted:
    return Counted(lambda responses: np.asarray(scores, dtype=np.float32))


def checked(answer: Callable[[Sequence[str]], Any]) -> CheckedScorer:
    return CheckedScorer([Term("fine", fixed(1, 2, 3)), Term("judge", Counted(answer))])


def test_a_sum_is_weighted_and_its_terms_are_not() -> None:
    one, other = fixed(1.0, 2.0, 3.0), fixed(10.0, 0.0, -10.0)
    scored = CheckedScorer([Term("a", one, 2.0), Term("b", other, -0.5)]).score(IDS, PROMPTS, ANSWERS)
    assert scored.scores.tolist() == [2 - 5, 4, 6 + 5]
    assert scored.scores.dtype == np.float32
    assert {name: values.tolist() for name, values in scored.terms.items()} == {"a": [1, 2, 3], "b": [10, 0, -10]}
    assert scored.spread is None  # nobody to disagree: undefined, not 0
    assert (one.asked, other.asked) == (1, 1)


def test_heads_are_read_once_for_scores_and_spread(
    registry: ModelRegistry, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, _ = stored(registry, tiny_model_dir, {"heads": 3, "aggregate": "worst"})
    scorer = reward_model_from(ref, registry, device="cpu")
    assert isinstance(scorer, RewardModel)
    each = scorer.head_scores(PROMPTS, ANSWERS)
    passes = []
    monkeypatch.setattr(scorer, "head_scores", lambda *texts: passes.append(texts) or each)
    terms = [Term("rm", scorer, 2.0), Term("length", RuleScorer("length"), 0.1)]
    scored = CheckedScorer(terms).score(IDS, PROMPTS, ANSWERS)
    assert len(passes) == 1
    lengths = np.array([len(answer) for answer in ANSWERS])
    np.testing.assert_allclose(scored.scores, 2 * each.min(axis=1) + 0.1 * lengths, rtol=1e-5)
    assert scored.spread is not None
    np.testing.assert_allclose(scored.spread, 2 * each.std(axis=1), rtol=1e-5)


def test_the_spread_of_two_ensembles_is_that_of_their_sum() -> None:
    first = ScorerEnsemble([fixed(0, 0, 0), fixed(2, 4, 0)])  # spread 1, 2, 0
    other = ScorerEnsemble([fixed(1, 1, 1), fixed(7, 1, 3)], "worst")  # spread 3, 0, 1
    one = ScorerEnsemble([fixed(1, 2, 3)])
    scored = CheckedScorer([Term("a", first, -4.0), Term("b", other), Term("c", one)]).score(IDS, PROMPTS, ANSWERS)
    assert scored.spread is not None
    np.testing.assert_allclose(scored.spread, [5.0, 8.0, 1.0])
    assert scored.scores.tolist() == [-4 * 1 + 1 + 1, -4 * 2 + 1 + 2, 0 + 1 + 3]
    assert CheckedScorer([Term("c", one)]).score(IDS, PROMPTS, ANSWERS).spread is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda r: [1.0, math.nan, math.inf],
            r"prompt two \(and 1 more\): scorer judge is nan; a score must be finite",
        ),
        (lambda r: [1.0, 2.0, -math.inf], "prompt three: scorer judge is -inf"),
        (lambda r: [1e39, 2.0, 3.0], r"prompt one: scorer judge is 1e\+39; a score must be finite, as float32"),
        (
            lambda r: [1.0, 2.0],
            "prompts one to three: scorer judge gave 2 scores for 3 responses; it must give one each",
        ),
        (lambda r: [[1.0], [2.0], [3.0]], r"scorer judge gave scores of shape \(3, 1\) for 3 responses"),
        (lambda r: 1.0, r"scorer judge gave scores of shape \(\) for 3 responses"),
        (lambda r: ["good"] * 3, r"scorer judge failed \(ValueError: could not convert"),
        (lambda r: None, r"scorer judge gave scores of shape \(\)"),
    ],
)
def test_what_is_no_score_for_each_response_is_an_error(answer: Any, message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        checked(answer).score(IDS, PROMPTS, ANSWERS)


def test_a_sum_that_overflows_is_an_error() -> None:
    terms = [Term("a", fixed(1, 3e38, 1)), Term("b", fixed(1, 3e38, 1))]
    with pytest.raises(AlignmentError, match=r"prompt two: the weighted sum is 6\.0\d*e\+38"):
        CheckedScorer(terms).score(IDS, PROMPTS, ANSWERS)


def test_a_scorer_that_raises_is_an_error_that_names_the_prompt_it_failed_on() -> None:
    def picky(responses: Sequence[str]) -> list[float]:
        if ANSWERS[1] in responses:
            raise KeyError("no\nentry")
        return [0.0] * len(responses)

    with pytest.raises(AlignmentError, match=r"^prompt two: scorer judge failed \(KeyError: 'no.*entry'\)$") as raised:
        checked(picky).score(IDS, PROMPTS, ANSWERS)
    assert isinstance(raised.value.__cause__, KeyError)

    def only_together(responses: Sequence[str]) -> list[float]:
        if len(responses) > 1:
            raise MemoryError
        return [0.0]

    with pytest.raises(AlignmentError, match=r"^prompts one to three: scorer judge failed \(MemoryError: \)"):
        checked(only_together).score(IDS, PROMPTS, ANSWERS)
    with pytest.raises(AlignmentError, match=r"^prompt one: scorer judge failed"):
        checked(only_together).score(["one"] * 3, PROMPTS, ANSWERS)


def test_a_text_longer_than_the_reward_model_reads_is_an_error(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    ref, _ = stored(registry, tiny_model_dir, {})
    scorer = CheckedScorer([Term("rm", reward_model_from(ref, registry, device="cpu"))])
    longer = [ANSWERS[0], "x" * 600, ANSWERS[2]]
    with pytest.raises(
        AlignmentError, match=r"^prompt two: scorer rm: 6\d\d tokens with its prompt, limit 512; give sh"
    ):
        scorer.score(IDS, PROMPTS, longer)


def test_an_empty_response_has_a_score(registry: ModelRegistry, tiny_model_dir: Path) -> None:
    heads, _ = stored(registry, tiny_model_dir, {})
    steps, _ = stored(registry, tiny_model_dir, {"separator": "\n"})
    models = [Term(ref, reward_model_from(ref, registry, device="cpu")) for ref in (heads, steps)]
    scored = CheckedScorer([*models, Term("plain", RuleScorer("plain"))]).score(IDS, PROMPTS, ["", " ", "\n"])
    assert np.isfinite(scored.scores).all()


def test_a_missing_reference_is_known_before_anything_is_answered() -> None:
    scorer = CheckedScorer([Term("f1", RuleScorer("reference_f1", {PROMPTS[0][0]["content"]: "On the mat."}))])
    scorer.check_prompts(IDS[:1], PROMPTS[:1])
    with pytest.raises(DataError, match=r"prompt two: no reference answer, which rule reference_f1 needs \(2 of 3"):
        scorer.check_prompts(IDS, PROMPTS)
    with pytest.raises(AlignmentError, match="prompt two: scorer f1: rule reference_f1: no reference for the prompt"):
        scorer.score(IDS, PROMPTS, ANSWERS)


def test_a_context_too_short_is_known_before_anything_is_answered(
    registry: ModelRegistry, tiny_model_dir: Path
) -> None:
    """The most tokens for which nothing is said are those of an answer that just fits, for every kind of model."""
    heads, _ = stored(registry, tiny_model_dir, {})
    steps, _ = stored(registry, tiny_model_dir, {"separator": "\n"})
    members = [reward_model_from(ref, registry, name=name, device="cpu") for name, ref in (("h", heads), ("s", steps))]
    for scorer in (*members, ScorerEnsemble(members), ScorerEnsemble([RuleScorer("plain"), members[1]])):
        checked = CheckedScorer([Term("plain", RuleScorer("plain")), Term("rm", scorer)])
        row = text_encoder(load_reward(heads, registry, device="cpu")[1])(PROMPTS[0], "a")
        fits = 512 - (len(row) - 1)
        checked.check_prompts(IDS[:1], PROMPTS[:1])
        checked.check_prompts(IDS[:1], PROMPTS[:1], fits)
        with pytest.raises(
            DataError, match=rf"^prompt {IDS[0]}: scorer rm: .*513 tokens with .*{fits + 1}, limit 512; "
        ):
            checked.check_prompts(IDS[:1], PROMPTS[:1], fits + 1)
        checked.score(IDS[:1], PROMPTS[:1], ["a" * fits])
        with pytest.raises(AlignmentError, match="513 tokens with its prompt, limit 512"):
            checked.score(IDS[:1], PROMPTS[:1], ["a" * (fits + 1)])


def test_a_prompt_that_a_model_cannot_read_is_named_before_it_is_answered() -> None:
    class Unreadable:
        name = "rm"

        def no_room(self, prompt: Messages, answer_tokens: int) -> str | None:
            raise ValueError("no such\nrole")

        def score(self, prompts: Sequence[Messages], responses: Sequence[str]) -> Any:
            raise AssertionError

    with pytest.raises(AlignmentError, match=rf"^prompt {IDS[0]}: scorer rm failed \(ValueError: no such role\)$"):
        CheckedScorer([Term("rm", Unreadable())]).check_prompts(IDS, PROMPTS, 3)


def test_what_a_caller_may_not_do() -> None:
    with pytest.raises(ValueError, match="there is no scorer"):
        CheckedScorer([])
    with pytest.raises(ValueError, match="two terms have one name"):
        CheckedScorer([Term("a", fixed(1)), Term("a", fixed(2))])
    with pytest.raises(ValueError, match="2 ids, 3 prompts, 3 responses"):
        checked(len).score(IDS[:2], PROMPTS, ANSWERS)
    with pytest.raises(ValueError, match="0 ids, 0 prompts, 0 responses"):
        checked(len).score([], [], [])
