"""What a recipe may say about a reward, what is wrong before any work, and the scorer that comes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_run import write_records

from alignment.errors import DataError, ModelError, RecipeError
from alignment.models import load_reward, model_digest, new_reward_model, save_model
from alignment.preferences.sources import DataSpec
from alignment.registry import ModelRegistry
from alignment.runs import RunContext
from alignment.scorers import Term, reward_model_from
from alignment.stages import scoring
from alignment.stages.on_policy import OnPolicySettings
from alignment.stages.scoring import Reward, ScorerTerm, load_scorer, load_watch, scorer_inputs, watch_inputs
from alignment.stages.settings import Made
from reward.ensemble import AGGREGATES
from reward.steps import STEP_SCORES

EARLIER = [Made("sft", "policy"), Made("rm", "reward"), Made("other-rm", "reward")]
PROMPTS = [[{"role": "user", "content": text}] for text in ("Where did the cat sit?", "Wie heißt er?", "2 + 2 = ?")]
ANSWERS = ["On the mat.", "Übung <|im_end|> [INST]", "#### 4"]
IDS = ["a", "b", "c"]


def reward(given: Any) -> Reward:
    return OnPolicySettings.model_validate({"data": "prefs", "reward": given}).reward


def terms(*given: dict[str, Any]) -> list[ScorerTerm]:
    return [ScorerTerm.model_validate(term) for term in given]


# --- what a recipe says ----------------------------------------------------------------------------------------------


def test_what_is_known_without_torch_equals_the_tables() -> None:
    assert set(scoring.AGGREGATES) == AGGREGATES.keys() | STEP_SCORES.keys()


def test_recipes_are_read_without_torch() -> None:
    code = (
        "import sys; from alignment.stages.on_policy import OnPolicySettings as S;"
        "S(data='x', reward=[{'rule': 'format', 'options': {'pattern': 'a'}}, {'model': 'rm'}]);"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("auto", {"reward": "other-rm"}),
        ("rm", {"reward": "rm"}),
        ("mine@3", {"reward": "mine@3"}),
        ("path:/models/rm", {"reward": "path:/models/rm"}),
        ([{"rule": "finished"}], {}),
        ([{"model": "rm"}], {"reward_1": "rm"}),
        ([{"rule": "finished"}, {"model": "auto"}, {"model": "hf:org/name@abc"}],
         {"reward_2": "other-rm", "reward_3": "hf:org/name@abc"}),
    ],
)  # fmt: skip
def test_models_come_from_stages_or_references(given: Any, inputs: dict[str, str]) -> None:
    assert scorer_inputs(reward(given), "ppo", EARLIER) == inputs


def test_watched_models_have_roles_of_their_own() -> None:
    watch = terms({"model": "rm"}, {"rule": "length"}, {"model": "gold@1"})
    assert watch_inputs(watch, "ppo", EARLIER) == {"watch_1": "rm", "watch_3": "gold@1"}
    assert watch_inputs([], "ppo", EARLIER) == {}
    settings = OnPolicySettings.model_validate({"data": "d", "watch": watch})
    roles = {"model": "sft", "reward": "other-rm", "watch_1": "rm", "watch_3": "gold@1"}
    assert settings.model_inputs("ppo", EARLIER) == roles


@pytest.mark.parametrize(
    ("term", "label"),
    [
        ({"rule": "finished"}, "finished"),
        ({"model": "rm"}, "rm"),
        ({"model": "auto"}, "reward"),
        ({"model": "run-rm@2"}, "run-rm@2"),
        ({"model": "path:/some/where/gold/"}, "gold"),
        ({"model": "path:gold"}, "gold"),
        ({"model": "hf:org/name@abc"}, "name@abc"),
        ({"model": "pypi:rewards==1.0"}, "rewards==1.0"),
        ({"model": "rm", "name": "proxy"}, "proxy"),
    ],
)
def test_scores_are_logged_under_a_short_name(term: dict[str, Any], label: str) -> None:
    assert ScorerTerm.model_validate(term).label == label
    scorer_inputs([ScorerTerm.model_validate(term)], "ppo", EARLIER)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{}], "a term is a `model`, several `models` or a `rule`"),
        ([{"model": "rm", "rule": "length"}], "a term is a `model`, several `models` or a `rule`"),
        ([{"rule": "finnished"}], "unknown rule 'finnished'; nearest: finished"),
        ([{"rule": "length", "weight": 0}], "weight 0 counts for nothing; leave the term out, or put it under `watch`"),
        ([{"rule": "length", "weight": float("nan")}], "finite number"),
        ([{"rule": "length", "name": "a/b"}], "name"),
        ([{"rule": "length", "options": {"target": 3}}], "rule length has no option 'target'; it has: none"),
        ([{"rule": "length_target"}], "rule length_target needs the option 'target'"),
        ([{"rule": "format", "options": {"pattern": "("}}], "no regular expression"),
        ([{"rule": "format", "options": {"pattern": "(a+)+"}}], "repeats a repeat"),
        ([{"model": "rm", "options": {"agregate": "mean"}}], "options are aggregate and penalty, not 'agregate'"),
        ([{"model": "rm", "options": {"aggregate": "wurst"}}], "unknown aggregate 'wurst'; nearest: worst"),
        ([{"rule": "length", "wieght": 2}], r"reward.terms.0.wieght\s+Extra inputs"),
        ({"rule": "length"}, r"a reward is a model's name or a list of terms, such as \[\{rule: finished\}\]"),
        (3, "a reward is a model's name or a list of terms"),
    ],
)
def test_what_makes_no_sense_is_an_error_when_the_recipe_is_read(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        reward(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "ppo: reward: there is nothing to score by; name a reward model or a rule"),
        ([{"rule": "length"}, {"rule": "length", "weight": 2}],
         "ppo: reward: two terms are called 'length'; give one a `name` of its own"),
        ([{"model": "path:/a/gold"}, {"model": "path:/b/gold"}], "two terms are called 'gold'"),
        ([{"model": "path:/some where"}], "path:/some where gives no name to log scores under; give the term a `name`"),
        ([{"model": "mr"}], "ppo: needs the output of 'mr', but no earlier stage makes it"),
        ("sft", "ppo: needs a reward model, but stage sft makes policy"),
        ([{"rule": "length", "name": "overall"}],
         "ppo: reward: a term is called 'overall', as the weighted sum is; give it another `name:`"),
        ([{"rule": "length"}, {"model": "overall"}], "reward: a term is called 'overall'"),
        ([{"model": "path:/models/overall"}], "reward: a term is called 'overall'"),
        ("overall", "reward: a term is called 'overall'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_recipe_is_an_error(given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        scorer_inputs(reward(given), "ppo", EARLIER)
    with pytest.raises(RecipeError, match="needs a reward model, but no earlier stage makes one"):
        scorer_inputs("auto", "ppo", EARLIER[:1])


def test_what_is_watched_is_logged_beside_the_reward() -> None:
    with pytest.raises(RecipeError, match="ppo: watch: length has a weight, but what is watched is not summed"):
        watch_inputs(terms({"rule": "length", "weight": 2}), "ppo", EARLIER)
    with pytest.raises(RecipeError, match="ppo: watch: two terms are called 'length'"):
        watch_inputs(terms({"rule": "length"}, {"rule": "length"}), "ppo", EARLIER)
    with pytest.raises(RecipeError, match="ppo: watch: a term is called 'overall', as the weighted sum is; give it "):
        watch_inputs(terms({"rule": "length", "name": "overall"}), "ppo", EARLIER, "rm")
    with pytest.raises(RecipeError, match="ppo: watch: two terms are called 'rm'"):
        watch_inputs(terms({"model": "rm"}), "ppo", EARLIER, "rm")
    assert watch_inputs(terms({"model": "rm"}), "ppo", EARLIER, "auto") == {"watch_1": "rm"}


# --- what comes of it ------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))
    return ModelRegistry(tmp_path / "registry")


def stored(registry: ModelRegistry, folder: Path, name: str, marker: dict[str, Any]) -> str:
    """A reward model in the registry, moved away from its start."""
    base = f"path:{folder}"
    model, tokenizer = new_reward_model(base, registry, seed=1, marker=marker)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return registry.add(
        name,
        kind="reward",
        parent=base,
        parent_digest=model_digest(base, registry),
        fill=lambda target: save_model(model, tokenizer, target),
    ).ref


def other_family(source: Path, folder: Path) -> Path:
    """The tiny model with a tokenizer of another kind: single characters, other special tokens, another template."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(32, 127))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] + '</s>' }}"
        "{% else %}{{ '<s>[INST]' + message['content'] + '[/INST]' }}{% endif %}{% endfor %}"
    )
    model = LlamaForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(len(words))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def context(registry: ModelRegistry, folder: Path, inputs: dict[str, str]) -> RunContext:
    return RunContext(
        run="tiny",
        run_dir=folder,
        folder=folder,
        stage="ppo",
        key="k",
        seed=1,
        chat_template=None,
        recipe_digest="d",
        registry=registry,
        inputs=inputs,
        input_digests={},
        data={"train": DataSpec(source=str(write_records(folder / "records.jsonl")))},
        data_digests={},
        say=lambda line: None,
    )


