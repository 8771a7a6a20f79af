"""Benchmarks end to end on the tiny model."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import DataError, RecipeError, StorageError
from alignment.evaluation.benchmarks import BENCHMARKS
from alignment.evaluation.benchmarks.benchmark import Benchmark, samples_file
from alignment.evaluation.benchmarks.bias.bias_pairs import BiasPairs
from alignment.evaluation.benchmarks.forgetting.bits_per_byte import BitsPerByte
from alignment.evaluation.benchmarks.forgetting.multiple_choice import MultipleChoice
from alignment.evaluation.benchmarks.helpfulness.win_rate import WinRate
from alignment.evaluation.benchmarks.reward.reward_accuracy import RewardAccuracy
from alignment.evaluation.result import EvalResult
from alignment.evaluation.suite import EvalContext, EvalSettings, run_suites
from alignment.evaluation.suites import SUITES as EVERY_SUITE
from alignment.preferences.record import (
    Annotator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    judgement_id,
)
from reward.rules import RuleScorer

SUITES = ["helpfulness", "bias", "forgetting"]
PAIRS = [
    {"id": "b1", "category": "age", "stereotypical": "the cat sat", "counter": "the dog sat"},
    {"id": "b2", "category": "age", "stereotypical": "a cat ran", "counter": "a cat ran"},
    {"id": "b3", "category": "rank", "stereotypical": "a dog", "counter": "the mat and the ball"},
]
TEXTS = [{"id": f"t{i}", "text": text} for i, text in enumerate(["the cat sat on the mat", "why not", "après"])]
CHOICES = [
    {"id": f"m{i}", "question": f"what is {i} and {i}?", "choices": ["one", "two", "four", "six"], "answer": i % 4}
    for i in range(6)
]


def record(question: str, texts: Sequence[str], orders: Sequence[Sequence[Sequence[int]]]) -> PreferenceRecord:
    """`orders`: per annotator the tiers of positions, best first."""
    responses = tuple(Response(messages=(Message(role="assistant", content=text),)) for text in texts)
    judgements = tuple(
        Judgement(
            id=judgement_id(question, f"a{n}"),
            annotator=Annotator(id=f"a{n}", kind="human"),
            orders=(Order(tiers=tuple(tuple(responses[i].id for i in tier) for tier in tiers)),),
        )
        for n, tiers in enumerate(orders)
    )
    prompt = Prompt(messages=(Message(role="user", content=question),))
    return PreferenceRecord(prompt=prompt, responses=responses, judgements=judgements)


# Pairs decided by a majority: r1 0>1, 0>2, 2>1; r2 1>0; r3 none (split); r4 has one response only.
RECORDS = [
    record("why?", ["aaaa", "a", "aaa"], [[[0], [2], [1]], [[0], [1, 2]], [[0], [2], [1]]]),
    record("who?", ["bb", "b"], [[[1], [0]]]),
    record("how?", ["cc", "c"], [[[1], [0]], [[0], [1]]]),
    record("what?", ["d"], []),
]


class Broken:
    """A scorer that gives no number for some responses."""

    name = "broken"

    def score(self, prompts: Sequence[Any], responses: Sequence[str]) -> Any:
        return np.array([math.nan if text in ("bb", "b") else 1.0 for text in responses], dtype=np.float32)


def write_probes(folder: Path) -> dict[str, Benchmark]:
    paths = {}
    for name, rows in (("pairs", PAIRS), ("texts", TEXTS), ("choices", CHOICES)):
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return {
        "reward_accuracy": RewardAccuracy(),
        "win_rate": WinRate(),
        "bias_pairs": BiasPairs(paths["pairs"]),
        "bits_per_byte": BitsPerByte(paths["texts"]),
        "multiple_choice": MultipleChoice(paths["choices"]),
    }


class Loader:
    """Loads the tiny model under any name, and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.loaded = folder, list[str]()

    def __call__(self, name: str) -> tuple[Any, Any]:
        self.loaded.append(name)
        return AutoModelForCausalLM.from_pretrained(self.folder).eval(), AutoTokenizer.from_pretrained(self.folder)


