"""The whole command on a tiny model: hand-off, reuse, change of one setting, kill -9 and exact resume."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import alignment, alignment_anew, alignment_here, stage_digests, start, training_log, write_recipe

pytestmark = pytest.mark.slow
TRAINING: dict[str, Any] = {"evaluate": None, "report": None}  # what the tests of training leave out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("run")
    write_recipe(folder, tiny_model_dir)
    done = alignment_anew(folder, "run", "tiny.yaml")
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""  # no library talks over us
    return folder


def test_a_run_leaves_models_results_and_a_report(finished: Path) -> None:
    manifest = json.loads((finished / "runs/tiny/manifest.json").read_text())
    assert manifest["status"] == "done"
    assert {s["name"]: s["models"] for s in manifest["stages"]} == {
        "sft": {"sft": "tiny-sft@1"},
        "reward": {"reward": "tiny-reward@1"},
        "dpo": {"dpo": "tiny-dpo@1"},
        "evaluate": {},
        "report": {},
    }
    assert (finished / "runs/tiny/report/index.html").is_file()
    lineage = alignment_here(finished, "models", "lineage").stdout
    assert lineage.index("tiny-sft@1") < lineage.index("tiny-dpo@1")
    assert alignment_here(finished, "models", "verify").returncode == 0
    sft, reward, dpo = (next(s for s in manifest["stages"] if s["name"] == n) for n in ("sft", "reward", "dpo"))
    assert dpo["inputs"] == reward["inputs"] == {"model": "tiny-sft@1"}
    assert sft["data"][0]["n_used"] + sum(sft["data"][0]["dropped"].values()) == sft["data"][0]["n_records"]
    logs = training_log(finished, "dpo")
    assert [row["step"] for row in logs] == [1, 2, 3, 4]
    assert logs[0]["loss"] == pytest.approx(0.6931, abs=5e-3)


def test_running_again_does_nothing_and_needs_no_torch(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "registry").rglob("*") if p.is_file()}
    again = alignment_anew(finished, "run", "tiny.yaml")
    assert again.returncode == 0
    assert "nothing to do, all 5 stages are finished" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (finished / "registry").rglob("*") if p.is_file()}


def test_a_changed_setting_runs_its_stage_and_what_follows(
    finished: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    dry = alignment_here(folder, "run", "tiny.yaml", "dpo.beta=0.5", "--dry-run")
    assert dry.returncode == 0
    would = {line.split()[0]: line for line in dry.stdout.splitlines() if line.strip()}
    assert " reuse " in would["sft"]
    assert " reuse " in would["reward"]
    assert "beta 0.1 → 0.5" in would["dpo"]
    assert " run " in would["evaluate"]
    assert " run " in would["report"]
    write_recipe(folder, tiny_model_dir, **TRAINING)  # the same, up to DPO
    done = alignment_here(folder, "run", "tiny.yaml", "dpo.beta=0.5")
    assert done.returncode == 0, done.stderr
    assert "dpo: run (changed: beta 0.1 → 0.5" in done.stdout
    assert "sft: reused" in done.stdout
    before, after = stage_digests(finished), stage_digests(folder)
    assert before["sft"] == after["sft"]
    assert before["dpo"] != after["dpo"]
    back = alignment_here(folder, "run", "tiny.yaml")
    assert "dpo: reused" in back.stdout or "nothing to do" in back.stdout
    assert "report:" not in back.stdout  # it has none; the one that lies there is of another recipe


def test_a_report_of_other_settings_is_made_again(finished: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    write_recipe(folder, tiny_model_dir, reward=None, dpo=None, evaluate=None)
    short = alignment_here(folder, "run", "tiny.yaml")
    assert short.returncode == 0, short.stderr
    assert "sft: reused" in short.stdout
    assert _reported(folder) == {"sft": "tiny-sft@1"}
    write_recipe(folder, tiny_model_dir)
    whole = alignment_here(folder, "run", "tiny.yaml")
    assert whole.returncode == 0, whole.stderr
    assert "evaluate: reused" in whole.stdout
    assert "report: run (report/results.json is of other settings)" in whole.stdout
    assert _reported(folder) == _reported(finished)
    assert "nothing to do" in alignment_here(folder, "run", "tiny.yaml").stdout
    shutil.rmtree(folder / "runs/tiny/report")
    dry = alignment_here(folder, "run", "tiny.yaml", "--dry-run").stdout
    assert "report/results.json is gone" in " ".join(dry.split())


def _reported(folder: Path) -> dict[str, str]:
    """The models that a report is of."""
    text = (folder / "runs/tiny/report/results.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["run"]["models"])


def test_a_lost_model_is_made_again(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    assert alignment_here(folder, "models", "remove", "tiny-sft@1", "--yes").returncode == 2  # its children need it
    assert alignment_here(folder, "models", "remove", "tiny-dpo@1", "--yes").returncode == 0
    dry = alignment_here(folder, "run", "tiny.yaml", "--dry-run").stdout
    assert "tiny-dpo@1 is no longer in the registry" in dry


SETTINGS = {"trainer": {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 60, "save_steps": 5}}
STAGES = ("sft", "reward", "dpo")
LONG = TRAINING | dict.fromkeys(STAGES, SETTINGS)


def test_kill_dash_nine_and_the_same_command_end_with_the_same_weights(tmp_path: Path, tiny_model_dir: Path) -> None:
    """A run that is killed three times, in every stage that trains once, against one that nothing interrupted."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write_recipe(folder, tiny_model_dir, **LONG)
    said = []
    for stage in STAGES:
        process = start(killed, "run", "tiny.yaml")
        _wait_for_checkpoint(killed, stage)
        process.send_signal(signal.SIGKILL)
        said.append(process.communicate()[0])
        assert not list((killed / "runs/tiny/stages").glob(f"{stage}-*/result.json"))
    last = alignment(killed, "run", "tiny.yaml")
    assert last.returncode == 0, last.stderr
    for stage, resumed in zip(STAGES, [*said[1:], last.stdout], strict=True):
        assert f"{stage}: resuming from checkpoint-" in resumed

    done = alignment_here(whole, "run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert stage_digests(killed) == stage_digests(whole)
    for stage in STAGES:
        whole_log, killed_log = training_log(whole, stage), training_log(killed, stage)
        assert [row["step"] for row in killed_log] == [row["step"] for row in whole_log]
        assert [row["loss"] for row in killed_log] == [row["loss"] for row in whole_log]


def _wait_for_checkpoint(folder: Path, stage: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if list((folder / "runs/tiny/stages").glob(f"{stage}-*/checkpoints/checkpoint-*/COMPLETE")):
            return
        time.sleep(0.002)
    raise AssertionError("no checkpoint appeared")


def test_two_commands_on_one_run_do_not_mix(finished: Path) -> None:
    import fcntl

    with (finished / "runs/tiny/.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        second = alignment(finished, "run", "tiny.yaml", "seed=5")
    assert second.returncode == 1
    assert "another process is running this run" in second.stderr


def test_one_of_several_processes_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, tiny_model_dir)
    for rank in ("0", "1"):  # as torchrun starts them
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        launched = alignment_here(tmp_path, "run", "tiny.yaml")
        assert launched.returncode == 2
        (line,) = launched.stderr.splitlines()
        assert "a recipe runs in one process; start it without torchrun" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.jsonl", "tiny.yaml"]


def test_tensorboard_logs_stay_beside_the_stage(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_recipe(tmp_path, tiny_model_dir, **TRAINING | {"reward": None, "dpo": None})
    done = alignment_here(tmp_path, "run", "tiny.yaml", "sft.trainer.report_to=tensorboard")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs/tiny/stages").glob("sft-*/tensorboard/events.out.*"))