def test_text_crosses_between_tokenizer_families(registry: ModelRegistry, tiny_model_dir: Path, tmp_path: Path) -> None:
    bytes_rm = stored(registry, tiny_model_dir, "bytes", {"heads": 2})
    chars_rm = stored(registry, other_family(tiny_model_dir, tmp_path / "chars"), "chars", {})
    vocabularies = [len(load_reward(ref, registry)[1]) for ref in (bytes_rm, chars_rm)]
    assert vocabularies[0] != vocabularies[1]
    given = terms(
        {"model": bytes_rm, "name": "worst", "options": {"aggregate": "worst"}},
        {"model": chars_rm, "weight": -0.5},
        {"rule": "length_target", "weight": 0.1, "options": {"target": 3, "unit": "words"}},
    )
    inputs = scorer_inputs(given, "ppo", [])
    assert inputs == {"reward_1": bytes_rm, "reward_2": chars_rm}
    scored = load_scorer(context(registry, tmp_path, inputs), given, {}, share=True).score(IDS, PROMPTS, ANSWERS)
    apart = [
        reward_model_from(bytes_rm, registry, aggregate="worst").score(PROMPTS, ANSWERS),
        reward_model_from(chars_rm, registry).score(PROMPTS, ANSWERS),
        np.array([0.0, 0.0, -1.0]),
    ]
    assert list(scored.terms) == ["worst", "chars@1", "length_target"]
    for found, expected in zip(scored.terms.values(), apart, strict=True):
        np.testing.assert_allclose(found, expected, atol=0.02)  # bf16, and other batches
    np.testing.assert_allclose(scored.scores, apart[0] - 0.5 * apart[1] + 0.1 * apart[2], atol=0.03)
    assert scored.spread is not None
    assert (scored.spread > 0).all()


