"""The sample stage: what it draws, what its records keep, and which prompts it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_sampling import made, run

from alignment.errors import RecipeError
from alignment.preferences.sources import DataSpec, load
from alignment.recipe import parse_recipe
from alignment.stages import sampling
from alignment.stages.prompts import PromptRow
from alignment.stages.sampling import window

SAMPLE: dict[str, Any] = {"data": "prefs", "n": 3, "max_new_tokens": 6}


def texts(folder: Path, row: dict[str, Any]) -> dict[str, list[str]]:
    """Prompt -> different answers, in order."""
    return {r.prompt.text(): [answer.text() for answer in r.responses] for r in made(folder, row)}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """All prompts of two splits, and, by a stage of the same name in another run, a part of them."""
    folder = tmp_path_factory.mktemp("sampled")
    stages = [
        {"sample": {**SAMPLE, "split": "all"}},
        {"sample": {**SAMPLE, "name": "other", "limit": 4}},
        {"sample": {**SAMPLE, "name": "cold", "limit": 4, "temperature": 1e-4}},
        {"sample": {**SAMPLE, "name": "nucleus", "limit": 4, "top_p": 0.5}},
    ]
    return folder, run(folder, tiny_model_dir, stages)[1]


def test_records_keep_split_and_group_and_say_who_wrote_what(
    sampled: tuple[Path, dict[str, dict[str, Any]]], tiny_model_dir: Path
) -> None:
    folder, rows = sampled
    source = {r.prompt.text(): r for r in load(DataSpec(source=str(folder / "records.jsonl"))).records}
    records = made(folder, rows["sample"])
    assert len(records) == len(source)
    assert {r.split for r in records} == {"train", "validation", "test"}
    for record in records:
        origin = source[record.prompt.text()]
        assert (record.split, record.group_id) == (origin.split, origin.group_id)
        assert not record.judgements
        for response in record.responses:
            generator = response.generator
            assert generator is not None
            assert (generator.kind, generator.name) == ("model", f"path:{tiny_model_dir}")
            assert generator.sampling == {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6}
            assert generator.seed is not None
    metrics = rows["sample"]["metrics"]
    assert metrics["answers"] == 3 * len(records)
    assert metrics["merged"] == 3 * len(records) - sum(len(r.responses) for r in records)


def test_answers_that_say_the_same_are_one_and_are_counted(sampled: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, rows = sampled
    assert [len(answers) for answers in texts(folder, rows["cold"]).values()] == [1] * 4
    assert rows["cold"]["metrics"]["merged"] == 8
    assert rows["cold"]["notes"][0] == "8 answers said the same as another to their prompt and were merged"
    assert not any("merged" in note for note in rows["other"]["notes"])


def test_answers_that_were_cut_are_told(
    sampled: tuple[Path, dict[str, dict[str, Any]]],
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, rows = sampled
    cut = round((1 - rows["sample"]["metrics"]["finished_share"]) * rows["sample"]["metrics"]["answers"])
    assert cut > 0
    said = f"{cut} of 120 answers were cut at max_new_tokens and would be imitated as ended; raise max_new_tokens"
    assert said in rows["sample"]["notes"]
    monkeypatch.setattr(sampling, "_draw", lambda *_: [[("a", True), ("b", True), ("c", True)]] * 2)
    _, rows = run(tmp_path, tiny_model_dir, [{"sample": {**SAMPLE, "limit": 2}}])
    assert rows["sample"]["notes"] == []


def test_stages_draw_differently_and_from_a_part_of_the_prompts(
    sampled: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    folder, rows = sampled
    every, some = texts(folder, rows["sample"]), texts(folder, rows["other"])
    assert len(some) == 4
    assert all(some[prompt] != every[prompt] for prompt in some)
    (use,) = rows["other"]["data"]
    assert use["n_used"] == 4
    assert use["n_records"] == use["n_used"] + sum(use["dropped"].values())
    assert len(texts(folder, rows["nucleus"])) == 4  # another way to draw, the same records


def test_what_is_drawn_depends_on_the_seed_and_on_no_other_prompt(
    sampled: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder, rows = sampled
    few = {"sample": {**SAMPLE, "split": "all", "limit": 3}}
    every = texts(folder, rows["sample"])
    again = texts(tmp_path / "a", run(tmp_path / "a", tiny_model_dir, [few])[1]["sample"])
    assert again == {prompt: every[prompt] for prompt in again}
    other = {"sample": {**few["sample"], "seed": 43}}
    assert texts(tmp_path / "b", run(tmp_path / "b", tiny_model_dir, [other])[1]["sample"]) != again


def test_a_window_of_the_prompts_goes_round() -> None:
    rows = [PromptRow(name, [], [1]) for name in "caebd"]
    assert [row.id for row in window(rows, 0, 2)] == ["a", "b"]
    assert [row.id for row in window(rows, 2, 2)] == ["c", "d"]
    assert [row.id for row in window(rows, 4, 3)] == ["e", "a", "b"]
    assert [row.id for row in window(rows, 3, 9)] == ["d", "e", "a", "b", "c"]  # each once
    assert window(rows, 0, None) == rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n: .*greater than or equal to 1"),
        ({"top_p": 0}, "top_p: .*greater than 0"),
        ({"temperature": 0}, "temperature: .*greater than 0"),
        ({"start": 3}, "sample: start: has no effect without a limit"),
    ],
)
def test_settings_without_effect_or_sense_are_errors(given: dict[str, Any], message: str) -> None:
    raw = {"name": "x", "base": "path:x", "stages": [{"sample": {"data": "x.jsonl", **given}}]}
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw, "x.yaml")
