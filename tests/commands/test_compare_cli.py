"""`alignment compare` as a user types it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comparison.fake_evaluation import answered, chosen, ranked, write_run

from alignment.cli import main


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three seeds of one recipe, two reward models each."""
    return [
        str(
            write_run(
                tmp_path / f"seed-{seed}",
                {"reward_accuracy": {"bradley_terry": ranked(seed), "plackett_luce": ranked(seed + 10, 1.5)}},
                seed=seed,
            )
        )
        for seed in (1, 2, 3)
    ]


class Shell:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self._patch.setattr(sys, "argv", ["alignment", "compare", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = self._capsys.readouterr()
        assert (stop.value.code or 0) == code, captured.err
        return captured.err if code else captured.out


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def test_runs_of_one_recipe_are_compared_over_seeds(runs: list[str], shell: Shell, tmp_path: Path) -> None:
    told = json.loads(shell(*runs, "--json"))
    assert told == json.loads(shell("--seeds", *runs, "--json"))
    assert told["unit"] == "seed"
    row = next(r for r in told["rows"] if (r["subject"], r["metric"]) == ("plackett_luce", "accuracy"))
    assert list(row["values"]) == ["1", "2", "3"]
    assert row["mean"] == pytest.approx(sum(row["values"].values()) / 3)
    (difference,) = [r for r in told["differences"] if r["metric"] == "accuracy"]
    assert (difference["a"], difference["b"]) == ("bradley_terry", "plackett_luce")
    table, tex = tmp_path / "table.csv", tmp_path / "table.tex"
    text = shell(*runs, "--csv", str(table), "--tex", str(tex))
    assert "Numbers over seeds" in text
    assert "plackett_luce − bradley_terry" in text
    assert "t interval over 3 seeds" in text
    assert "preferred response" not in text
    assert "preferred response" in shell(*runs, "--groups")
    stored = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    again = next(r for r in stored if (r["subject"], r["metric"], r["group"]) == ("plackett_luce", "accuracy", ""))
    assert float(again["mean"]) == row["mean"]
    assert (tmp_path / "table-differences.csv").is_file()
    assert tex.read_text(encoding="utf-8").count(r"\toprule") == 2


def test_models_are_compared_over_items(runs: list[str], shell: Shell) -> None:
    told = json.loads(shell(f"{runs[0]}:bradley_terry", f"{runs[0]}:plackett_luce", "--json"))
    (row,) = told["rows"]
    assert (told["unit"], row["n_common"], row["n_clusters"]) == ("item", 36, 6)
    assert row["correction"] == "Holm over 1 tests"
    text = shell(f"{runs[0]}:bradley_terry", f"{runs[1]}:bradley_terry", "--exploratory", "--bootstrap", "bca")
    assert "Differences over the same items" in text
    assert "t interval with 5 degrees of freedom over 6 clusters (too few to resample)" in text
    assert "Benjamini-Hochberg over 1 tests" in text


def test_what_could_have_been_seen_is_shown(runs: list[str], shell: Shell, tmp_path: Path) -> None:
    models = (f"{runs[0]}:bradley_terry", f"{runs[0]}:plackett_luce")
    path = tmp_path / "table.csv"
    (row,) = json.loads(shell(*models, "--json"))["rows"]
    assert None not in (row["mde"], row["units_needed"], row["design_effect"])
    text = shell(*models, "--csv", str(path))
    caption, header, line = text.splitlines()[:3]
    assert caption == "Differences over the same items: plackett_luce − bradley_terry"
    cells = dict(zip(re.split(r"  +", header), re.split(r"  +", line), strict=True))
    assert cells["MDE"] == f"{100 * row['mde']:.1f}"
    assert (cells["n"], cells["n needed"]) == ("36 in 6", str(row["units_needed"]))
    assert cells["Deff"] == f"{row['design_effect']:.1f}"
    told = "about 80% (normal approximation; nearer 70% below 100 items or 10 clusters)"
    assert f"MDE: the true difference that is found at alpha 0.05, two-sided, with a probability of {told}" in text
    (stored,) = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    assert float(stored["mde"]) == row["mde"]
    assert int(stored["units_needed"]) == row["units_needed"]


def test_columns_that_say_nothing_are_not_shown(tmp_path: Path, shell: Shell) -> None:
    run = write_run(tmp_path, {"multiple_choice": {"a": chosen([True, False] * 4), "b": chosen([True, True] * 4)}})
    header = shell(f"{run}:a", f"{run}:b").splitlines()[1]
    names = ["Metric", "Baseline", "Model", "Difference", "95% interval", "SE", "MDE", "n", "n needed"]
    assert re.split(r"  +", header) == [*names, "Gained/lost", "p", "Adjusted p"]
    one = write_run(tmp_path / "b", {"multiple_choice": {"a": chosen([True, None]), "b": chosen([True, True, False])}})
    header = shell(f"{one}:a", f"{one}:b").splitlines()[1]
    assert "Unscored" in header
    assert "Only one" in header


def test_no_change_has_no_error(tmp_path: Path, shell: Shell) -> None:
    same, other = chosen([True, False] * 4), chosen([False, False] * 4)
    run = write_run(tmp_path, {"multiple_choice": {"a": same, "b": same, "c": other}})
    told = json.loads(shell(f"{run}:a", f"{run}:b", "--json"))
    assert [(row["difference"], row["standard_error"], row["mde"]) for row in told["rows"]] == [(0.0, None, None)] * 2
    header, line = shell(f"{run}:a", f"{run}:b").splitlines()[1:3]
    cells = dict(zip(re.split(r"  +", header), re.split(r"  +", line), strict=False))
    assert cells["SE"] == cells["MDE"] == "n/a"
    assert all(row["standard_error"] for row in json.loads(shell(f"{run}:a", f"{run}:c", "--json"))["rows"])


def test_an_unknown_metric_names_the_known_ones(tmp_path: Path, shell: Shell) -> None:
    run = write_run(tmp_path, {"multiple_choice": {"a": chosen([True, False]), "b": chosen([True, True])}})
    for wanted, message in (("nope", "no metric nope to compare; known: acc, acc_norm"), ("ac", "ac to compare; near")):
        assert message in shell(f"{run}:a", f"{run}:b", "--metric", "acc", "--metric", wanted, code=2)


def test_options_without_effect_over_seeds_are_refused(runs: list[str], shell: Shell) -> None:
    for option, value in (("--bootstrap", "bca"), ("--bootstrap", "percentile"), ("--seed", "0"), ("--seed", "3")):
        (line,) = shell(*runs, option, value, code=2).strip().splitlines()
        assert line.startswith(f"error: {option} is for comparisons over items; over seeds")
        assert "leave it out" in line


def test_the_seed_is_everything(tmp_path: Path, shell: Shell) -> None:
    run = write_run(tmp_path, {"win_rate": {"a": answered(1, 40), "b": answered(2, 40)}})
    told = [shell(f"{run}:a", f"{run}:b", "--json", "--seed", seed) for seed in ("1", "1", "2")]
    assert told[0] == told[1]
    assert told[0] != told[2]


def test_wrong_input_is_one_line(runs: list[str], shell: Shell, tmp_path: Path) -> None:
    other = str(write_run(tmp_path / "other", {"reward_accuracy": {"x": ranked(1)}}, seed=7, base="path:x"))
    single = f"{runs[0]}:bradley_terry"
    for arguments, message in (
        ((runs[0], "nowhere"), "nowhere: not found"),
        (("--seeds", runs[0], other), "differ in more than the seed: base"),
        (("--seeds", runs[0], single), "--seeds takes whole runs"),
        (("--seeds", runs[0], runs[0]), "the same seed 1"),
        ((single, f"{runs[0]}:plackett_luce", "--against", "x"), "--against is for runs over seeds"),
        ((*runs, "--csv", str(tmp_path / "no" / "table.csv")), "cannot write"),
    ):
        err = shell(*arguments, code=2).strip().splitlines()
        assert len(err) == 1
        assert err[0].startswith("error: ")
        assert message in err[0]


def test_hostile_names_reach_no_terminal(tmp_path: Path, shell: Shell) -> None:
    name = "\x1b[31mred"
    run = write_run(tmp_path, {"multiple_choice": {name: chosen([True, False]), "b": chosen([False, False])}})
    text = shell(f"{run}:{name}", f"{run}:b")
    assert "\x1b" not in text
    assert "red" in text


def test_comparing_loads_no_torch(runs: list[str]) -> None:
    code = (
        "import sys\nfrom alignment.cli import main\n"
        f"sys.argv = ['alignment', 'compare', *{runs!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_frontier_is_of_seeds_of_one_recipe(runs: list[str], shell: Shell, tmp_path: Path) -> None:
    path = str(tmp_path / "frontier.pdf")
    assert "no frontier: every run needs" in shell(*runs, "--frontier", path, code=2)
    models = (f"{runs[0]}:bradley_terry", f"{runs[0]}:plackett_luce")
    assert "--frontier is for runs over seeds" in shell(*models, "--frontier", path, code=2)
