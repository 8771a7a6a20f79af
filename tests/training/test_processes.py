"""Two processes must compute what one does: the same gradient, the same logged ratios, no row counted twice."""

import importlib.util
import json
import os
import socket
from pathlib import Path

import pytest
import torch
from forked import Forked

SCRIPT = Path(__file__).with_name("two_processes.py")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
def test_two_processes_equal_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    port = str(free_port())
    ranks = []
    for rank in ("0", "1"):
        environment = {
            **os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, SCRIPT.parents[1:3])),
        }  # fmt: skip
        command = (str(SCRIPT), str(tiny_model_dir), str(tmp_path / "two"))
        ranks.append(Forked(command, tmp_path, environment))
    try:
        outputs = ["".join(process.communicate(timeout=240)) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(outputs)[-4000:]
    passes = [line for output in outputs for line in output.splitlines() if line.startswith("passes")]
    assert sorted(passes) == ["passes 3", "passes 4"]  # of two micro-batches each: they were split, and not evenly
    for output in outputs:  # from the middle of the second epoch, both read on where they were
        assert "resumed True" in output.splitlines()
    two = json.loads((tmp_path / "two" / "found.json").read_text())
    gradients = torch.load(tmp_path / "two" / "gradients.pt", weights_only=True)

    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    one = module.run(str(tiny_model_dir), tmp_path / "one", batch_size=4)
    torch.set_num_threads(threads)

    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    assert two["log"] == pytest.approx(one["log"], rel=1e-4, abs=1e-7)
    assert two["evaluation"] == pytest.approx(one["evaluation"], rel=1e-4, abs=1e-6)
    assert two["checkpoints"] == one["checkpoints"] == ["COMPLETE"]
