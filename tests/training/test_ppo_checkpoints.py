"""A PPO run that is killed while it saves or deletes a checkpoint goes on from the newest whole one, bit for bit."""

import os
import signal
from pathlib import Path

import pytest
import torch
from forked import Forked

from alignment.training.checkpoints import MARKER, last_complete_checkpoint
from tests.training.killable_ppo import STEPS, run_of

SCRIPT = Path(__file__).with_name("killable_ppo.py")
KILLED_AT = 3


def killed(model: Path, folder: Path, where: str) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
    }
    process = Forked((str(SCRIPT), str(model), str(folder), where, str(KILLED_AT)), folder, environment)
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, err[-3000:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, torch.Tensor]:
    """What an uninterrupted run has learned."""
    trainer = run_of(tiny_model_dir, tmp_path_factory.mktemp("whole"))
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.actor.trainable().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "left", "resumes_at"),
    [
        ("weights", {2: True, 3: False}, 2),
        ("optimizer", {2: True, 3: False}, 2),
        ("saved", {2: True, 3: True}, 3),
        ("deleting", {2: False, 3: True}, 3),
    ],
)
def test_a_kill_while_saving_loses_the_step_at_most(
    where: str,
    left: dict[int, bool],
    resumes_at: int,
    tmp_path: Path,
    tiny_model_dir: Path,
    whole: dict[str, torch.Tensor],
) -> None:
    """`left`: the checkpoints there are after the kill, and whether each is whole."""
    killed(tiny_model_dir, tmp_path, where)
    found = {int(path.name.split("-")[1]): (path / MARKER).exists() for path in tmp_path.glob("checkpoint-*")}
    assert found == left
    trainer = run_of(tiny_model_dir, tmp_path)
    assert trainer.load() == resumes_at >= KILLED_AT - 1
    trainer.train()
    for name, weight in trainer.actor.trainable().items():
        assert torch.equal(weight, whole[name]), name
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{STEPS}"]
    assert last_complete_checkpoint(tmp_path) == tmp_path / f"checkpoint-{STEPS}"
