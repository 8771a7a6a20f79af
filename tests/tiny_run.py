"""A whole recipe on a tiny model, for tests: records, recipe, the real command line, in a process or in this one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from forked import Forked

from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response, dump
from alignment.preferences.simulate import SimulatedAnnotator, judge

ANIMALS = ["cat", "dog", "hen", "owl", "fox", "cow", "ant", "bee", "rat", "yak"]
QUICK = ["reward_accuracy", "win_rate", "bias_pairs", "bits_per_byte", "multiple_choice"]  # the quickstart's
PLACES = ["mat", "roof", "ball", "hill"]


def write_records(path: Path) -> Path:
    """40 ranked records, split by group as every file without splits is."""
    annotator = SimulatedAnnotator("tester", {"brevity": 3.0, "finished": 1.0}, noise=0.1, tie_width=0.05)
    lines = []
    for animal in ANIMALS:
        for place in PLACES:
            texts = [
                f"The {animal} sat on the {place}.",
                f"I think that the {animal} sat on the {place} and then it ran after the ball and the dog, and",
                f"On the {place}! Where else would the {animal} go to sit down?",
            ]
            record = PreferenceRecord(
                prompt=Prompt(
                    messages=(Message(role="user", content=f"Where did the {animal} with the {place} sit?"),)
                ),
                responses=tuple(Response(messages=(Message(role="assistant", content=text),)) for text in texts),
            )
            lines.append(dump(record.model_copy(update={"judgements": (judge(record, annotator),)})))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe(model: Path, records: Path, **changes: dict[str, Any] | None) -> dict[str, Any]:
    """Five stages on the tiny model; `changes` updates a stage's settings, None leaves the stage out.

    Most of the time that all five take goes into evaluation and report.
    """
    trainer = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 2}
    stages: dict[str, dict[str, Any]] = {
        "sft": {"data": "prefs", "trainer": dict(trainer)},
        "reward": {"data": "prefs", "trainer": dict(trainer)},
        "dpo": {"data": "prefs", "peft": {"r": 4}, "trainer": dict(trainer)},
        "evaluate": {"data": "prefs", "models": ["base", "sft", "dpo"], "suites": QUICK, "max_new_tokens": 8},
        "report": {},
    }
    for stage, settings in changes.items():
        if settings is None:
            del stages[stage]
        else:
            stages[stage] |= settings
    return {
        "name": "tiny",
        "base": f"path:{model}",
        "data": {"prefs": {"source": str(records)}},
        "stages": [{kind: settings} for kind, settings in stages.items()],
    }


def write_recipe(folder: Path, model: Path, **changes: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    records = write_records(folder / "records.jsonl")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe(model, records, **changes)), encoding="utf-8")
    return path


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "ALIGNMENT_RUNS": str(folder / "runs"),
        "ALIGNMENT_REGISTRY": str(folder / "registry"),
        "ALIGNMENT_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def start(folder: Path, *arguments: str) -> Forked:
    """`alignment ...` in a process that has torch already."""
    return Forked(arguments, folder, environment(folder))


def alignment(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def start_anew(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`alignment ...` as a user would start it, with its output kept: seconds more, to read torch."""
    return subprocess.Popen(
        [sys.executable, "-m", "alignment.cli", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts background jobs with Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def alignment_anew(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs that to its end."""
    process = start_anew(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def alignment_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same without a process of its own, where that is not the point: it need not load torch again."""
    import torch

    from alignment.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `environment` has it: sums have the same order
    try:
        with (
            chdir(folder),
            mock.patch.dict(os.environ, environment(folder)),
            mock.patch.object(sys, "argv", ["alignment", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
            warnings.catch_warnings(action="ignore"),
        ):
            main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def training_log(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The rows of a stage's train_log.jsonl; the stage has one folder."""
    (path,) = (folder / "runs/tiny/stages").glob(f"{stage}-*/train_log.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stage_digests(folder: Path) -> dict[str, str]:
    """Stage -> digest of the weights it put into the registry."""
    manifest = json.loads((folder / "runs/tiny/manifest.json").read_text(encoding="utf-8"))
    digests = {}
    for stage in manifest["stages"]:
        for name, ref in stage["models"].items():
            model, version = ref.split("@")
            entry = json.loads((folder / "registry" / model / version / "entry.json").read_text(encoding="utf-8"))
            digests[name] = entry["digest"]
    return digests
