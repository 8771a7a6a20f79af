"""The over-optimisation stage: what it refuses, the scale of its points, and a whole recipe on a tiny model."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from tiny_run import alignment_here, write_records

from alignment.errors import AlignmentError, RecipeError
from alignment.recipe import parse_recipe
from alignment.report import load_run
from alignment.report.html import render
from alignment.report.study import load_study
from alignment.runs import RunContext
from alignment.stages.overoptimisation import KL, OverOptimisationSettings, Step, Trace, _ppo_rows, _trace
from alignment.stages.overoptimisation_points import sizes, study, zero_error
from alignment.training.losses.ppo import kl_k1, kl_k3
from reward.overoptimisation import best_of_n, bon_kl, fit_rl, rl_reward

GOLD = [{"rule": "length", "weight": 0.5}, {"rule": "finished"}]
WATCH = [{"rule": "length"}, {"rule": "finished"}]


def settings(**changes: Any) -> OverOptimisationSettings:
    given = {"model": "base", "data": "prefs", "proxy": "reward", "gold": GOLD, "ppo": ["ppo_1", "ppo_2"]} | changes
    return OverOptimisationSettings.model_validate(given)


def test_a_proxy_for_each_ppo_stage_or_one_for_all() -> None:
    assert settings().proxies == ["reward", "reward"]
    assert settings(proxy=["reward"]).proxies == ["reward", "reward"]
    assert settings(proxy=["a", "b"]).proxies == ["a", "b"]
    with pytest.raises(ValidationError, match="3 proxies for 2 ppo stages"):
        settings(proxy=["a", "b", "c"])
    with pytest.raises(ValidationError, match="named twice"):
        settings(ppo=["ppo_1", "ppo_1"])


# What the stages logged, and whether they were run as the study needs it


def ppo_row(name: str = "ppo_1", **changes: Any) -> dict[str, Any]:
    own = {"data": "prefs", "split": "train", "max_prompt_length": 512, "long_prompts": "drop", "max_new_tokens": 8}
    row = {"name": name, "kind": "ppo", "folder": f"stages/{name}-0", "inputs": {"model": "m@1", "reward": "r@1"}}
    return row | {"settings": own | {"temperature": 1.0, "watch": WATCH}} | changes


def context_of(folder: Path, rows: list[dict[str, Any]]) -> RunContext:
    (folder / "manifest.json").write_text(json.dumps({"stages": rows}))
    inputs = {"model": "m@1", "proxy_1": "r@1", "proxy_2": "r@1"}
    return RunContext(
        run="tiny",
        run_dir=folder,
        folder=folder / "study",
        stage="study",
        key="k",
        seed=1,
        chat_template=None,
        recipe_digest="d",
        registry=None,  # type: ignore[arg-type]  # not asked here
        inputs=inputs,
        input_digests={},
        data={},
        data_digests={},
        say=lambda line: None,
    )


def other(**changes: Any) -> dict[str, Any]:
    return ppo_row("ppo_2", settings=ppo_row()["settings"] | changes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ppo_row("ppo_2", kind="dpo"), r"ppo_2 is a dpo stage"),
        (ppo_row("ppo_2", inputs={"model": "x@1", "reward": "r@1"}), r"ppo_2 started from x@1, not from m@1"),
        (ppo_row("ppo_2", inputs={"model": "m@1", "reward": "x@1"}), r"did not maximise the proxy reward alone"),
        (ppo_row("ppo_2", inputs={"model": "m@1"}), r"did not maximise the proxy reward alone"),
        (other(max_new_tokens=9), r"ppo_2 has max_new_tokens 9, ppo_1 has 8"),
        (other(temperature=0.7), r"ppo_2 has temperature 0.7, ppo_1 has 1.0"),
        (other(data="other"), r"ppo_2 has data other, study has prefs"),
        (other(watch=WATCH[:1]), r"ppo_2 did not watch the gold term finished"),
        (other(watch=[WATCH[0], {"rule": "plain", "name": "finished"}]), r"finished is another scorer here"),
    ],
)
def test_stages_that_do_not_belong_together_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    context = context_of(tmp_path, [ppo_row(), row])
    with pytest.raises(AlignmentError, match=message):
        _ppo_rows(context, settings())


def test_stages_that_belong_together_are_found(tmp_path: Path) -> None:
    context = context_of(tmp_path, [ppo_row("ppo_2"), ppo_row()])
    assert [row["name"] for row in _ppo_rows(context, settings())] == ["ppo_1", "ppo_2"]


def test_the_log_gives_gold_as_the_weighted_sum_and_counts_what_has_no_distance(tmp_path: Path) -> None:
    context = context_of(tmp_path, [ppo_row()])
    scores = {"objective/scores": 0.5, "objective/scores/length": 10.0, "objective/scores/finished": 0.25}
    lines = [
        {"step": 1, "split": "train", KL: 0.0} | scores,
        {"step": 2, "split": "train", KL: 0.01, "objective/kl": -0.01} | scores,  # k1 may be below 0, the KL is not
        {"step": 3, "split": "train", KL: None} | scores,
        {"step": 4, "split": "train"} | scores,
        {"step": 5, "split": "eval", KL: 2.0} | scores,
        {"step": 6, "split": "train", KL: 0.3, "objective/scores": 0.7},
        {"step": 7, "split": "train", KL: 0.4} | scores | {"objective/scores/finished": 0.0},
        {"step": 8, "split": "train", KL: 0.5} | scores | {"objective/raw_scores": 0.9},  # before a penalty
    ]
    path = tmp_path / "stages/ppo_1-0/train_log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = _trace(context, settings(), ppo_row())
    first = [Step(1, 0.0, 0.5, 5.25), Step(2, 0.01, 0.5, 5.25)]
    assert trace == Trace([*first, Step(7, 0.4, 0.5, 5.0), Step(8, 0.5, 0.9, 5.25)], 3)
    path.write_text(json.dumps({"step": 1, "split": "train", "objective/kl": 0.1} | scores) + "\n")
    with pytest.raises(AlignmentError, match=r"logs no objective/kl_k3, .* delete the folder .*ppo_1-0 and run"):
        _trace(context, settings(), ppo_row())
    path.unlink()
    with pytest.raises(AlignmentError, match="not found"):
        _trace(context, settings(), ppo_row())


# The scale of the points


def made(proxies: list[Any], gold: Any, traces: list[Trace], of: int | None = None, same: bool = False) -> Any:
    named = ("gold", [f"reward_{i}" for i in range(len(proxies))], [f"ppo_{i}" for i in range(len(proxies))])
    prompts = {"n_prompts": of or len(gold), "same_records": same}
    return study(gold, proxies, traces, names=named, where="study", seed=0, **prompts)


def test_points_are_measured_from_the_start_policy_in_its_deviations() -> None:
    rng = np.random.default_rng(0)
    gold, proxy = rng.normal(3, 2, (5, 8)), rng.normal(-1, 0.5, (5, 8))
    trace = Trace([Step(4, 2.25, proxy.mean() + 3 * proxy.std(), gold.mean() - gold.std())], 2)
    found = made([proxy, proxy.copy()], gold, [trace, Trace([], 0)])
    [ppo] = [point for point in found.points if point.method == "ppo"]
    assert (ppo.seed, ppo.at, ppo.d) == (1, 4, 1.5)
    assert (ppo.proxy, ppo.gold) == pytest.approx((3.0, -1.0))
    bon = [point for point in found.points if point.method == "bon" and point.seed == 1]
    assert [point.at for point in bon] == [1, 2, 3, 4, 6, 8]
    assert (bon[0].kl, bon[0].proxy, bon[0].gold) == pytest.approx((0, 0, 0), abs=1e-12)
    of_proxy, of_gold = best_of_n(proxy, gold, 6)
    assert (bon[4].kl, bon[4].proxy, bon[4].gold) == pytest.approx(
        (bon_kl(6), (of_proxy - proxy.mean()) / proxy.std(), (of_gold - gold.mean()) / gold.std())
    )
    assert (found.seeds[0].left_out, found.n, found.n_prompts) == (2, 8, 5)
    fits = {(fit.method, fit.reward): fit for fit in found.fits}
    assert fits["bon", "gold"].n_seeds == 2
    assert fits["bon", "gold"].alpha_low is not None
    assert len(fits["bon", "gold"].curve) == 61
    undefined = fits["ppo", "proxy"]
    assert (undefined.alpha, undefined.curve, undefined.n_points) == (None, (), 1)
    assert undefined.reason == "fewer than two distances above 0"


def test_the_error_of_the_zero_is_that_of_drawing_prompts_and_answers_again() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=40)
    for of in (10, 40):
        zeros, errors = [], []
        for _ in range(4000):
            scores = means[rng.choice(of, 10, replace=False), None] + rng.normal(0, 0.7, (10, 3))
            zeros.append(scores.mean())
            errors.append(zero_error(scores, of) * scores.std())
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(zeros), rel=0.05)


def test_what_no_interval_holds_is_said() -> None:
    rng = np.random.default_rng(0)
    gold, proxy = rng.normal(size=(5, 8)), rng.normal(size=(5, 8)) + np.arange(5)[:, None]
    some, all_of_them = made([proxy], gold, [Trace([], 0)], of=50), made([proxy], gold, [Trace([], 0)], same=True)
    assert "to each of 5 of the 50 prompts that PPO draws from" in some.scale
    assert f"standard error of up to {zero_error(proxy, 50):.2g}, which no interval holds" in some.scale
    assert zero_error(proxy, 50) > 3 * zero_error(proxy, 5)
    assert "Best-of-n has the same answers and gold scores in every seed." in some.scale
    assert "learned from the same records" not in some.scale
    assert all_of_them.scale.endswith("The proxies of all seeds learned from the same records.")


def test_a_shared_proxy_gives_best_of_n_once() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4))
    found = made([scores, scores], scores, [Trace([], 0), Trace([], 0)])
    assert {point.seed for point in found.points} == {1}
    assert found.fits[0].n_seeds == 1
    assert found.fits[0].alpha_low is None  # one seed, no interval


def test_a_scorer_that_tells_nothing_apart_gives_no_scale() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4))
    with pytest.raises(AlignmentError, match=r"study: gold gold: all 12 answers .* score 0\.3"):
        made([scores], np.full((3, 4), 0.3), [Trace([], 0)])
    with pytest.raises(AlignmentError, match="proxy reward_0: all 12 answers"):
        made([np.full((3, 4), 1e6)], scores, [Trace([], 0)])


def test_sizes_end_with_n() -> None:
    assert sizes(2) == [1, 2]
    assert sizes(5) == [1, 2, 3, 4, 5]
    assert sizes(16) == [1, 2, 3, 4, 6, 8, 12, 16]


# The distance that PPO logs

FURTHEST, BATCH, STEPS, TOKENS, WORDS = 1.0, 32, 60, 24, 50


def policies() -> list[tuple[float, torch.Tensor, torch.Tensor]]:
    """(d, log π, log πref) of policies at known √KL from a reference; every (T, V) token is drawn by itself."""
    draw = torch.Generator().manual_seed(0)
    logits, step = (torch.randn(TOKENS, WORDS, dtype=torch.float64, generator=draw) for _ in range(2))
    ref = torch.log_softmax(2 * logits, dim=1)
    tilts = np.linspace(0, 1, 501)
    tilted = [torch.log_softmax(2 * logits + tilt * step, dim=1) for tilt in tilts]
    kls = [float((policy.exp() * (policy - ref)).sum()) for policy in tilted]
    wanted = np.linspace(0, FURTHEST, STEPS)
    found = (torch.log_softmax(2 * logits + tilt * step, dim=1) for tilt in np.interp(wanted**2, kls, tilts))
    return [(float(d), policy, ref) for d, policy in zip(wanted, found, strict=True)]


def test_the_coefficients_come_back_from_logged_distances() -> None:
    """k1, averaged, is below 0 for many a step near the start: to drop those shifts the others, and β with them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    betas: dict[str, list[float]] = {"k1": [], "k3": [], "known": []}
    dropped = 0
    steps, tokens = policies(), torch.arange(TOKENS)
    for _ in range(15):
        points: dict[str, list[tuple[float, float]]] = {name: [] for name in betas}
        for d, policy, ref in steps * 3:
            answers = torch.multinomial(policy.exp(), BATCH, replacement=True).T
            logps, ref_logps = policy[tokens, answers], ref[tokens, answers]
            reward = float(rl_reward(d, 1.0, 0.3)) + rng.normal() / math.sqrt(BATCH)
            k1, k3 = (float(of(logps, ref_logps).sum(dim=1).mean()) for of in (kl_k1, kl_k3))
            dropped += k1 < 0
            for name, kl in (("k1", k1), ("k3", k3), ("known", d * d)):
                if kl >= 0:
                    points[name].append((math.sqrt(kl), reward))
        for name, found in points.items():
            fit = fit_rl(*zip(*found, strict=True))
            assert fit is not None
            betas[name].append(fit.beta)
    off = {name: abs(float(np.mean(values)) - 0.3) for name, values in betas.items()}
    assert dropped > 0.05 * 15 * 3 * STEPS
    assert off["k1"] > 0.06
    assert off["k3"] < 0.04
    paired = np.subtract(betas["k3"], betas["known"])  # the same rewards at the true distances
    assert abs(paired.mean()) < 0.02


