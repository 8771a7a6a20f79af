"""PPO against TRL 1.12.0's `trl.experimental.ppo.PPOTrainer`, the last one there is, in an environment of its own.

Same weights, prompts step by step, reward model, optimizer and settings; LoRA r=16 on the policy. TRL needs a value
model of its own, which starts from the same weights and is trained whole, as in TRL's example (--peer-value lora: an
adapter there too). Each side samples its own answers, so the losses of training cannot be compared: first both work on
the same stored answers, and their log-probabilities, values, scores, KL, advantages and first losses must agree. What
can differ there is left out: answers that end early, behind which TRL puts the score one token late.

The environment is --peer-python, or ALIGNMENT_TRL_1_12_PYTHON, or one that is made once in this folder.
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compare import PACKAGES, Benchmark, Side, difference, guarded, median, run_child, say, stored_tolerance
from peer_environment import peer_python
from settings import HELP, Settings, chosen, parser

from alignment.errors import AlignmentError, DataError

DATA = "hh_rlhf_harmless/harmless-base.jsonl.gz"
FOLDER = Path(__file__).resolve().parent
PHASES = ("rollout", "scoring", "update")
CANCELLING = {"kl": 10.0, "loss/policy": 10.0}  # means of terms of both signs: rounding weighs more, so much is allowed
COMPARED = ("logps", "ref_logps", "values", "scores", "kl", "advantages", "loss/policy", "loss/value")


@dataclass(frozen=True)
class PPOSettings(Settings):
    """What both sides get, and the last two, which only one of them has."""

    max_length: int = 200  # tokens of a prompt
    response_tokens: int = 48
    ppo_epochs: int = 2
    mini_batches: int = 4
    kl_coef: float = 0.05
    temperature: float = 1.0
    adam_epsilon: float = 1e-5
    lora: bool = True
    rows_per_forward: int = 8  # of ours; it bounds memory and changes no result
    peer_value: str = "all"  # what TRL trains of its value model: all or lora

    def said(self) -> dict[str, Any]:
        unused = ("responses", "prompt_tokens", "max_tokens_per_forward", "reference")
        return {name: value for name, value in asdict(self).items() if name not in unused}


BENCHMARK = Benchmark(
    name="ppo",
    title=__doc__,
    script=__file__,
    quick=PPOSettings(data=DATA, batch=8, response_tokens=24, mini_batches=2, steps=1, repeats=1),
    full=PPOSettings(data=DATA, batch=32, steps=2, repeats=1),
    sides={"stored": "ppo_stored", "ours": "ppo_ours"},
)
FLAGS = {name: text for name, text in HELP.items() if name != "max_tokens_per_forward"} | {
    "data": "HH-RLHF file whose prompts are answered; where the default one is missing, the bundled prompts are",
    "lora": "LoRA r=16 on all linear layers of the policy instead of all weights",
    "batch": "answers per step, one to a prompt",
    "max_length": "longest prompt in tokens",
    "response_tokens": "most tokens of an answer",
    "ppo_epochs": "passes over the answers of a step",
    "mini_batches": "optimizer steps in a pass",
    "kl_coef": "weight of the KL penalty",
    "temperature": "of the sampling",
    "rows_per_forward": "of our side: rows that run at a time",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    flags = parser(BENCHMARK.title, BENCHMARK.quick, BENCHMARK.full, help=FLAGS, stored=True)
    flags.add_argument("--peer-value", choices=("all", "lora"), help="trained of TRL's value model (default all)")
    flags.add_argument("--peer-python", metavar="PATH", help="a Python that has TRL 1.12.0 (and peft, for LoRA)")
    flags.add_argument("--folder", help=argparse.SUPPRESS)
    given = flags.parse_args(argv)
    return guarded("ppo", lambda: child(given) if given.side else parent(given))


def child(given: argparse.Namespace) -> int:
    """Our side, in its own process."""
    from alignment.runtime import quiet

    side = getattr(importlib.import_module(BENCHMARK.sides[given.side]), given.side)
    with quiet():
        result = side(PPOSettings(**json.loads(given.settings)), Path(given.folder))
    Path(given.result).write_text(json.dumps(result), encoding="utf-8")
    return 0


def parent(given: argparse.Namespace) -> int:
    """Compares what both sides make of stored answers, measures both in turn, and prints it."""
    settings = chosen(given, BENCHMARK.quick, BENCHMARK.full)
    if settings.batch % settings.mini_batches or settings.batch < 2 * settings.mini_batches:
        raise DataError(f"--batch {settings.batch} makes no {settings.mini_batches} mini-batches of 2 or more alike")
    python = peer_python(given.peer_python)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        stored, theirs = run_ours("stored", settings, folder), run_theirs("check", python, folder)
        tolerance = stored_tolerance(given, stored["dtype"])
        differences = {name: difference(stored[name], theirs[name]) for name in COMPARED}
        runs = run_in_turn(settings, python, folder)
    result = summary(settings, runs, stored, differences, tolerance)
    allowed = {name: tolerance * CANCELLING.get(name, 1.0) for name in COMPARED}
    wrong = {name: value for name, value in differences.items() if not value <= allowed[name]}
    for name, value in wrong.items():
        say(f"ppo: {name} disagrees on stored answers: it differs by {value:.2g}, more than {allowed[name]:g}")
    print(json.dumps(result) if given.json else table(result))
    return 1 if wrong else 0


def run_in_turn(settings: PPOSettings, python: Path, folder: str) -> dict[str, list[Side]]:
    """Both sides `repeats` times: A B A B."""
    sides: dict[str, Callable[[], Side]] = {
        "ours": lambda: run_ours("ours", settings, folder),
        "theirs": lambda: run_theirs("train", python, folder),
    }
    runs: dict[str, list[Side]] = {side: [] for side in sides}
    for repeat in range(settings.repeats):
        for side, run in sides.items():
            runs[side].append(run())
            say(f"ppo {repeat + 1}/{settings.repeats}: {side}, {median(runs[side][-1:], 'wall'):.2f} s a step")
    facts: dict[str, Callable[[Side], Any]] = {
        "dtype": lambda run: run["dtype"],
        "answers a step": lambda run: [len(step) for step in run["answers"]],
    }
    for name, fact in facts.items():
        values = {str(fact(run)) for run in (*runs["ours"], *runs["theirs"])}
        if len(values) > 1:
            raise AlignmentError(f"the two sides did not do the same work: {name} {', '.join(sorted(values))}")
    return runs


def run_ours(side: str, settings: PPOSettings, folder: str) -> Side:
    """Our side, or its half of the comparison on stored answers, in a fresh process."""
    result = Path(folder) / "result.json"
    given = ("--settings", json.dumps(asdict(settings)), "--result", str(result), "--folder", folder)
    run_child(side, [sys.executable, BENCHMARK.script, "--side", side, *given], folder)
    found: Side = json.loads(result.read_text(encoding="utf-8"))
    return found


def run_theirs(mode: str, python: Path, folder: str) -> Side:
    """peer_ppo.py in its own environment, on the job that our side wrote."""
    command = [str(python), str(FOLDER / "peer_ppo.py"), mode, str(Path(folder) / f"{mode}.json")]
    found: Side = json.loads(run_child("theirs", command, folder))
    return found


def summary(
    settings: PPOSettings,
    runs: Mapping[str, Sequence[Side]],
    stored: Side,
    differences: Mapping[str, float],
    tolerance: float,
) -> dict[str, Any]:
    """The JSON object of the comparison."""
    from measure import Matrices

    first, peer = runs["ours"][0], runs["theirs"][0]
    sizes = Matrices(**first["matrices"] | {"shapes": frozenset()})
    ceiling = max(run["ceiling"] for run in runs["ours"])
    ours, theirs = (side_summary(runs[side], settings, sizes, ceiling, stored["prompts"]) for side in runs)
    return {
        "name": BENCHMARK.name,
        "speedup_wall": theirs["wall_seconds"] / ours["wall_seconds"],
        "speedup_cpu": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
        "phase_speedup_wall": {
            name: theirs["phases"][name]["wall_seconds"] / ours["phases"][name]["wall_seconds"] for name in PHASES
        },
        "max_loss_difference": max(differences["loss/policy"], differences["loss/value"]),
        "differences": dict(differences),
        "stored_answers": {"compared": len(stored["logps"]), "scored": len(stored["scores"])},
        "fraction_of_matmul_ceiling": ours["matmul_fraction"],
        "matmul_ceiling_tflops": ceiling / 1e12,
        "ours": ours,
        "theirs": theirs,
        "settings": settings.said()
        | {
            "prompts": stored["source"],
            "dtype": first["dtype"],
            "threads": first["threads"],
            "tolerance": tolerance,
            "peer": stored["peer"],
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES if name != "trl"}
            | {"python": platform.python_version()},
            "peer_versions": peer["versions"],
            "machine": first["machine"],
        },
    }


def side_summary(
    runs: Sequence[Side], settings: PPOSettings, sizes: Any, ceiling: float, prompts: Sequence[Any]
) -> dict[str, Any]:
    """Medians over steps and repeats, and the largest peaks."""
    from ppo_ours import useful_flops

    wall = median(runs, "wall")
    measured = prompts[settings.warmup :]
    achieved = [useful_flops(sizes, measured, run["answers"], settings) / sum(run["wall"]) for run in runs]
    lengths = [len(answer) for run in runs for step in run["answers"] for answer in step]
    phases = {}
    for name in PHASES:
        parts = [run["phases"][name] for run in runs]
        peaks = [part["peak_bytes"] for part in parts]
        phases[name] = {
            "wall_seconds": median(parts, "wall"),
            "cpu_seconds": median(parts, "cpu"),
            "peak_bytes": None if None in peaks else max(peaks),
        }
    return {
        "wall_seconds": wall,
        "cpu_seconds": median(runs, "cpu"),
        "samples_per_second": settings.batch / wall,
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "phases": phases,
        "matmul_fraction": statistics.median(achieved) / ceiling,
        "response_length": statistics.mean(lengths),
        "trainable": runs[0]["trainable"],
        "attention": runs[0]["attention"],
        "logged": runs[0]["logged"],
        "step_wall_seconds": [run["wall"] for run in runs],
    }


def table(result: Mapping[str, Any]) -> str:
    """What a person reads."""
    settings, sides = result["settings"], (result["ours"], result["theirs"])
    lines = [
        f"ppo · {settings['model']} · {settings['dtype']} · {settings['batch']} answers a step · {settings['machine']}",
        f"{'':24}{'ours':>12}{'theirs':>12}",
        *(row(text, [side[name] / scale for side in sides]) for name, text, scale in ROWS),
        *(row(f"s, {name}", [side["phases"][name]["wall_seconds"] for side in sides]) for name in PHASES),
    ]
    for name in PHASES:
        peaks = [side["phases"][name]["peak_bytes"] for side in sides]
        if None not in peaks:
            lines.append(row(f"GiB peak, {name}", [peak / 2**30 for peak in peaks]))
    worst = max(result["differences"], key=lambda name: result["differences"][name])
    return "\n".join(
        [
            *lines,
            f"{result['speedup_wall']:.2f}x faster by the wall clock, {result['speedup_cpu']:.2f}x in CPU time, "
            f"{result['memory_ratio']:.2f}x the memory; on stored answers the losses differ by "
            f"{result['max_loss_difference']:.1e} at most, {worst} by {result['differences'][worst]:.1e}",
        ]
    )


ROWS = (
    ("samples_per_second", "samples a second", 1),
    ("wall_seconds", "s a step, wall", 1),
    ("cpu_seconds", "s a step, CPU", 1),
    ("peak_bytes", "GiB peak", 2**30),
    ("matmul_fraction", "of the matmul ceiling", 1),
    ("response_length", "tokens an answer", 1),
)


def row(text: str, values: Sequence[float]) -> str:
    return f"{text:24}" + "".join(f"{value:12.4g}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
