"""PPO against TRL 1.12.0: the whole script where that is at hand, and its parts with a stand-in for the peer."""

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.errors import AlignmentError

Printed = Callable[[], dict[str, Any]]
FLAGS = ("--json", "--quick", "--dtype", "float32", "--batch", "4", "--response-tokens", "8", "--learning-rate", "1e-3")


@pytest.fixture
def ours_in_this_process(monkeypatch: pytest.MonkeyPatch, bench_data: Path, tmp_path: Path) -> None:
    import measure
    import ppo
    import ppo_ours
    import ppo_stored

    sides = {"ours": ppo_ours.ours, "stored": ppo_stored.stored}
    monkeypatch.setattr(ppo, "run_ours", lambda side, settings, folder: sides[side](settings, Path(folder)))
    monkeypatch.setattr(measure, "CEILING_SECONDS", 0.01)
    monkeypatch.setenv("ALIGNMENT_REAL_DATA", str(bench_data))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, ours_in_this_process: None) -> dict[str, Any]:
    """A peer that gives back what our side gave, multiplied by what is in the dict; which gets the last job."""
    import ppo

    changes: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    measured = ppo.run_ours

    def run_ours(side: str, settings: Any, folder: str) -> Any:
        seen[side] = measured(side, settings, folder)
        return seen[side]

    def run_theirs(mode: str, python: Path, folder: str) -> Any:
        changes["job"] = json.loads((Path(folder) / f"{mode}.json").read_text())
        if mode == "train":
            return seen["ours"] | {"versions": {}}
        stored = {name: np.asarray(seen["stored"][name]) * changes.get(name, 1.0) for name in ppo.COMPARED}
        return {name: value.tolist() for name, value in stored.items()}

    monkeypatch.setattr(ppo, "run_ours", run_ours)
    monkeypatch.setattr(ppo, "run_theirs", run_theirs)
    return changes


def is_result(result: dict[str, Any]) -> None:
    import ppo

    for side in (result["ours"], result["theirs"]):
        assert side["samples_per_second"] == pytest.approx(4 / side["wall_seconds"])
        assert set(side["phases"]) == set(ppo.PHASES)
        assert sum(phase["wall_seconds"] for phase in side["phases"].values()) == pytest.approx(side["wall_seconds"])
        assert all(phase["peak_bytes"] <= side["peak_bytes"] for phase in side["phases"].values())
        assert 0 < side["matmul_fraction"] < 1
        assert 0 < side["response_length"] <= 8
    assert result["speedup_wall"] == pytest.approx(result["theirs"]["wall_seconds"] / result["ours"]["wall_seconds"])
    assert result["memory_ratio"] == pytest.approx(result["ours"]["peak_bytes"] / result["theirs"]["peak_bytes"])
    assert set(result["differences"]) == set(ppo.COMPARED)
    assert result["stored_answers"]["compared"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--no-lora",), ("--peer-value", "lora")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_sides_agree_on_stored_answers(
    ours_in_this_process: None, tiny_model_dir: Path, printed: Printed, flags: tuple[str, ...]
) -> None:
    import ppo

    if not os.environ.get("ALIGNMENT_TRL_1_12_PYTHON"):
        pytest.skip("set ALIGNMENT_TRL_1_12_PYTHON to the Python of an environment with TRL 1.12.0 and peft")
    assert ppo.main([*FLAGS, "--model", f"path:{tiny_model_dir}", *flags]) == 0
    result = printed()
    is_result(result)
    assert max(result["differences"].values()) < 1e-4
    assert result["settings"]["peer_versions"]["trl"] == "1.12.0"
    trained = [result[side]["trainable"] for side in ("ours", "theirs")]
    assert trained[0] < trained[1]  # its value model is its own
    assert result["settings"]["lora"] == ("--no-lora" not in flags)


def test_what_the_script_prints_and_what_the_peer_is_told(
    mirror: dict[str, Any], tiny_model_dir: Path, printed: Printed
) -> None:
    import ppo

    argv = [*FLAGS, "--model", f"path:{tiny_model_dir}", "--peer-python", sys.executable, "--ppo-epochs", "3"]
    assert ppo.main(argv) == 0
    result = printed()
    is_result(result)
    assert result["max_loss_difference"] == 0
    assert result["ours"]["logged"]["objective/kl"][0] == pytest.approx(0, abs=1e-5)
    job = mirror["job"]
    assert [len(batch) for batch in job["batches"]] == [4, 4]
    assert (job["ppo_epochs"], job["mini_batches"], job["response_tokens"], job["kl_coef"]) == (3, 2, 8, 0.05)
    assert job["lora"]["r"] == 16
    assert job["options"]["cliprange"] == 0.2
    assert job["pad_id"] != 2  # the end of sequence would be hidden
    assert len(job["reward_head"]) == 32
    assert set(job["value_head"]) == {0.0}  # where ours starts