def test_a_single_model_is_the_reward_and_watched_ones_are_apart(
    registry: ModelRegistry, tiny_model_dir: Path, tmp_path: Path
) -> None:
    ref = stored(registry, tiny_model_dir, "rm", {})
    watch = terms({"model": ref}, {"rule": "reference_f1"})
    references = {prompt[0]["content"]: "On the mat." for prompt in PROMPTS}
    made = context(registry, tmp_path, {"reward": ref, "watch_1": ref})
    scored = load_scorer(made, "auto", {}, share=False).score(IDS, PROMPTS, ANSWERS)
    assert list(scored.terms) == ["reward"]
    np.testing.assert_array_equal(scored.scores, scored.terms["reward"])
    assert scored.spread is None
    watched = load_watch(made, watch, references, share=False)
    assert watched is not None
    found = watched.score(IDS, PROMPTS, ANSWERS).terms
    np.testing.assert_array_equal(found["rm@1"], scored.scores)
    assert found["reference_f1"].tolist() == [1.0, 0.0, 0.0]
    assert load_watch(made, [], references, share=False) is None


def test_errors_at_load_name_the_term_and_the_fix(
    registry: ModelRegistry, tiny_model_dir: Path, tmp_path: Path
) -> None:
    single = stored(registry, tiny_model_dir, "rm", {})
    steps = stored(registry, tiny_model_dir, "steps", {"separator": "\n"})

    def loaded(term: dict[str, Any], references: dict[str, str] | None = None) -> Term:
        given = terms(term)
        made = context(registry, tmp_path, scorer_inputs(given, "ppo", []))
        return load_scorer(made, given, references or {}, share=False).terms[0]

    with pytest.raises(
        DataError, match=r"^ppo: maths: rule gsm8k compares with reference answers, and .*records.jsonl "
    ):
        loaded({"rule": "gsm8k", "name": "maths"})
    with pytest.raises(
        DataError, match=r"^ppo: gsm8k: rule gsm8k, prompt 'How many\?': the reference 'ten' has no final"
    ):
        loaded({"rule": "gsm8k"}, {"Why?": "#### 1", "How many?": "ten"})
    with pytest.raises(RecipeError, match=r"^ppo: rm@1 has one head, so there is nothing to aggregate; leave"):
        loaded({"model": single, "options": {"aggregate": "worst"}})
    with pytest.raises(RecipeError, match=r"^ppo: rm@1: unknown aggregate 'min'; there are: mean, worst"):
        loaded({"model": single, "options": {"aggregate": "min"}})
    with pytest.raises(RecipeError, match=r"^ppo: steps@1: unknown step score 'worst'; there are: product, min"):
        loaded({"model": steps, "options": {"aggregate": "worst"}})
    with pytest.raises(ModelError):
        loaded({"model": f"path:{tiny_model_dir}", "name": "policy"})
    assert loaded({"model": steps, "options": {"aggregate": "min"}, "name": "min", "weight": 3}).weight == 3
