"""Processes that need not read torch and transformers again: forks of one clean process that has done nothing else.

They are real: a process id of their own that SIGKILL ends, and files on disk as all they leave. What a fresh
interpreter does first (its imports, what libraries say then) is seen by `tiny_run.alignment_anew` alone.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
READ_AHEAD = ["alignment.cli", "alignment.training.trainer", "alignment.training.ppo", "datasets", "peft"]
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}


class Forked:
    """A started process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> None:
        """`alignment ARGUMENTS`, or a script with its arguments, in `folder`."""
        CONTEXT.set_forkserver_preload(READ_AHEAD)
        with mock.patch.dict(os.environ, QUIET):  # read by the libraries when they are imported
            forkserver.ensure_running()
        self._said = Path(tempfile.mkdtemp())
        given = (arguments, str(folder), dict(environment), str(self._said))
        self._process = CONTEXT.Process(target=_run, args=given, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        out, err = ((self._said / name).read_text(encoding="utf-8") for name in ("out", "err"))
        shutil.rmtree(self._said)
        return out, err


def _run(arguments: tuple[str, ...], folder: str, environment: Mapping[str, str], said: str) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(said, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    import torch

    gc.freeze()  # as in conftest.py
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # which torch reads when it is imported
    if arguments[0].endswith(".py"):
        sys.argv = list(arguments)
        sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        from alignment.cli import main

        sys.argv = ["alignment", *arguments]
        main()
