from pathlib import Path

import pytest
from comparison.fake_evaluation import change_results, ranked, write_run

from alignment.comparison.replications import are_seeds, first_difference
from alignment.comparison.seeds import SeedTables, compare_seeds
from alignment.errors import DataError
from alignment.evaluation.statistics import difference_over_seeds, over_seeds
from alignment.report.load import Run, load_run


def run(folder: Path, seed: int, skill: float = 1.0, model: str = "rm", **recipe: object) -> Run:
    samples = {"base": ranked(99, 0.0), model: ranked(seed, skill)}
    return load_run(write_run(folder / f"{skill}-{seed}", {"reward_accuracy": samples}, seed=seed, **recipe))


def value(run: Run, model: str, metric: str = "accuracy") -> float | None:
    return next(r.value for r in run.results if (r.model, r.metric, r.group) == (model, metric, None))


def difference(tables: SeedTables, a: str, b: str, metric: str = "accuracy") -> tuple[float | None, ...]:
    row = next(row for row in tables.differences if (row.a, row.b, row.metric) == (a, b, metric))
    return row.difference, row.ci_low, row.ci_high, row.p


def test_numbers_over_seeds_are_those_of_the_runs(tmp_path: Path) -> None:
    runs = [run(tmp_path, seed) for seed in (3, 1, 2)]
    tables = compare_seeds(runs)
    for metric in ("accuracy", "calibration_error", "length_correlation"):
        values = {one.manifest.seed: value(one, "rm", metric) for one in runs}
        expected = over_seeds(values)
        row = next(r for r in tables.rows if (r.subject, r.metric, r.group) == ("rm", metric, None))
        assert row.values == values
        assert list(row.values) == [1, 2, 3]
        assert (row.mean, row.ci_low, row.ci_high) == pytest.approx(
            (expected.interval.value, expected.interval.low, expected.interval.high)
        )
        assert (row.spread, row.n_seeds) == (pytest.approx(expected.spread), 3)
        base = {seed: value(runs[0], "base", metric) for seed in values}
        paired = difference_over_seeds(values, base)
        found = paired.interval.value, paired.interval.low, paired.interval.high, paired.p.value
        assert difference(tables, "base", "rm", metric) == pytest.approx(found)
    assert not tables.notes


def test_a_difference_metric_is_not_taken_apart_again(tmp_path: Path) -> None:
    tables = compare_seeds([run(tmp_path, 1), run(tmp_path, 2)])
    assert "accuracy_difference" in {row.metric for row in tables.rows}
    assert not any("difference" in row.metric for row in tables.differences)
    tested = [row for row in tables.differences if row.p is not None]
    assert {row.correction for row in tables.differences} == {f"Holm over {len(tested)} tests"}
    assert tables.notes == ("2 seeds; claims about training want 3 to 5",)


def test_one_seed_has_a_number_and_the_reason(tmp_path: Path) -> None:
    row = next(r for r in compare_seeds([run(tmp_path, 1)], metrics=["accuracy"]).rows if r.subject == "rm")
    assert row.mean is not None
    assert (row.ci_low, row.spread, row.method) == (None, None, "mean of one seed: no interval")


def test_what_is_undefined_says_why_in_the_evaluations_words(tmp_path: Path) -> None:
    tables = compare_seeds([run(tmp_path, 1), run(tmp_path, 2)], metrics=["annotator_agreement"])
    row = next(r for r in tables.rows if r.subject == "rm")
    assert row.mean is None
    assert row.method == "undefined for seed 1, 2 (no pair was judged by two annotators or more)"


def test_two_recipes_are_paired_over_seeds_by_model(tmp_path: Path) -> None:
    low = [run(tmp_path, seed, 0.2, name="low", base="x") for seed in (1, 2, 3)]
    high = [run(tmp_path, seed, 2.0, name="high", base="y") for seed in (1, 2, 3)]
    assert are_seeds([*low, *high])
    tables = compare_seeds([*low, *high])
    values = [{one.manifest.seed: value(one, "rm") for one in group} for group in (high, low)]
    expected = difference_over_seeds(*values)
    assert difference(tables, "low:rm", "high:rm")[0] == pytest.approx(expected.interval.value)
    assert difference(tables, "low:rm", "high:rm")[3] == pytest.approx(expected.p.value)
    assert difference(compare_seeds([*low, *high], against="high:rm"), "high:rm", "low:rm")[0] < 0  # type: ignore[operator]
    with pytest.raises(DataError, match="no model 'hihg:rm'; nearest: high:rm"):
        compare_seeds([*low, *high], against="hihg:rm")


def test_what_is_a_replication(tmp_path: Path) -> None:
    one, two = run(tmp_path / "a", 1, name="a", description="first"), run(tmp_path / "b", 2, name="b")
    assert are_seeds([one, two])
    assert first_difference(one, two) == ""
    other = run(tmp_path / "c", 3, stages=[{"reward": {"loss": "bradley_terry"}}, {"report": {}}])
    assert not are_seeds([one, other])
    assert first_difference(one, other) == "stages"
    base = run(tmp_path / "d", 4, base="path:elsewhere")
    assert first_difference(one, base) == "base"
    again = run(tmp_path / "e", 1)
    assert not are_seeds([one, again])
    with pytest.raises(DataError, match="one recipe with the same seed 1"):
        compare_seeds([one, again])


def test_seeds_of_stages_are_seeds(tmp_path: Path) -> None:
    runs = [run(tmp_path, seed, stages=[{"sft": {"seed": seed, "data": "x"}}]) for seed in (1, 2)]
    assert are_seeds(runs)


def test_versions_must_agree(tmp_path: Path) -> None:
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    change_results(two.folder, version=1)
    with pytest.raises(DataError, match="versions 3 and 1 of reward_accuracy"):
        compare_seeds([one, load_run(two.folder)])


def test_a_run_without_a_number_leaves_no_mean(tmp_path: Path) -> None:
    runs = [run(tmp_path, 1), run(tmp_path, 2, model="rm2")]
    row = next(r for r in compare_seeds(runs).rows if (r.subject, r.metric, r.group) == ("rm", "accuracy", None))
    assert row.n_seeds == 1
    with pytest.raises(DataError, match="no results of nothing"):
        compare_seeds(runs, metrics=["nothing"])
