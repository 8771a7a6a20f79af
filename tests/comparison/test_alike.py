"""Evaluations are compared only where the benchmark asked both the same; what was not stored is said, once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from comparison.fake_evaluation import chosen, ranked, write_evaluation
from stored_runs import new_context, tiny_model

from alignment.comparison.paired import compare
from alignment.comparison.rows import PairedTable
from alignment.comparison.sides import pairs, read_operand
from alignment.errors import DataError
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, EvalSettings, samples_file
from alignment.evaluation.benchmarks.bias.bbq import BBQRun
from alignment.evaluation.benchmarks.bias.bold import Bold
from alignment.evaluation.benchmarks.bias.crows_pairs import CrowsPairsRun
from alignment.evaluation.benchmarks.forgetting.forward_kl import ForwardKl
from alignment.evaluation.benchmarks.forgetting.gsm8k import GSM8KRun
from alignment.evaluation.benchmarks.forgetting.wikitext import Wikitext
from alignment.evaluation.benchmarks.helpfulness.best_of_n import BestOfN
from alignment.evaluation.predictions import all_settings, settings_file
from alignment.evaluation.suite import run_suites

NOTE = "whether options were the same could not be checked, they were not stored: "
PAGES = [{"page": f"the cat sat on mat {number} and the dog ran " * 3} for number in range(6)]


def compared(*operands: str | Path) -> PairedTable:
    return compare(pairs([read_operand(str(one)) for one in operands]), seed=0)


@pytest.mark.parametrize(
    ("benchmark", "other", "option"),
    [
        (GSM8KRun(), GSM8KRun(shots=5), "shots"),
        (GSM8KRun(), GSM8KRun(max_new_tokens=400), "max_new_tokens"),
        (CrowsPairsRun(), CrowsPairsRun(variant="pseudo"), "variant"),
        (BBQRun(), BBQRun(template="{question} {context}"), "template"),
        (BBQRun(), BBQRun(per_byte=True), "per_byte"),
        (Wikitext(), Wikitext(window=64), "window"),
        (Bold(), Bold(temperature=1.0), "temperature"),
        (BestOfN(), BestOfN(n=4), "n"),
        (ForwardKl(), ForwardKl(prompt_words=8), "prompt_words"),
    ],
)
def test_options_that_change_what_is_asked_are_stored(
    benchmark: Benchmark, other: Benchmark, option: str, tmp_path: Path
) -> None:
    context = EvalContext({"m": "digest"}, lambda name: (None, None), tmp_path, 0)
    one, two = all_settings(context, benchmark), all_settings(context, other)
    assert {key for key in one if one[key] != two[key]} == {option}


def test_options_of_how_it_runs_and_which_items_are_taken_are_not(tmp_path: Path) -> None:
    settings = EvalSettings(max_new_tokens=9)
    context = EvalContext({"m": "digest"}, lambda name: (None, None), tmp_path, 0, settings=settings)
    others = replace(settings, batch_size=3, bf16=True, limit=5, items=5)
    for benchmark in (GSM8KRun(), BENCHMARKS["win_rate"], Bold(), BBQRun()):
        assert all_settings(context, benchmark) == all_settings(replace(context, settings=others), benchmark)
    assert all_settings(context, GSM8KRun(limit=3)) == all_settings(context, GSM8KRun())
    assert all_settings(context, BENCHMARKS["win_rate"]) == {"max_new_tokens": 9}  # of the answers that it scores


def test_another_window_is_refused_and_an_old_evaluation_is_not(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "pages.jsonl"
    data.write_text("".join(json.dumps(page) + "\n" for page in PAGES), encoding="utf-8")

    def evaluated(name: str, window: int, factor: float) -> Path:
        context = new_context(tmp_path / name, {"m": tiny_model(tiny_model_dir, factor)})
        run_suites(context, ["wikitext"], {"wikitext": Wikitext(str(data), window=window)})
        return context.out_dir

    first, alike, other = evaluated("a", 8, 4.0), evaluated("b", 8, 6.0), evaluated("c", 16, 6.0)
    assert not [note for note in compared(first, alike).notes if "options" in note]
    message = "were evaluated with other options of wikitext: window 8 and 16; evaluate one of them again"
    with pytest.raises(DataError, match=message):
        compared(first, other)

    path = settings_file(samples_file(other, "wikitext", "m"))
    path.unlink()  # as an evaluation of before has none
    assert f"{NOTE}wikitext" in compared(first, other).notes
    evaluated("c", 16, 6.0)  # nothing is predicted again, and it is stored
    with pytest.raises(DataError, match=message):
        compared(first, other)

    path.write_text(path.read_text(encoding="utf-8").replace("16", "8"), encoding="utf-8")
    with pytest.raises(DataError, match="its digest is not that of its settings"):
        compared(first, other)


def test_what_could_not_be_checked_is_one_line(tmp_path: Path) -> None:
    samples = {"multiple_choice": {"m": chosen([True, False, True])}, "reward_accuracy": {"m": ranked(1)}}
    a, b = (write_evaluation(tmp_path / name, samples) for name in "ab")
    lines = [note for note in compared(a, b).notes if note.startswith(NOTE)]
    assert lines == [f"{NOTE}multiple_choice, reward_accuracy"]


def test_models_of_one_evaluation_had_the_same_options(tmp_path: Path) -> None:
    out = write_evaluation(tmp_path, {"multiple_choice": {"a": chosen([True, False]), "b": chosen([True, True])}})
    assert not [note for note in compared(f"{out}:a", f"{out}:b").notes if "options" in note]
