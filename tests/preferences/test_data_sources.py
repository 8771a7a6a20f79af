"""Data specs: what is loaded, that limits are nested samples, and that the digest is of the result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignment.errors import DataError
from alignment.preferences import sources
from alignment.preferences.importers import run
from alignment.preferences.record import Message, PreferenceRecord, Prompt, Response
from alignment.preferences.sources import DataSpec, data_digest, load
from alignment.preferences.splits import assign_split
from alignment.preferences.store import write_records


def record(number: int, **fields: Any) -> PreferenceRecord:
    return PreferenceRecord(
        prompt=Prompt(messages=(Message(role="user", content=f"question {number}"),)),
        responses=(Response(messages=(Message(role="assistant", content="answer"),)),),
        **fields,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r.jsonl"
    write_records(path, [record(i) for i in range(200)])
    return path


def spec(path: Path, **fields: Any) -> DataSpec:
    return DataSpec(source=str(path), **fields)


def test_a_string_is_a_source() -> None:
    assert DataSpec.model_validate("bundled:x.jsonl") == DataSpec(source="bundled:x.jsonl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"splitt": "train"}, "splitt"),
        ({"split": "dev"}, "'train', 'validation', 'test' or 'all'"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"limit": "5"}, "valid integer"),
        ({"fractions": {"train": 0.5}}, "add up to 1"),
        ({"format": "csv"}, "'records', 'hh-rlhf', 'trl', 'messages', 'pandalm', .* or 'usr'"),
        ({"source": ""}, "at least 1 character"),
    ],
)
def test_a_wrong_spec_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSpec.model_validate({"source": "x", **fields})


def test_splits_are_filled_and_divide_the_records(file: Path) -> None:
    everything = load(spec(file))
    assert everything.n_records == len(everything.records) == 200
    assert all(r.split == assign_split(r.group_id) for r in everything.records)
    parts = [load(spec(file, split=name)).records for name in ("train", "validation", "test")]
    assert sorted(r.id for part in parts for r in part) == sorted(r.id for r in everything.records)
    assert all(parts)
    assert load(spec(file, split="all")).records == everything.records


def test_given_splits_win_over_fractions(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [record(1, split="test"), record(2)])
    only_train = {"train": 1.0}
    assert [r.split for r in load(spec(tmp_path / "r.jsonl", fractions=only_train)).records] == ["test", "train"]


def test_an_empty_split_is_an_error(file: Path) -> None:
    with pytest.raises(DataError, match="no record is in split test; there are: train"):
        load(spec(file, split="test", fractions={"train": 1.0}))


def test_a_limit_is_a_sample_that_does_not_follow_the_file(file: Path, tmp_path: Path) -> None:
    few, more = load(spec(file, limit=20)).records, load(spec(file, limit=60)).records
    assert (len(few), len(more)) == (20, 60)
    assert {r.id for r in few} < {r.id for r in more}
    assert [r.id for r in few] != [r.id for r in load(spec(file)).records[:20]]
    # Reversing the file reverses the sample, but does not change it.
    write_records(tmp_path / "back.jsonl", load(spec(file)).records[::-1])
    assert load(spec(tmp_path / "back.jsonl", limit=20)).records == few[::-1]
    assert load(spec(file, limit=10**6)).n_records == 200


def test_a_limit_counts_within_the_split(file: Path) -> None:
    loaded = load(spec(file, split="test", limit=3))
    assert [r.split for r in loaded.records] == ["test"] * 3


def test_source_formats_are_imported(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(3)] + [{"prompt": "q"}]
    path = tmp_path / "toy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loaded = load(spec(path, format="trl"))
    assert loaded.n_records == 3
    assert [refusal.line for refusal in loaded.refused] == [4]
    assert loaded.source == str(path)
    assert loaded.digest == data_digest(spec(path, format="trl"))


# --- digests ---------------------------------------------------------------------------------------------------------


def test_the_digest_changes_with_everything_that_changes_the_result(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    write_records(other, [record(i) for i in range(199)])
    specs = [
        spec(file),
        spec(other),
        spec(file, split="train"),
        spec(file, limit=5),
        spec(file, criterion="helpful"),
        spec(file, format="trl"),
        spec(file, fractions={"train": 0.5, "test": 0.5}),
    ]
    assert len({data_digest(s) for s in specs}) == len(specs)


def test_the_digest_is_the_same_for_the_same_result(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "elsewhere.jsonl.gz"
    write_records(packed, [record(i) for i in range(200)])
    fractions = {"test": 0.1, "validation": 0.1, "train": 0.8}
    assert data_digest(spec(file)) == data_digest(spec(packed))
    assert data_digest(spec(file)) == data_digest(spec(file, split="all", fractions=fractions))


def test_the_digest_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"not JSON at all")
    monkeypatch.setattr(sources, "read_records", None)
    monkeypatch.setattr(run, "import_file", None)
    assert len(data_digest(spec(path))) == 64


def test_loading_and_digests_need_no_heavy_library(file: Path) -> None:
    code = (
        "import sys; from alignment.preferences.sources import *; import alignment.preferences.audit;"
        f"import alignment.preferences.simulate; load(DataSpec(source={str(file)!r}));"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- where it comes from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bundle:x.jsonl", "unknown kind of source 'bundle'; use bundled:, hf: or a path"),
        ("bundled:../pyproject.toml", "must stay inside data/"),
        ("bundled:nothing.jsonl", "no such bundled file"),
        ("nothing.jsonl", "no such file"),
        ("hf:org/name:train.jsonl", "write hf:ORG/NAME@REVISION:PATH, with the revision"),
        ("hf:name@main:train.jsonl", "write hf:ORG/NAME@REVISION:PATH"),
        ("hf:org/name@main:../x.jsonl", "must stay inside the repository"),
        ("hf:org/name@main:/x.jsonl", "must stay inside the repository"),
        ("hf:org/name@main:train.parquet", r"only .jsonl and .json files \(or .gz\) can be read"),
    ],
)
def test_wrong_sources_are_named(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data_digest(DataSpec(source=source))


def test_a_relative_path_is_relative_to_the_working_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load(DataSpec(source="r.jsonl")).n_records == 200


def test_a_repository_file_is_fetched_at_its_revision(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def fetch(repo: str, path: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo, path, repo_type, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    hub = DataSpec(source="hf:org/name@refs/convert/x:data/train.jsonl")
    assert load(hub).n_records == 200
    assert set(asked) == {("org/name", "data/train.jsonl", "dataset", "refs/convert/x")}
    assert data_digest(hub) == data_digest(spec(file))


def test_offline_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be fetched .*; download it and give the local file") as caught:
        load(DataSpec(source="hf:org/name@main:train.jsonl"))
    assert "\n" not in str(caught.value)
