"""samples.jsonl: which steps' answers are kept, and that a resume cuts only what is behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.training.samples import SampleLog


@pytest.mark.parametrize(
    ("every", "apart", "last", "kept"),
    [
        (2, 1, 7, [1, 2, 4, 6, 7]),
        (3, 1, 6, [1, 3, 6]),
        (2, 2, 8, [1, 3, 5, 7]),  # draws at 1, 3, 5, 7
        (4, 2, 12, [1, 5, 9, 11]),
        (3, 2, 12, [1, 3, 7, 9, 11]),  # 9 for itself, 13 would be for 12
        (10, 4, 32, [1, 13, 21, 29]),  # 29: the last draw
        (100, 4, 10, [1, 9]),
    ],
)
def test_a_step_without_a_draw_leaves_its_turn_to_the_next_draw(
    every: int, apart: int, last: int, kept: list[int], tmp_path: Path
) -> None:
    log = SampleLog(tmp_path / "samples.jsonl", every, 1, apart)
    assert [step for step in range(1, last + 1, apart) if log.wants(step, last)] == kept


def test_a_resume_keeps_rows_whatever_their_text_holds(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    log = SampleLog(path, 1, 9)
    log.write(
        [{"step": 1, "response": text} for text in ("a\u2028b", "a\u2029b", "a\x85b", "a\x0b\x0c\x1cb", "a\r\nb")]
    )
    before = path.read_bytes()
    log.write([{"step": 2, "response": "c"}])
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"step": 1, "resp')  # a kill
    log.cut_after(1)
    assert path.read_bytes() == before