def new_context(folder: Path, model: Path) -> EvalContext:
    return EvalContext(
        models={"base": "1", "sft": "1", "dpo": "1"},
        load=Loader(model),
        out_dir=folder / "run" / "stages" / "evaluate",
        run_dir=folder / "run",
        seed=0,
        records=RECORDS,
        scorers={
            "reward": RuleScorer("length"),
            "plain": RuleScorer("plain"),
            "reference_f1": RuleScorer("reference_f1", {"why?": "aaaa", "who?": "b"}),
        },
        trained_scorers=frozenset({"reward"}),
        references={"why?": "aaaa", "who?": "b"},
        settings=EvalSettings(max_new_tokens=6, bf16=False),
        say=lambda line: None,
    )


@pytest.fixture
def probes(tmp_path: Path) -> dict[str, Benchmark]:
    return write_probes(tmp_path)


@pytest.fixture
def context(tiny_model_dir: Path, tmp_path: Path) -> EvalContext:
    """Without a trained scorer: the bootstrap of its correlation with length takes most of a tiny evaluation's time."""
    return replace(new_context(tmp_path, tiny_model_dir), trained_scorers=frozenset())


@dataclass(frozen=True)
class Finished:
    """An evaluation of three models that share their weights, to look at."""

    context: EvalContext
    probes: dict[str, Benchmark]
    results: list[EvalResult]

    def rows(self, benchmark: str, subject: str) -> list[dict[str, Any]]:
        path = samples_file(self.context.out_dir, benchmark, subject)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    context, probes = new_context(folder, tiny_model_dir), write_probes(folder)
    return Finished(context, probes, run_suites(context, SUITES, probes))


def find(results: Sequence[EvalResult], metric: str, model: str, group: str | None = None) -> EvalResult:
    own = [r for r in results if r.benchmark != "forgetting"]  # its acc is of several benchmarks
    [found] = [r for r in own if (r.metric, r.model, r.group) == (metric, model, group)]
    return found


def test_three_models_with_the_same_weights_differ_in_nothing(finished: Finished) -> None:
    results = finished.results
    for model in ("base", "dpo"):
        for scorer, n in (("reward", 4), ("plain", 4), ("reference_f1", 2)):
            wins = find(results, f"win_rate/{scorer}", model)
            assert (wins.value, wins.ci_low, wins.ci_high) == (0.5, None, None)  # ties only
            assert (wins.n_scored, wins.n_unscored) == (n, 4 - n)
            assert wins.compared_to == "sft"
            assert find(results, f"tie_rate/{scorer}", model).value == 1.0
            assert find(results, f"score_difference/{scorer}", model).value == 0.0
        assert find(results, "length_difference", model).value == 0.0
        assert find(results, "stereotype_share_difference", model).value == 0.0
    for model in ("sft", "dpo"):
        for metric in ("bits_per_byte_difference", "acc_difference", "acc_norm_difference"):
            found = find(results, metric, model)
            assert (found.value, found.ci_low, found.ci_high, found.compared_to) == (0.0, None, None, "base")
    # a model is not compared with itself, and no result claims what it is not
    assert not [r for r in results if r.compared_to == r.model]
    assert "not evidence alone" in find(results, "win_rate/reward", "dpo").label
    assert {(r.benchmark, r.metric) for r in results if r.primary and r.group is None} == {
        ("reward_accuracy", "accuracy"),
        ("win_rate", "win_rate/plain"),  # not the reward model's, though it is listed first
        ("bias_pairs", "stereotype_share"),
        ("bits_per_byte", "bits_per_byte"),
        ("multiple_choice", "acc"),
        ("forgetting", "acc_difference"),
    }


def test_one_primary_number_per_benchmark_and_model(finished: Finished) -> None:
    results = finished.results
    counts = Counter((r.benchmark, r.model) for r in results if r.primary and r.group is None)
    assert set(counts.values()) == {1}


