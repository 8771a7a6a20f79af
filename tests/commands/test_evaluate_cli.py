"""`alignment evaluate` as a user runs it, on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_model

import alignment.models
from alignment.cli import main
from alignment.evaluation.result import EvalResult

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]

PAIRS = [
    {"id": "b1", "category": "age", "stereotypical": "the cat sat", "counter": "the dog sat"},
    {"id": "b2", "category": "rank", "stereotypical": "a cat ran", "counter": "a dog ran"},
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Exit code, stdout and stderr of `alignment evaluate ARGUMENTS`; its registry and cache are empty."""
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALIGNMENT_REGISTRY", str(tmp_path / "registry"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["alignment", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


def test_help_is_light() -> None:
    check = (
        "import sys; sys.argv = ['alignment', 'evaluate', '--help']\n"
        "from alignment.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'transformers', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("[]")


def test_a_table_results_and_predictions(run: Run, tiny_model_dir: Path, pairs: Path, tmp_path: Path) -> None:
    model, out = f"path:{tiny_model_dir}", tmp_path / "out"
    code, shown, _ = run(model, "--suite", "bias_pairs", "--data", f"bias_pairs={pairs}", "--out", out)
    assert code == 0
    assert "stereotype_share" in shown
    assert "95% interval" in shown
    rows = [EvalResult.model_validate_json(line) for line in (out / "results.jsonl").read_text().splitlines()]
    overall = next(row for row in rows if row.metric == "stereotype_share" and row.group is None)
    assert overall.n_scored == 2
    assert overall.samples_path is not None
    samples = [json.loads(line) for line in (out / overall.samples_path).read_text().splitlines()]
    assert [sample["id"] for sample in samples] == ["b1", "b2"]


def test_predictions_are_kept_by_what_they_were_made_of(
    run: Run, tiny_model_dir: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"path:{tiny_model_dir}"
    asked: tuple[Any, ...] = (model, "--suite", "bias_pairs", "--data", f"bias_pairs={pairs}", "--json")
    code, first, _ = run(*asked, "--out", tmp_path / "one")
    assert code == 0
    with monkeypatch.context() as patch:  # another folder, no model
        patch.setattr(alignment.models, "load_policy", lambda *a, **k: pytest.fail("loaded a model"))
        code, second, said = run(*asked, "--out", tmp_path / "two")
    assert (code, json.loads(second)) == (0, json.loads(first))
    assert "predictions reused" in said
    pairs.write_text(pairs.read_text().replace("a cat ran", "the cat ran"))
    code, _, said = run(*asked, "--out", tmp_path / "three")
    assert code == 0
    assert "predictions reused" not in said


def test_differences_are_from_the_model_named(run: Run, tiny_model_dir: Path, pairs: Path, tmp_path: Path) -> None:
    one, other = f"path:{tiny_model_dir}", f"path:{build_tiny_model(tmp_path / 'other', seed=7)}"
    asked = ("--suite", "bias_pairs", "--data", f"bias_pairs={pairs}", "--json", "--out", tmp_path / "out")
    code, shown, _ = run(one, "--compare-to", other, *asked)
    assert code == 0
    changes = [row for row in json.loads(shown) if row["compared_to"]]
    assert {(row["model"], row["compared_to"]) for row in changes} == {(one, other)}
    assert [row["group"] for row in changes] == [None, *dict.fromkeys(row["category"] for row in PAIRS)]


def test_the_overview_has_a_line_for_each_model_and_full_has_every_result(
    run: Run, tiny_model_dir: Path, pairs: Path, tmp_path: Path
) -> None:
    one, other = f"path:{tiny_model_dir}", f"path:{build_tiny_model(tmp_path / 'other', seed=7)}"
    asked = (one, other, "--suite", "bias_pairs", "--data", f"bias_pairs={pairs}", "--out", tmp_path / "out")
    code, shown, _ = run(*asked)
    assert code == 0
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["benchmark", "bias_pairs", other]
    assert f"changes are from {one}" in lines
    _, full, _ = run(*asked, "--full")
    results = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    rows = [line for line in full.splitlines() if line.startswith((one, other))]
    assert len(rows) == len(results) > 4
    assert "mean_abs_log_ratio" in full
    assert "mean_abs_log_ratio" not in shown


def test_forgetting_is_from_the_model_compared_to_or_the_first(run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    one, other = f"path:{tiny_model_dir}", f"path:{build_tiny_model(tmp_path / 'other', seed=7)}"
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"id": str(i), "text": f"the cat sat on mat {i}"}) + "\n" for i in range(4)))
    asked = ("--suite", "bits_per_byte", "--data", f"bits_per_byte={texts}", "--json", "--out", tmp_path / "out")

    def changed(*models: str) -> list[tuple[str, str]]:
        _, shown, _ = run(*models, *asked, "--limit", "3")
        rows = [row for row in json.loads(shown) if row["benchmark"] == "bits_per_byte"]
        assert {row["n_scored"] for row in rows} == {3}  # the limit holds for bundled kinds of data too
        return [(row["model"], row["compared_to"]) for row in rows if row["compared_to"]]

    assert changed(one, "--compare-to", other) == [(one, other)]  # named apart: what it is compared to
    assert changed(one, other) == [(other, one)]
    assert changed(one, other, "--compare-to", other) == [(one, other)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "bais"], "unknown suite or benchmark 'bais'; nearest: bias"),
        (["--suite", "bias_pairs", "--data", "bias_pairs"], "write BENCHMARK=FILE"),
        (["--suite", "bias_pairs", "--data", "bias_pair=x"], "unknown suite or benchmark 'bias_pair'"),
        (["--suite", "bias_pairs", "--data", "bias_pairs=nowhere.jsonl"], "nowhere.jsonl: no such"),
        (["--suite", "win_rate", "--rule", "finishd"], "unknown rule 'finishd'; nearest: finished"),
        (["--suite", "win_rate", "--heldout", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line_with_the_fix(
    run: Run, tiny_model_dir: Path, arguments: list[str], message: str, tmp_path: Path
) -> None:
    code, _, said = run(f"path:{tiny_model_dir}", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert message in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("error: ")
