"""Where items come from."""

from __future__ import annotations

import json
import random
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from alignment.errors import DataError
from alignment.evaluation import data
from alignment.evaluation.data import Hub, HubData, UnavailableError, local_rows, subset

PINNED = HubData("org/set", "0123456789abcdef0123456789abcdef01234567", "test", "easy")


def test_a_smaller_subset_is_a_part_of_a_larger_one_in_any_order() -> None:
    items = [f"item {i}" for i in range(200)]
    mixed = random.Random(0).sample(items, len(items))
    ten, fifty = subset(items, items, 10), subset(items, items, 50)
    assert len(ten) == 10
    assert set(ten) < set(fifty)
    assert set(subset(mixed, mixed, 50)) == set(fifty)
    assert fifty == [item for item in items if item in fifty]  # in the order of the file
    assert subset(items, items, None) == items
    assert subset(items, items, 1000) == items


def test_items_of_one_key_are_taken_together_or_left() -> None:
    items = [(f"cluster {i // 4}", i) for i in range(80)]
    keys = [key for key, _ in items]
    found = {limit: subset(items, keys, limit) for limit in range(1, 81)}
    for limit, taken in found.items():
        assert len(taken) == max(4, limit // 4 * 4)  # at most the limit, but one cluster whole
        assert all(sum(key == one for one, _ in taken) == 4 for key, _ in taken)
        assert set(taken) <= set(found.get(limit + 1, items))


def test_a_key_that_does_not_fit_ends_the_choice() -> None:
    """A smaller one after it is not taken in its place: it would not be in the larger subset of another limit."""
    keys = ["alone"] * 1 + ["pair"] * 2 + ["five"] * 5 + ["one"]
    items = list(range(len(keys)))
    chosen = [set(subset(items, keys, limit)) for limit in range(1, len(keys) + 1)]
    for smaller, larger in pairwise(chosen):
        assert smaller <= larger
    assert chosen[-1] == set(items)


def test_rows_of_files_and_folders_say_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n')
    (tmp_path / "b.csv").write_text("x\n3\n")
    (tmp_path / "readme.md").write_text("no data")
    rows = local_rows([str(tmp_path)])
    assert [row.values["x"] for row in rows] == [1, 2, "3"]
    assert rows[1].where == f"{tmp_path}/a.jsonl:3"
    with pytest.raises(DataError, match="no such file"):
        local_rows([str(tmp_path / "c.jsonl")])


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fake(repo: str, config: str | None, **more: Any) -> Any:
        asked.update(repo=repo, config=config, **more)
        return [{"question": "why?"}]

    monkeypatch.setattr(data, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", fake)
    rows = Hub(allowed=True).rows(PINNED)
    assert asked == {"repo": "org/set", "config": "easy", "split": "test", "revision": PINNED.revision}
    assert [(row.where, row.values) for row in rows] == [
        ("hf:org/set@0123456789ab (easy/test): row 1", {"question": "why?"})
    ]
    json.dumps(rows[0].values)


def test_without_a_connection_the_cache_alone_is_asked_and_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "reachable", lambda: False)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(UnavailableError, match=r"hf:org/set@0123456789ab .*no connection to the hub, and not in its"):
        Hub(allowed=True).rows(PINNED)
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_data_set_that_is_not_there_says_nothing_about_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(repo: str, config: str | None, **more: Any) -> Any:
        if repo == "org/set":
            raise FileNotFoundError("no such\ndata set")
        return [{"x": 1}]

    monkeypatch.setattr(data, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", fake)
    hub = Hub(allowed=True)
    with pytest.raises(UnavailableError, match=r"cannot be fetched \(no such data set\)"):
        hub.rows(PINNED)
    assert len(hub.rows(HubData("org/other", PINNED.revision, "test"))) == 1


def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(data, "getproxies", dict)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert data.reachable()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not data.reachable()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not data.reachable()


def test_a_hub_that_is_not_to_be_asked_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(UnavailableError, match="not to be asked"):
        Hub().rows(PINNED)