def test_what_is_written(finished: Finished) -> None:
    results, context = finished.results, finished.context
    lines = (context.out_dir / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [EvalResult.model_validate_json(line) for line in lines] == results
    assert context.run_dir is not None
    for result in results:
        assert (result.samples_path is None) == (result.benchmark == "forgetting")
        if result.samples_path is None:
            continue
        rows = [json.loads(line) for line in (context.run_dir / result.samples_path).read_text().splitlines()]
        assert rows
        assert all("id" in row for row in rows)
    generations = [json.loads(line) for line in (context.out_dir / "generations.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in generations] == [
        [{"role": "user", "content": text}] for text in ("why?", "who?", "how?", "what?")
    ]
    assert [row["reference"] for row in generations] == ["aaaa", "b", None, None]
    for row in generations:
        assert list(row["responses"]) == ["base", "sft", "dpo"]
        assert set(row["scores"]) == set(context.scorers)
        assert row["scores"]["reward"]["dpo"] == len(row["responses"]["dpo"])
    assert generations[3]["scores"]["reference_f1"] == {"base": None, "sft": None, "dpo": None}
    assert not list(context.out_dir.rglob("*.tmp"))


def test_the_trained_reward_model_on_rankings(finished: Finished) -> None:
    results = finished.results
    # length orders 0>1, 0>2, 2>1 right and 1>0 of the second record wrong; the third record has no majority
    accuracy = find(results, "accuracy", "reward")
    assert (accuracy.value, accuracy.n_scored, accuracy.n_unscored) == (0.75, 4, 0)
    assert "1 compared pairs without a majority" in accuracy.method
    assert "clusters" in accuracy.method
    assert find(results, "prefer_shorter", "reward").value == 0.25
    # ballots of r1: 0>1 and 0>2 three times each, agreed; 2>1 twice and a tie (two agree, the tie counts 1/2);
    # r3: each annotator against the other
    ceiling = find(results, "annotator_agreement", "reward")
    assert ceiling.n_scored == 11
    assert ceiling.value == pytest.approx((6 + 1 + 1 + 0.5 + 0 + 0) / 11)
    assert find(results, "length_correlation", "reward").value == pytest.approx(1.0)
    # differences 3 and 1 with all votes for the order given, 2 with two votes and a tie, 1 with none, and 1 (r3) with
    # one of two: bins 0.9-1, 0.8-0.9, and 0.7-0.8 with three pairs
    sure = {d: 1 / (1 + math.exp(-d)) for d in (1, 2, 3)}
    expected = (abs(1 - sure[3]) + abs(1 - sure[1] + 0 - sure[1] + 0.5 - sure[1]) + abs(2.5 / 3 - sure[2])) / 5
    assert find(results, "calibration_error", "reward").value == pytest.approx(expected)
    # rules are measured too, but not the one whose reference is one of the ranked responses
    assert find(results, "accuracy", "plain").value == 0.5
    assert not [r for r in results if r.model == "reference_f1"]


def test_a_response_without_a_score_is_unscored_not_wrong(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    broken = replace(context, scorers={"broken": Broken()}, trained_scorers=frozenset({"broken"}))
    results = run_suites(broken, ["helpfulness"], probes)
    accuracy = find(results, "accuracy", "broken")
    assert (accuracy.value, accuracy.n_scored, accuracy.n_unscored) == (0.5, 3, 1)


def test_bias_counts_by_hand(finished: Finished) -> None:
    results = finished.results
    rows = finished.rows("bias_pairs", "dpo")
    preferred = sum(row["stereotypical"] > row["counter"] for row in rows)
    share = find(results, "stereotype_share", "dpo")
    assert (share.value, share.n_scored) == (preferred / 3, 3)
    assert "1 ties count as not preferring" in share.method
    assert find(results, "stereotype_share", "dpo", "age").n_scored == 2
    assert share.higher_is_better is None
    sizes = [abs(row["stereotypical"] - row["counter"]) for row in rows]
    assert find(results, "mean_abs_log_ratio", "dpo").value == pytest.approx(sum(sizes) / 3)


def test_bits_per_byte_by_hand(finished: Finished) -> None:
    results = finished.results
    rows = finished.rows("bits_per_byte", "base")
    assert [row["bytes"] for row in rows] == [22, 7, 6]
    found = find(results, "bits_per_byte", "base")
    assert found.value == pytest.approx(sum(row["bits"] for row in rows) / 35)
    # an untrained model is near a uniform guess over its 300 tokens
    assert [row["bits"] / row["tokens"] for row in rows] == pytest.approx([math.log2(300)] * 3, rel=0.1)


def test_a_finished_evaluation_is_not_made_again(finished: Finished) -> None:
    again = replace(finished.context, load=Loader(Path("nowhere")))
    assert run_suites(again, SUITES, finished.probes) == finished.results
    assert again.load.loaded == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["model", "scorer", "settings", "seed", "probe"])
def test_what_changed_is_made_again(context: EvalContext, probes: dict[str, Benchmark], change: str) -> None:
    suites = ["helpfulness"] if change in ("scorer", "settings") else ["bias"]
    run_suites(context, suites, probes)
    loader: Any = context.load
    loader.loaded.clear()
    changed = {
        "model": replace(context, models={"base": "1", "sft": "2", "dpo": "1"}),
        "scorer": replace(context, scorer_ids={"reward": "another"}),
        "settings": replace(context, settings=EvalSettings(max_new_tokens=7, bf16=False)),
        "seed": replace(context, seed=1),
        "probe": context,
    }[change]
    if change == "probe":
        path = Path(probes["bias_pairs"].data)  # type: ignore[attr-defined]
        path.write_text(path.read_text().replace("ran", "sat"), encoding="utf-8")
    run_suites(changed, suites, probes)
    made = {"model": ["sft"], "scorer": []}.get(change, ["base", "sft", "dpo"])  # another scorer: no answer again
    assert loader.loaded == made


def test_a_killed_evaluation_loses_one_benchmark_of_one_model(
    context: EvalContext, probes: dict[str, Benchmark]
) -> None:
    expected = run_suites(replace(context, out_dir=context.out_dir.with_name("whole")), SUITES, probes)

    class Killed(BitsPerByte):
        def predict(self, context: EvalContext, subject: str, model: Any) -> list[dict[str, Any]]:
            if subject == "sft":
                raise KeyboardInterrupt
            return super().predict(context, subject, model)

    path = probes["bits_per_byte"].data  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        run_suites(context, SUITES, {**probes, "bits_per_byte": Killed(path)})
    # kill -9 between the samples and their key, and in the middle of a line
    samples_file(context.out_dir, "bias_pairs", "sft").with_suffix(".key").unlink()
    half = samples_file(context.out_dir, "bits_per_byte", "sft")
    half.with_name(f".{half.name}.tmp").write_text('{"id": "t0", "bi')
    made: list[str] = []
    loader: Any = context.load
    loader.loaded.clear()
    results = run_suites(replace(context, say=made.append), SUITES, probes)
    assert loader.loaded == ["sft", "dpo"]
    assert "win_rate_answers: sft: predictions reused" in made
    assert [line for line in made if "3 items" in line and "sft" in line] != []
    assert [r.model_dump(exclude={"samples_path"}) for r in results] == [
        r.model_dump(exclude={"samples_path"}) for r in expected
    ]


def test_each_model_is_loaded_once_and_let_go(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    import weakref

    alive: list[weakref.ref[Any]] = []

    def load(name: str) -> tuple[Any, Any]:
        assert not [one for one in alive if one() is not None], "the model before is still in memory"
        model, tokenizer = context.load(name)
        alive.append(weakref.ref(model))
        return model, tokenizer

    run_suites(replace(context, load=load), ["bias", "forgetting"], probes)
    assert len(alive) == 3


def test_unknown_names(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    with pytest.raises(RecipeError, match="unknown suite 'helpfullness'; did you mean 'helpfulness'"):
        run_suites(context, ["helpfullness"], probes)
    with pytest.raises(RecipeError, match="unknown baseline 'stf'; did you mean 'sft'"):
        run_suites(replace(context, baseline="stf"), ["bias"], probes)
    with pytest.raises(RecipeError, match="unknown scorer 'x'; there are: reward, plain, reference_f1"):
        run_suites(replace(context, trained_scorers=frozenset({"x"})), ["bias"], probes)


def test_what_cannot_be_run_is_said(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    said: list[str] = []
    results = run_suites(replace(context, records=(), say=said.append), ["helpfulness"], probes)
    assert results == []
    assert [line for line in said if "skipped" in line] == [
        "reward_accuracy: skipped, it needs a scorer and held-out records with at least two responses",
        "win_rate: skipped, there are no held-out prompts",
    ]


def test_a_prompt_is_asked_once_and_the_limit_holds(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    twice = [*RECORDS, record("why?", ["other", "responses"], [[[0], [1]]])]
    run_suites(replace(context, records=twice), ["helpfulness"], probes)
    assert len((context.out_dir / "generations.jsonl").read_text().splitlines()) == 4
    limited = replace(context, settings=EvalSettings(max_new_tokens=6, limit=2))
    run_suites(limited, ["helpfulness"], probes)
    assert len((context.out_dir / "generations.jsonl").read_text().splitlines()) == 2


def test_a_prompt_that_does_not_fit_is_counted(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    long = record("x " * 400, ["a", "b"], [[[0], [1]]])
    results = run_suites(replace(context, records=[*RECORDS, long]), ["helpfulness"], probes)
    wins = find(results, "win_rate/plain", "dpo")
    assert (wins.n_scored, wins.n_unscored) == (4, 1)
    assert find(results, "response_tokens", "dpo").n_unscored == 1


def test_items_that_do_not_fit_are_counted(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    long = "x " * 400
    rows: dict[str, dict[str, Any]] = {
        "bias_pairs": {**PAIRS[0], "id": "long", "counter": long},
        "bits_per_byte": {"id": "long", "text": long},
        "multiple_choice": {**CHOICES[0], "id": "long", "choices": ["one", long]},
    }
    for name, row in rows.items():
        with Path(probes[name].data).open("a") as stream:  # type: ignore[attr-defined]
            stream.write(json.dumps(row) + "\n")
    results = run_suites(context, ["bias", "forgetting"], probes)
    for metric, n in (
        ("stereotype_share", 3),
        ("stereotype_share_difference", 3),
        ("mean_abs_log_ratio", 3),
        ("bits_per_byte", 3),
        ("bits_per_byte_difference", 3),
        ("acc", 6),
        ("acc_norm_difference", 6),
    ):
        found = find(results, metric, "dpo")
        assert (found.n_scored, found.n_unscored) == (n, 1), metric


def test_a_reference_as_a_path_cannot_leave_the_folder(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    names = ["hf:org/model@main", "../../up"]
    hostile = replace(context, models=dict.fromkeys(names, "1"), baseline=names[0])
    results = run_suites(hostile, ["forgetting"], probes)
    assert {r.model for r in results} == set(names)
    inside = {path.name for path in (context.out_dir / "samples" / "bits_per_byte").glob("*.jsonl")}
    assert inside == {"hf%3Aorg%2Fmodel@main.jsonl", "..%2F..%2Fup.jsonl"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "text": 3}', "line 1: text: Input should be a valid string"),
        ("{", "line 1: Invalid JSON"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "line 2: id 'a' is there twice"),
        ("", "no items"),
    ],
)
def test_a_broken_probe_file(context: EvalContext, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "probe.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run_suites(context, ["forgetting"], {"bits_per_byte": BitsPerByte(str(path))})
    with pytest.raises(DataError, match="no such probe file"):
        run_suites(context, ["forgetting"], {"bits_per_byte": BitsPerByte(str(tmp_path / "none.jsonl"))})


def test_an_answer_that_is_no_choice(context: EvalContext, tmp_path: Path) -> None:
    path = tmp_path / "probe.jsonl"
    path.write_text(json.dumps({**CHOICES[0], "answer": 4}), encoding="utf-8")
    with pytest.raises(DataError, match="line 1: Value error, answer 4 is none of the 4 choices"):
        run_suites(context, ["forgetting"], {"multiple_choice": MultipleChoice(str(path))})


def test_a_disk_that_refuses(context: EvalContext, probes: dict[str, Benchmark]) -> None:
    context.out_dir.parent.mkdir(parents=True)
    context.out_dir.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot write"):
        run_suites(context, ["bias"], probes)


def test_the_table_and_the_bundled_probes() -> None:
    assert list(BENCHMARKS) == [benchmark.name for benchmark in BENCHMARKS.values()]
    for benchmark in BENCHMARKS.values():
        assert benchmark.suite in (*EVERY_SUITE, benchmark.name)  # one of its own: only where it is named
        assert benchmark.__doc__
        data = getattr(benchmark, "data", ())
        if isinstance(data, str):
            from alignment.evaluation.benchmarks.probes import probe_path

            assert probe_path(data).is_file()


def test_numbers_come_from_the_samples_alone(finished: Finished) -> None:
    """No model, no scorer: every benchmark scores what was read back from disk."""
    bare = replace(finished.context, records=(), load=lambda name: pytest.fail("loaded"))
    found: list[EvalResult] = []
    for benchmark in finished.probes.values():
        subjects = benchmark.subjects(finished.context)
        found += benchmark.score(bare, {subject: finished.rows(benchmark.name, subject) for subject in subjects})
    own = [r.model_copy(update={"p_value": None}) for r in finished.results if r.benchmark != "forgetting"]
    assert found == own  # tests and the forgetting measures are made of several benchmarks' samples
