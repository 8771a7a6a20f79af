"""Fixtures of the report's tests: a run folder, and its report built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.fake_run import write_run
from report.fake_suites import write_suites

from alignment.report import Run, build_report, load_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "quickstart")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report folder of the same run."""
    run = write_run(tmp_path_factory.mktemp("built") / "quickstart")
    return build_report(run, say=lambda line: None).parent


@pytest.fixture(scope="session")
def built_suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report folder of the run with results of every suite."""
    run = write_suites(tmp_path_factory.mktemp("suites") / "quickstart")
    return build_report(run, say=lambda line: None).parent


@pytest.fixture(scope="session")
def run(built: Path) -> Run:
    """The same run, read."""
    return load_run(built.parent)