# A whole recipe


def recipe(model: str, records: str) -> dict[str, Any]:
    trainer = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 2}
    ppo = {"data": "prefs", "reward": "reward", "watch": WATCH, "batch_size": 8, "max_new_tokens": 8}
    ppo |= {"kl_coef": 0.0, "trainer": {"learning_rate": 1e-2, "max_steps": 4}}
    names = [1, 2]
    seeds = {"proxy": [f"reward_{i}" for i in names], "ppo": [f"ppo_{i}" for i in names]}
    both = [{"reward": {"data": "prefs", "trainer": trainer}}, {"ppo": ppo}]
    return {
        "name": "tiny",
        "base": model,
        "data": {"prefs": {"source": records}},
        "stages": [
            {"repeat": {"rounds": 2, "independent": True, "stages": both}},
            {"overoptimisation": {"model": "base", "data": "prefs", "gold": GOLD, "n": 4, "limit": 6, **seeds}},
        ],
    }


def test_a_stage_that_is_not_there_is_named() -> None:
    raw = recipe("path:x", "x.jsonl")
    raw["stages"][1]["overoptimisation"]["ppo"] = ["ppo_1", "ppo_7"]
    with pytest.raises(RecipeError, match="'ppo_7' is no earlier stage"):
        parse_recipe(raw, "x")