@pytest.mark.parametrize(("name", "tolerance", "code"), [("advantages", "0.005", 1), ("loss/policy", "0.002", 0)])
def test_a_disagreement_is_exit_code_1(
    mirror: dict[str, Any],
    tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    tolerance: str,
    code: int,
) -> None:
    import ppo

    mirror[name] = 1.01
    argv = [*FLAGS, "--model", f"path:{tiny_model_dir}", "--peer-python", sys.executable]
    assert ppo.main([*argv, "--tolerance", tolerance]) == code
    assert (f"{name} disagrees on stored answers" in capsys.readouterr().err) == (code == 1)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"answers": [[[1]], [[2]]]}, r"answers a step \[1, 1\], \[2, 1\]"),
        ({"dtype": "bfloat16"}, "dtype bfloat16, float32"),
        ({"answers": [[[3, 3], [4]], [[5]]]}, None),
    ],
)
def test_sides_that_did_different_work_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, theirs: dict[str, Any], message: str | None
) -> None:
    """What the answers say differs by the draws; how many there are in each step must not."""
    import ppo

    own = {"dtype": "float32", "wall": [1.0], "answers": [[[1], [2]], [[3]]]}
    monkeypatch.setattr(ppo, "run_ours", lambda side, settings, folder: own)
    monkeypatch.setattr(ppo, "run_theirs", lambda mode, python, folder: own | theirs)
    if message is None:
        assert set(ppo.run_in_turn(ppo.BENCHMARK.quick, Path(), "x")) == {"ours", "theirs"}
        return
    with pytest.raises(AlignmentError, match=f"the two sides did not do the same work: {message}"):
        ppo.run_in_turn(ppo.BENCHMARK.quick, Path(), "x")


def settings(model: Path) -> Any:
    import ppo

    quick = ppo.BENCHMARK.quick
    return ppo.PPOSettings(
        data=quick.data, batch=4, steps=1, response_tokens=8, mini_batches=2, model=f"path:{model}", dtype="float32"
    )


