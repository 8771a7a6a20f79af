"""Files written to the schema that `alignment score NAME --schema` prints say all that they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stored_records import records

from alignment.evaluation.metrics import as_evaluate_metric
from alignment.evaluation.stored import STORED


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.evaluation.statistics.bootstrap.RESAMPLES", 5)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


def written(folder: Path, name: str) -> tuple[list[Path], dict[str, str]]:
    """The file of a benchmark's records, as its predictions and options."""
    path = folder / ("m.json" if name == "forgetting" else "m.jsonl")
    rows = [STORED[name].record.model_validate(one).model_dump(mode="json") for one in records(name)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ([], {"scores": str(path)}) if name == "crows_pairs" else ([path], {})


@pytest.mark.parametrize("name", STORED)
def test_the_records_set_every_field(name: str) -> None:
    fields = STORED[name].record.model_fields
    for field, told in fields.items():
        assert any(record.get(field, told.default) != told.default for record in records(name)), field


@pytest.mark.parametrize("name", STORED)
def test_a_file_of_records_loses_no_field(tmp_path: Path, name: str) -> None:
    read = STORED[name].read(*written(tmp_path, name))
    assert read.refused == []
    expected = [STORED[name].record.model_validate(record) for record in records(name)]
    assert [item.model_dump() for item in read.items] == [item.model_dump() for item in expected]
    assert all(item.where.startswith(str(tmp_path)) for item in read.items) or name == "forgetting"


@pytest.mark.parametrize("name", STORED)
def test_the_command_and_the_metric_say_the_same(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignment.cli import main

    paths, options = written(tmp_path, name)
    given = [text for option, value in options.items() for text in (f"--{option}", value)]
    monkeypatch.setattr("sys.argv", ["alignment", "score", name, *map(str, paths), *given, "--json"])
    with pytest.raises(SystemExit):
        main()
    printed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    metric = as_evaluate_metric(name).compute(predictions=records(name), full=True)
    assert printed
    assert list(metric.values()) == printed
