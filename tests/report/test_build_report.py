"""The report folder: whole or not at all, readable by programs, made without heavy libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report.fake_run import EVALUATE

from alignment.errors import DataError, StorageError
from alignment.evaluation.result import EvalResult
from alignment.report import Run, build_report, load_run
from alignment.report.build import results_json


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_page_tables_figures_and_results(built: Path) -> None:
    files = set(contents(built))
    assert {"index.html", "results.json", "tables/main_results.tex", "tables/training.csv"} <= files
    assert {path.partition("/")[0] for path in files} == {"index.html", "results.json", "tables", "figures"}
    assert len([path for path in files if path.startswith("tables/")]) == 20


def test_another_process_gives_the_same_bytes_without_heavy_libraries(run_dir: Path, built: Path) -> None:
    (run_dir / "report").mkdir()
    (run_dir / "report" / "old.txt").write_text("from an earlier version")
    code = (
        "import sys; from pathlib import Path; import alignment.report as r;"
        "light = {'matplotlib', 'numpy', 'jinja2'} & set(sys.modules);"
        "r.build_report(Path(sys.argv[1]), print);"
        "heavy = {'torch', 'transformers', 'trl', 'matplotlib.pyplot', 'pandas'} & set(sys.modules);"
        "sys.exit(f'{light} {heavy}' if light or heavy else 0)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(run_dir)]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report: {run_dir / 'report' / 'index.html'} (87 results, 20 prompts)\n"
    assert contents(run_dir / "report") == contents(built)
    assert {path.name for path in run_dir.iterdir()} == {"manifest.json", "stages", "report", ".tmp"}
    assert [path.name for path in (run_dir / ".tmp").iterdir()] == [".lock"]


def test_a_failure_leaves_the_old_report_as_it_was(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = run_dir / "report"
    old.mkdir()
    (old / "index.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alignment.report.build.write_figures", lambda run, folder: {})
    monkeypatch.setattr("alignment.report.build.all_tables", full)
    with pytest.raises(StorageError, match="no space left to write"):
        build_report(run_dir, say=lambda line: None)
    monkeypatch.setattr("alignment.report.build.all_tables", lambda run: [])
    monkeypatch.setattr("alignment.report.build.publish", full)
    with pytest.raises(StorageError):
        build_report(run_dir, say=lambda line: None)
    assert contents(old) == {"index.html": b"old"}


def test_what_is_not_a_folder_is_not_replaced(run_dir: Path) -> None:
    (run_dir / "report").symlink_to(run_dir / "stages")
    with pytest.raises(DataError, match="report: is not a folder"):
        build_report(run_dir)
    assert (run_dir / EVALUATE).is_dir()


def test_a_broken_run_writes_nothing(run_dir: Path) -> None:
    (run_dir / EVALUATE / "results.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"results\.jsonl"):
        build_report(run_dir)
    assert not (run_dir / "report").exists()


def test_results_json_holds_every_result_and_whose_they_are(built: Path, run: Run) -> None:
    told = json.loads((built / "results.json").read_text(encoding="utf-8"))
    assert told == results_json(run)
    assert told["schema_version"] == 1
    assert told["run"]["seed"] == 42
    assert told["run"]["models"] == {
        "sft": "quickstart-sft@1",
        "reward": "quickstart-reward@1",
        "dpo": "quickstart-dpo@1",
    }
    assert tuple(EvalResult.model_validate(row) for row in told["results"]) == run.results


def test_a_run_without_evaluation_is_reported_too(run_dir: Path) -> None:
    told = json.loads((run_dir / "manifest.json").read_text())
    told["stages"] = [stage for stage in told["stages"] if stage["kind"] == "sft"]
    (run_dir / "manifest.json").write_text(json.dumps(told))
    page = build_report(run_dir, say=lambda line: None)
    assert "holds no evaluation results" in page.read_text(encoding="utf-8")
    assert {p.name for p in (page.parent / "figures").glob("*.pdf")} == {"training_curves.pdf", "optimisation.pdf"}
    assert load_run(run_dir).results == ()