def test_the_whole_study(tmp_path: Path, tiny_model_dir: Path) -> None:
    path = tmp_path / "tiny.yaml"
    records = write_records(tmp_path / "records.jsonl")
    path.write_text(yaml.safe_dump(recipe(f"path:{tiny_model_dir}", str(records))))
    done = alignment_here(tmp_path, "run", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    prompts = json.loads((tmp_path / "runs/tiny/manifest.json").read_text())["stages"][-1]["data"][0]
    assert (prompts["n_used"], prompts["dropped"]["over the limit"]) == (6, prompts["n_records"] - 6)
    [made] = (tmp_path / "runs/tiny/stages").glob("overoptimisation-*/overoptimisation.json")
    found = load_study("overoptimisation", made)
    assert (found.file.n, found.file.n_prompts) == (4, 6)
    assert [(seed.proxy, seed.ppo) for seed in found.file.seeds] == [("reward_1", "ppo_1"), ("reward_2", "ppo_2")]
    for seed in (1, 2):
        bon = [point for point in found.points("bon") if point.seed == seed]
        assert [point.at for point in bon] == [1, 2, 3, 4]
        assert [bon[0].kl, bon[0].proxy, bon[0].gold] == pytest.approx([0, 0, 0], abs=1e-9)
        assert all(later.proxy >= earlier.proxy for earlier, later in pairwise(bon))
        logged = [point for point in found.points("ppo") if point.seed == seed]
        assert (len(logged), found.file.seeds[seed - 1].left_out) == (4, 0)
        assert all(earlier.kl < later.kl for earlier, later in pairwise(logged[:2]))
    assert f"each of 6 of the {prompts['n_records']} prompts" in found.file.scale
    assert "learned from the same records" in found.file.scale
    # the two seeds are two: other proxies, other answers
    assert found.file.seeds[0].proxy_mean != found.file.seeds[1].proxy_mean
    figures = ("study_overoptimisation", "policy_ppo")
    page = render(load_run(tmp_path / "runs/tiny"), dict.fromkeys(figures, "<svg></svg>"))
    assert all(f'id="figure-{name}"' in page for name in figures)
    assert "length (watched)" in page
    again = alignment_here(tmp_path, "run", str(path))
    assert "nothing to do" in again.stdout + again.stderr
