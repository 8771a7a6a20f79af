"""Files of probe items."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from alignment.evaluation.benchmarks.probes import read_probe


class Item(BaseModel):
    id: str
    text: str


def test_a_line_ends_at_its_line_feed_alone(tmp_path: Path) -> None:
    """JSON text may hold what Unicode calls the end of a line."""
    items = [{"id": str(i), "text": f"a{mark}b"} for i, mark in enumerate("\u2028\u2029\x85")]
    path = tmp_path / "probe.jsonl"
    path.write_bytes("\r\n".join(json.dumps(item, ensure_ascii=False) for item in items).encode() + b"\r\n")
    assert [item.model_dump() for item in read_probe(str(path), Item)] == items
