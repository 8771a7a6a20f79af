import importlib
import json
import math
from pathlib import Path

import pytest

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import samples_file
from alignment.evaluation.benchmarks.forgetting.wikitext import NOT_RAW, Wikitext, detokenised, documents
from alignment.evaluation.stored import STORED
from alignment.evaluation.stored.rows import Row, read_text
from tests.evaluation.benchmarks.run_small import run_small, small_context

FILE = """
 = The cat =

 The cat , known as " the cat " , sat on the mat for 2 @.@ 5 days ( or 1 @,@ 000 @-@ odd ) .

 = = Later = =

 It 's the dog 's mat = = = =

 = The dog =

 Not <unk> !
"""


def test_documents_begin_at_their_headings() -> None:
    cat, dog = documents(FILE)
    assert cat.startswith(" = The cat =\n")
    assert "= = Later = =" in cat
    assert dog == " = The dog =\n\n Not <unk> !\n"
    assert documents("\n \n") == []
    assert documents("no heading") == ["no heading"]


def test_published_file(real_data: Path) -> None:
    text = read_text(real_data / "wikitext2" / "valid.txt")
    found = documents(text)
    assert len(found) == 60  # documents of wikitext-2's validation split
    assert "\n".join(found).strip() == text.strip()
    assert all(document.startswith(" = ") for document in found)


def test_detokenised_as_lm_eval_does(real_data: Path) -> None:
    pytest.importorskip("lm_eval")
    theirs = importlib.import_module("lm_eval.tasks.wikitext.preprocess_wikitext").wikitext_detokenizer
    for document in [*documents(FILE), *documents(read_text(real_data / "wikitext2" / "valid.txt"))]:
        assert detokenised(document) == theirs({"page": document})


def test_detokenised_by_hand() -> None:
    text = ' The cat , " the mat " ( 1 @,@ 000 ) 2 @.@ 5 @-@ odd . It \'s \n = = B = = \n'
    assert detokenised(text) == ' The cat, "the mat" (1,000) 2.5-odd. It\'s\n== B ==\n'


def test_numbers_by_hand(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text(FILE, encoding="utf-8")
    context = small_context(tmp_path, tiny_model_dir)
    benchmark = Wikitext(data=str(path), window=16)
    found = run_small(context, benchmark)
    stored = samples_file(context.out_dir, "wikitext", "base")
    rows = [json.loads(line) for line in stored.read_text(encoding="utf-8").splitlines()]
    pages = documents(FILE)
    assert [row["words"] for row in rows] == [len(page.split()) + 2 for page in pages]  # "" at both ends, as lm-eval
    assert [row["bytes"] for row in rows] == [len(page.encode()) for page in pages]
    nats = -sum(row["logprob"] for row in rows)
    n_bytes, words = (sum(row[key] for row in rows) for key in ("bytes", "words"))
    values = {metric: found["base", metric, None] for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")}
    assert values["word_perplexity"].value == pytest.approx(math.exp(nats / words))
    assert values["byte_perplexity"].value == pytest.approx(math.exp(nats / n_bytes))
    assert values["bits_per_byte"].value == pytest.approx(nats / n_bytes / math.log(2))
    change = found["sft", "bits_per_byte_difference", None]
    assert change.value == pytest.approx(found["sft", "bits_per_byte", None].value - values["bits_per_byte"].value)  # type: ignore[operator]
    assert change.compared_to == "base"
    assert all(NOT_RAW in result.method for result in found.values())
    [measure] = benchmark.measures(rows)
    assert measure.value() == pytest.approx(values["bits_per_byte"].value)
    # the samples are documents of `alignment score perplexity`
    scored = STORED["perplexity"].score(STORED["perplexity"].read([stored], {}).items, seed=0)
    assert {r.metric: r.value for r in scored}["word_perplexity"] == values["word_perplexity"].value


def test_a_raw_text_carries_no_warning_and_rows_have_pages(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"page": f"the cat sat {n}"}) + "\n" for n in range(3)), encoding="utf-8")
    context = small_context(tmp_path, tiny_model_dir, ("base",))
    found = run_small(context, Wikitext(data=str(path), limit=2))
    assert found["base", "bits_per_byte", None].n_scored == 2
    assert NOT_RAW not in found["base", "bits_per_byte", None].method
    assert Wikitext().settings(context) != Wikitext(window=8).settings(context)
    for bad in ({"page": " "}, {"text": "a"}):
        with pytest.raises(DataError, match="f:1: `page` must be the text"):
            Wikitext().parse([Row("f:1", bad)], published=True)