def test_stored_answers_are_what_the_peer_gets(
    ours_in_this_process: None, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import ppo_stored

    found = ppo_stored.stored(settings(tiny_model_dir), tmp_path)
    job = json.loads((tmp_path / "check.json").read_text())
    assert {len(answer) for answer in job["answers"]} == {8}
    assert [len(row) for row in found["logps"]] == [8] * len(job["answers"])
    assert len(job["batches"][0]) == len(job["answers"]) == len(job["kept_scores"])
    # away from the policy, so that ratios clip and the KL is not 0
    assert np.abs(np.subtract(found["logps"], job["old_logps"])).max() > 0.2
    assert abs(found["kl"]) > 1e-3
    assert any(value != 0 for row in found["values"] for value in row)
    assert {path.suffix for path in (tmp_path / "policy").iterdir()} <= {".safetensors", ".json", ".jinja"}
    for prompt, answer in zip(job["batches"][0], job["answers"], strict=True):
        assert any(row[: len(prompt)] == prompt for row in job["reward_rows"])
        assert answer


def test_useful_flops_by_hand(tiny_model_dir: Path) -> None:
    from measure import Matrices
    from oracle import encoded, policy
    from ppo_ours import useful_flops
    from workload import Step

    sizes = Matrices.of(policy(tiny_model_dir), vocabulary_head=True)
    row = encoded([3, 4], [5, 6])
    without_head = sizes.forward([row]) - 2 * sizes.head * 2
    expected = 2 * sizes.forward([row]) + without_head + 2 * sizes.step(Step([row]), reference=False)
    assert useful_flops(sizes, [[[3, 4]]], [[[5, 6]]], settings(tiny_model_dir)) == pytest.approx(expected)


def test_prompts_are_the_bundled_ones_without_the_data(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    import samples

    from alignment.errors import DataError
    from alignment.models import load_tokenizer
    from alignment.registry import ModelRegistry

    monkeypatch.setenv("ALIGNMENT_REAL_DATA", str(tmp_path))
    tokenizer = load_tokenizer(f"path:{tiny_model_dir}", ModelRegistry(tmp_path / "none"))
    rows, source = samples.prompts(settings(tiny_model_dir), tokenizer)
    assert source == samples.BUNDLED
    assert len({row.id for row in rows}) == 8
    assert rows == samples.prompts(settings(tiny_model_dir), tokenizer)[0]
    named = replace(settings(tiny_model_dir), data=str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match=r"absent.jsonl is not there"):
        samples.prompts(named, tokenizer)
    with pytest.raises(DataError, match="8 prompts are needed, 0 of"):
        samples.prompts(replace(settings(tiny_model_dir), max_length=1), tokenizer)


def test_a_batch_that_mini_batches_do_not_divide_is_refused(
    mirror: dict[str, Any], tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ppo

    assert ppo.main([*FLAGS, "--model", f"path:{tiny_model_dir}", "--mini-batches", "3"]) == 2
    assert "--batch 4 makes no 3 mini-batches" in capsys.readouterr().err


def test_a_peer_that_is_not_there_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import peer_environment
    import ppo

    missing = tmp_path / "python"
    assert ppo.main([*FLAGS, "--peer-python", str(missing)]) == 2
    assert capsys.readouterr().err.startswith(f"ppo: {missing} is not there; --peer-python is")
    monkeypatch.setenv(peer_environment.VARIABLE, str(missing))
    assert ppo.main([*FLAGS]) == 2
    missing.touch()
    assert peer_environment.peer_python(None) == missing


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peer_environment

    from alignment.errors import AlignmentError

    monkeypatch.delenv(peer_environment.VARIABLE, raising=False)
    monkeypatch.setattr(peer_environment, "ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(AlignmentError, match=r"cannot make an environment with TRL 1\.12\.0, give --peer-python"):
        peer_environment.peer_python(None)
    assert not (tmp_path / "environment" / ".installed").exists()


def test_the_peer_knows_nothing_of_this_package(benchmarks_on_path: Path) -> None:
    own = {path.stem for path in benchmarks_on_path.glob("*.py")}
    allowed = {"peer_ppo.py": {"phases"}, "phases.py": set[str]()}
    for name, siblings in allowed.items():
        tree = ast.parse((benchmarks_on_path / name).read_text("utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        roots = {module.partition(".")[0] for module in imported}
        assert not roots & {"alignment", "reward"}
        assert roots & own == siblings


def test_the_peers_libraries_are_ours(benchmarks_on_path: Path) -> None:
    """Versions that differ would be part of what is measured."""
    ours = pins(benchmarks_on_path.parent / "constraints.txt")
    theirs = pins(benchmarks_on_path / "trl-1.12-constraints.txt")
    assert theirs.pop("trl") == "1.12.0"
    assert theirs.items() <= ours.items()


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if "==" in line]
    return dict(line.lower().split("==") for line in lines)


def test_phases_add_up_and_have_their_own_peaks() -> None:
    import torch
    from phases import PhaseClock, forget_peak

    clock = PhaseClock()
    clock.start()
    for _ in range(2):
        block = torch.ones(32 * 2**20)  # 128 MiB
        del block
        clock.mark("large")
        clock.mark("small", last=True)
    found = clock.result(warmup=1)
    assert len(clock.steps) == 2
    for unit in ("wall", "cpu"):
        assert found[unit] == [pytest.approx(sum(phase[unit][0] for phase in found["phases"].values()))]
        assert len(found[unit]) == 1
    large, small = (found["phases"][name]["peak_bytes"] for name in ("large", "small"))
    assert found["peak_bytes"] >= large
    if forget_peak():
        assert large - small > 100 * 2**20


def test_differences_are_relative_and_never_hide_a_nan() -> None:
    from compare import difference

    from alignment.errors import AlignmentError

    assert difference([[1.0, -4.0]], [[1.0, -4.0]]) == 0
    assert difference([[1.0, -4.0]], [[1.2, -4.0]]) == pytest.approx(0.05)
    assert difference(2.2, 2.0) == pytest.approx(0.1)
    assert not difference([float("nan"), 1.0], [1.0, 1.0]) <= 1.0
    with pytest.raises(AlignmentError, match="different answers"):
        difference([1.0], [1.0, 2.0])
