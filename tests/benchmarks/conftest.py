"""The folder of benchmarks on the path, tiny data in the formats they read, and sides that run in this process."""

from __future__ import annotations

import gzip
import json
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"
WORDS = ("the cat sat on the mat", "and the dog ran", "after the ball", "please answer", "in one sentence")


@pytest.fixture(scope="session", autouse=True)
def benchmarks_on_path() -> Iterator[Path]:
    sys.path.insert(0, str(FOLDER))
    yield FOLDER
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="session")
def bench_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up data sets, laid out as the real one: 40 pairs, and 30 questions, every third with a tie."""
    folder, words = tmp_path_factory.mktemp("bench-data"), random.Random(0)

    def text(count: int) -> str:
        return " ".join(words.choices(WORDS, k=count))

    pairs = folder / "hh_rlhf_harmless/harmless-base.jsonl.gz"
    questions = folder / "qa_feedback/dev_feedback.json"
    pairs.parent.mkdir()
    questions.parent.mkdir()
    with gzip.open(pairs, "wt") as stream:
        for i in range(40):
            prompt = f"\n\nHuman: {text(words.randint(3, 9))} {i}\n\nAssistant: "
            answers = {
                side: prompt + text(words.randint(2, 9)) + mark for side, mark in (("chosen", "!"), ("rejected", "?"))
            }
            stream.write(json.dumps(answers) + "\n")
    rows = [
        {
            "question": f"{text(5)} {i}",
            "passages": [["title", text(9)]],
            **{f"prediction {k}": f"{text(3 + k)} {k}" for k in range(1, 5)},
            "preference": [1, 2, 1, 2, 1, 1] if i % 3 else [0, 1, 1, 1, 1, 1],
        }
        for i in range(30)
    ]
    questions.write_text(json.dumps(rows), encoding="utf-8")
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, bench_data: Path, tmp_path: Path) -> None:
    """Sides run here, on the tiny data, and TRL's warnings are its own affair."""
    import compare
    import measure

    def run_side(benchmark: Any, side: str, settings: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compare.build_and_measure(benchmark, side, settings)

    monkeypatch.setattr(compare, "run_side", run_side)
    monkeypatch.setattr(measure, "CEILING_SECONDS", 0.01)
    monkeypatch.setenv("ALIGNMENT_REAL_DATA", str(bench_data))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """The JSON object that was printed last."""
    return lambda: json.loads(capsys.readouterr().out.strip().splitlines()[-1])
