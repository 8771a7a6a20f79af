"""samples.jsonl: answers as they were sampled in training, for people to read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.atomic import storage_errors


class SampleLog:
    """One JSON object a line; the rows behind the step that training resumes from are cut."""

    def __init__(self, path: Path, every: int, count: int, apart: int = 1) -> None:
        """Keeps `count` answers of every `every`-th step, and of the first and the last.

        `apart`: steps from one draw to the next; of a step that draws none, the next draw's are kept.
        """
        self._path = path
        self._every = every
        self._count = count
        self._apart = apart

    def wants(self, step: int, last: int) -> bool:
        """Whether answers drawn at `step`, counted from 1, are kept; `last` is the last step of all."""
        before = step - self._apart  # the draw before this one
        return step == 1 or step + self._apart > last or step // self._every > before // self._every

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends the first `count` rows."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[: self._count])
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(lines)

    def cut_after(self, step: int) -> None:
        """Keeps the rows up to `step`; a line that a kill cut off goes too."""
        kept = []
        # Not splitlines(): answers may hold U+2028 and its like as they are.
        for line in self._path.read_text(encoding="utf-8").split("\n") if self._path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["step"] <= step:
                kept.append(line)
        temporary = self._path.with_suffix(".tmp")
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, self._path)
