"""The registry under several processes and `kill -9`: never a half entry, never a lost or doubled number."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignment.registry import ModelRegistry

PROLOGUE = """
import os, signal, sys, time
from pathlib import Path
from alignment.registry import ModelRegistry

registry = ModelRegistry(Path(sys.argv[1]))

def fill(folder):
    (folder / "model.safetensors").write_text("weights")
    (folder / "config.json").write_text("{}")

def add(fill=fill):
    return registry.add("m", kind="base", fill=fill, stage_key="k")
"""

ADD_MANY = """
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    add()
"""

ADD_SLOWLY = """
def slow(folder):
    fill(folder)
    print("in the middle", flush=True)
    time.sleep(60)
add(slow)
"""

ADD_AND_WAIT = """
add()
print("done", flush=True)
time.sleep(60)
"""

# Forks a child that dies at its n-th file operation, for every n until it survives, and looks at what it left.
DIE_AT_EVERY_STEP = """
def dying_at(n):
    done = 0
    def wrap(real):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "chmod", "open"):
        setattr(os, name, wrap(getattr(os, name)))

def survives(n, work):
    child = os.fork()
    if child == 0:
        dying_at(n)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == 0

def sound():
    assert registry.verify() == [], registry.verify()
    numbers = [entry.version for entry in registry.entries()]
    assert registry.versions("m") == numbers
    return numbers

def step_by_step(work, check):
    n = 1
    while True:
        before = sound()
        alive = survives(n, work)
        check(before, sound())
        after = add()
        assert after.version > max(before, default=0)
        assert sorted(p.name for p in (registry.root / ".tmp").iterdir()) == [".lock"]
        if alive:
            return n
        n += 1

def added_or_not(before, now):
    assert now in (before, before + [max(before, default=0) + 1]), (before, now)

def removed_or_not(before, now):
    assert now in (before, before[:-1]), (before, now)

steps = step_by_step(add, added_or_not)
assert steps > 10, steps
def remove_newest():
    registry.remove(f"m@{max(registry.versions('m'))}")
steps = step_by_step(remove_newest, removed_or_not)
assert steps > 5, steps
given = [entry.version for entry in registry.entries()]
assert len(given) == len(set(given))
print("sound")
"""


def start(registry: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROLOGUE + script, str(registry), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def add(registry: ModelRegistry) -> str:
    return registry.add("m", kind="base", fill=lambda folder: (folder / "w").touch(), stage_key="k").ref


def test_processes_that_add_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    processes = [start(tmp_path, ADD_MANY, "20") for _ in range(2)]
    assert [first_line(process) for process in processes] == ["ready", "ready"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    registry = ModelRegistry(tmp_path)
    assert registry.versions("m") == list(range(1, 41))
    assert registry.verify() == []


def test_a_writer_killed_while_filling_leaves_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    process = start(tmp_path, ADD_SLOWLY)
    assert first_line(process) == "in the middle"
    kill(process)
    leftovers = [path for path in (tmp_path / ".tmp").iterdir() if path.is_dir()]
    assert len(leftovers) == 1
    assert registry.names() == []
    assert registry.find("k") is None
    assert add(registry) == "m@1"
    assert sorted(path.name for path in (tmp_path / ".tmp").iterdir()) == [".lock"]


def test_a_writer_killed_right_after_adding_is_found_again(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    process = start(tmp_path, ADD_AND_WAIT)
    assert first_line(process) == "done"
    kill(process)
    found = registry.find("k")
    assert found is not None
    assert found.ref == "m@1"
    assert registry.verify() == []
    assert add(registry) == "m@2"


def test_the_scratch_folder_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    process = start(tmp_path, ADD_SLOWLY)
    assert first_line(process) == "in the middle"
    started = time.monotonic()
    assert add(registry) == "m@1"  # nor does the slow one hold the lock while it writes
    assert time.monotonic() - started < 30
    assert len([path for path in (tmp_path / ".tmp").iterdir() if path.is_dir()]) == 1
    kill(process)
    add(registry)
    assert sorted(path.name for path in (tmp_path / ".tmp").iterdir()) == [".lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that patches its own os module")
def test_death_at_any_file_operation_leaves_the_registry_sound(tmp_path: Path) -> None:
    output, _ = start(tmp_path, DIE_AT_EVERY_STEP).communicate(timeout=120)
    assert output == "sound\n"
