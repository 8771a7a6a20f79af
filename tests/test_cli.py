"""What a user sees: help, listings, and one clear line with exit code 2 for everything that is wrong."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import alignment_anew, alignment_here, environment, recipe, start_anew, write_recipe, write_records

from alignment.cli import main
from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response, dump


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    write_recipe(tmp_path, tiny_model_dir)
    return tmp_path


ErrorLine = Callable[..., str]


@pytest.fixture
def error_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ErrorLine:
    """Runs the command line in this process (torch is loaded once), expects exit code 2 and one line of error."""
    monkeypatch.chdir(folder)
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["alignment", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        err = capsys.readouterr().err
        assert stop.value.code == 2, err
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


def test_help_names_every_command(folder: Path) -> None:
    done = alignment_anew(folder, "--help")
    assert done.returncode == 0
    for command in ("run", "recipes", "models", "data", "env"):
        assert f" {command} " in done.stdout


def test_listings_have_json(folder: Path) -> None:
    names = [row["name"] for row in json.loads(alignment_here(folder, "recipes", "--json").stdout)]
    assert {"quickstart", "hh-harmless/full"} <= set(names)
    assert json.loads(alignment_here(folder, "models", "list", "--json").stdout) == []
    assert json.loads(alignment_here(folder, "env", "--json").stdout)["torch"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dpo.betta=0.2"], "tiny.yaml: dpo: betta: unknown key; nearest: beta"),
        (["dpo.beta=lots"], "tiny.yaml: dpo: beta: Input should be a valid number"),
        (["dpo.model=ppo"], "needs the output of 'ppo', but no earlier stage makes it"),
        (["sft.trainer.bf16=true", "sft.trainer.fp16=true"], "bf16 and fp16 are both on; keep one"),
        (["dpo.peft.lora_dropout=0.1"], "lora_dropout makes the policy differ from its reference"),
        (["evaluate.split=train"], "choose another split"),
        (["data.prefs.source=nowhere.jsonl"], "nowhere.jsonl"),
        (["base=path:nowhere"], "nowhere"),
        (["base=hf:org/name@main"], "hf:org/name"),
        (["base=tiny-sft@7"], "tiny-sft"),
        (["base=../secrets@1"], "../secrets@1"),
        (["name=../up"], "name: String should match pattern"),
        (["evaluate.suites=[helpfullness]"], "helpfullness"),
        (["sft.trainer.learning_rat=1"], "sft.trainer.learning_rat: no such training argument; nearest: learning_rate"),
    ],
)
def test_a_bad_recipe_is_one_line(folder: Path, error_line: ErrorLine, overrides: list[str], message: str) -> None:
    assert message in error_line("run", "tiny.yaml", *overrides)
    assert not (folder / "registry").exists() or not list((folder / "registry").rglob("entry.json"))


def test_bad_data_is_one_line_with_file_and_row(folder: Path, error_line: ErrorLine) -> None:
    def bad_data(text: str) -> str:
        (folder / "bad.jsonl").write_text(text, encoding="utf-8")
        return error_line("run", "tiny.yaml", "data.prefs.source=bad.jsonl")

    good = (folder / "records.jsonl").read_text().splitlines()
    assert "bad.jsonl: the file is empty" in bad_data("")
    assert "bad.jsonl:2: " in bad_data(good[0] + '\n{"prompt": \n')
    message = bad_data("\n".join([good[0], good[1], good[0]]))
    assert "bad.jsonl:3: " in message
    assert "already in line 1" in message


def test_a_ranking_needs_two_responses(folder: Path, error_line: ErrorLine) -> None:
    records = [
        PreferenceRecord(
            prompt=Prompt(messages=(Message(role="user", content=f"Question {n}?"),)),
            responses=(Response(messages=(Message(role="assistant", content="An answer."),)),),
            split=split,
        )
        for n, split in enumerate(("train", "train", "test"))
    ]
    (folder / "single.jsonl").write_text("\n".join(dump(r) for r in records) + "\n")
    message = error_line("run", "tiny.yaml", "data.prefs.source=single.jsonl")
    assert "a ranking needs two" in message
    assert records[0].id in message or records[1].id in message


def test_registry_names_cannot_leave_the_registry(error_line: ErrorLine) -> None:
    assert "../x" in error_line("models", "show", "../x@1")
    assert "../x" in error_line("models", "remove", "../x@1", "--yes")


def test_an_unwritable_output_folder(folder: Path, error_line: ErrorLine) -> None:
    (folder / "file").write_text("in the way")
    message = error_line("run", "tiny.yaml", "--runs-dir", str(folder / "file"))
    assert "file" in message
    assert "cannot write" in message


ONLY_SFT: dict[str, Any] = {"reward": None, "dpo": None, "evaluate": None, "report": None}


def test_a_full_disk_during_a_checkpoint(folder: Path, tiny_model_dir: Path) -> None:
    """The kernel refuses files over 40 kB, as a full disk would, in the middle of a checkpoint."""
    write_recipe(folder, tiny_model_dir, **ONLY_SFT)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        done = alignment_here(folder, "run", "tiny.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "no space left to write" in done.stderr
    assert not list((folder / "runs/tiny/stages").rglob("COMPLETE"))
    after = alignment_here(folder, "run", "tiny.yaml")
    assert after.returncode == 0, after.stderr


def test_a_model_without_chat_template_says_how_to_give_one(
    folder: Path, error_line: ErrorLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conftest import CHATML, build_tiny_model

    bare = build_tiny_model(tmp_path / "bare", chat_template=None)
    capsys.readouterr()
    assert "chat_template" in error_line("run", "tiny.yaml", f"base=path:{bare}")
    (folder / "chatml.jinja").write_text(CHATML)
    write_recipe(folder, bare, **ONLY_SFT)
    done = alignment_here(folder, "run", "tiny.yaml", "chat_template=chatml.jinja")
    assert done.returncode == 0, done.stderr
    assert (folder / "registry/tiny-sft/1/chat_template.jinja").read_text() == CHATML


def test_a_stopped_run_says_that_it_resumes(folder: Path) -> None:
    process = start_anew(folder, "run", "tiny.yaml")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "stopped; the same command resumes from the last checkpoint"


def written(folder: Path, raw: dict[str, Any]) -> str:
    (folder / "other.yaml").write_text(yaml.safe_dump(raw))
    return "other.yaml"


def test_a_stage_that_needs_what_no_stage_makes(folder: Path, error_line: ErrorLine, tiny_model_dir: Path) -> None:
    raw = recipe(tiny_model_dir, write_records(folder / "r.jsonl"))
    raw["stages"] = [s for s in raw["stages"] if "sft" not in s]
    assert "needs the output of 'sft'" in error_line("run", written(folder, raw))


def test_not_yaml(folder: Path, error_line: ErrorLine) -> None:
    (folder / "other.yaml").write_text("name: [unclosed")
    assert "other.yaml: not valid YAML" in error_line("run", "other.yaml")
