"""Policies: merged chains, adapters as deltas, files anyone can load and nothing that names this machine."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.errors import ModelError, StorageError
from alignment.models import (
    LoraSettings,
    add_lora,
    load_policy,
    model_digest,
    new_reward_model,
    quiet,
    resolve,
    save_adapter,
    save_model,
)
from alignment.registry import ModelRegistry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNMENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


@pytest.fixture
def base(tiny_model_dir: Path) -> str:
    return f"path:{tiny_model_dir}"


def shake(model: Any, seed: int) -> None:
    """Stands for training: every trainable weight moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(24).view(2, 12)).logits  # type: ignore[no-any-return]


def store(registry: ModelRegistry, name: str, fill: Callable[[Path], None], parent: str, **given: Any) -> str:
    digest = model_digest(parent, registry)
    return registry.add(name, fill=fill, parent=parent, parent_digest=digest, **given).ref


def train_adapter(registry: ModelRegistry, name: str, parent: str, seed: int) -> tuple[str, torch.Tensor]:
    """Adds an adapter to `parent`, moves it, stores it; its reference and the logits of the unmerged model."""
    model, tokenizer = load_policy(parent, registry, adapter_config=LoraSettings(r=4))
    shake(model, seed)
    expected = logits(model)
    fill = lambda folder: save_adapter(model, tokenizer, folder)  # noqa: E731
    return store(registry, name, fill, parent, kind="adapter", role="policy"), expected


def test_a_chain_of_adapters_loads_as_one_plain_model(base: str, registry: ModelRegistry) -> None:
    from peft import PeftModel

    sft, after_sft = train_adapter(registry, "sft", base, 1)
    dpo, after_dpo = train_adapter(registry, "dpo", sft, 2)
    before = logits(load_policy(base, registry)[0])
    for ref, expected in ((sft, after_sft), (dpo, after_dpo)):
        model, _ = load_policy(ref, registry)
        assert not isinstance(model, PeftModel)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert (after_dpo - after_sft).abs().max() > 1e-2
    assert (after_sft - before).abs().max() > 1e-2
    assert [part.ref for part in resolve(dpo, registry).chain] == [resolve(base, registry).ref, sft, dpo]


def test_a_merged_model_can_be_trained_whole(base: str, registry: ModelRegistry) -> None:
    sft, _ = train_adapter(registry, "sft", base, 1)
    model, _ = load_policy(sft, registry)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_adapter_is_stored_as_its_delta(base: str, registry: ModelRegistry) -> None:
    sft, _ = train_adapter(registry, "sft", base, 1)
    dpo, _ = train_adapter(registry, "dpo", sft, 2)
    folder = registry.path(dpo)
    assert not (folder / "model.safetensors").exists()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == sft
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not [name for name in config["target_modules"] if "lm_head" in name or "embed" in name]
    for path in folder.iterdir():
        assert str(registry.root).encode() not in path.read_bytes(), path
        assert base.removeprefix("path:").encode() not in path.read_bytes() or path.name == "entry.json"


SAVE_ADAPTER = """
import sys
from pathlib import Path
import torch
from alignment.models import LoraSettings, load_policy, save_adapter
from alignment.registry import ModelRegistry

torch.manual_seed(0)
model, tokenizer = load_policy(sys.argv[1], ModelRegistry(Path("none")), adapter_config=LoraSettings(r=2))
save_adapter(model, tokenizer, Path(sys.argv[2]))
"""


def test_equal_weights_give_equal_files_in_every_process(base: str, registry: ModelRegistry, tmp_path: Path) -> None:
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}  # another order of sets
    subprocess.run([sys.executable, "-c", SAVE_ADAPTER, base, str(tmp_path / "there")], check=True, env=environment)
    torch.manual_seed(0)
    model, tokenizer = load_policy(base, registry, adapter_config=LoraSettings(r=2))
    save_adapter(model, tokenizer, tmp_path / "here")
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(names)
    assert "README.md" not in names
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name


def test_a_saved_adapter_is_one_anyone_can_load(base: str, registry: ModelRegistry, tiny_model_dir: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    sft, expected = train_adapter(registry, "sft", base, 1)
    with quiet():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), registry.path(sft))
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=0)


def test_a_fresh_adapter_changes_nothing_and_follows_the_seed(base: str, registry: ModelRegistry) -> None:
    before = logits(load_policy(base, registry)[0])

    def fresh(seed: int) -> Any:
        torch.manual_seed(seed)
        return load_policy(base, registry, adapter_config=LoraSettings())[0]

    first, again, other = fresh(1), fresh(1), fresh(2)
    assert torch.equal(logits(first), before)
    names = [name for name, parameter in first.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    state, same, different = first.state_dict(), again.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in names)
    assert not all(torch.equal(state[name], different[name]) for name in names)
    assert first.peft_config["default"].lora_alpha == 32


def test_target_modules_that_fit_nothing_list_what_there_is(base: str, registry: ModelRegistry) -> None:
    with pytest.raises(ModelError, match=r"fits nothing here; .*some of: .*down_proj.*q_proj"):
        load_policy(base, registry, adapter_config=LoraSettings(target_modules=["query"]))


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_an_adapter_on_a_tied_weight_is_refused(name: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    def model(tied: bool) -> Any:
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=tied, **sizes))

    with pytest.raises(ModelError, match=rf"target_modules: (model\.)?{name} shares its weight with .*leave it out"):
        add_lora(model(True), LoraSettings(target_modules=["q_proj", name]))
    apart = add_lora(model(False), LoraSettings(target_modules=["q_proj", name]))
    assert any(name in path and "lora_" in path for path, _ in apart.named_parameters())


def test_a_changed_base_is_noticed_by_its_adapter(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "base")
    sft, _ = train_adapter(registry, "sft", f"path:{folder}", 1)
    model, tokenizer = load_policy(f"path:{folder}", registry)
    shake(model, 3)
    save_model(model, tokenizer, folder)
    with pytest.raises(ModelError, match="other weights now than the adapter was trained on"):
        load_policy(sft, registry)


def test_an_adapter_that_does_not_fit_or_lacks_weights_is_refused(base: str, registry: ModelRegistry) -> None:
    from safetensors.torch import load_file, save_file

    sft, _ = train_adapter(registry, "sft", base, 1)
    path = registry.path(sft) / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    with pytest.raises(ModelError, match=r"sft@1: the adapter does not fit .*missing adapter keys"):
        load_policy(sft, registry)
    save_file({k: v[:1] for k, v in tensors.items()}, path)
    with pytest.raises(ModelError, match=r"sft@1: the adapter does not fit .*size mismatch"):
        load_policy(sft, registry)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"cut off or damaged; see `alignment models verify sft@1`"):
        load_policy(sft, registry)
    path.unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing"):
        load_policy(sft, registry)


def test_full_weights_survive_saving(base: str, registry: ModelRegistry) -> None:
    model, tokenizer = load_policy(base, registry)
    shake(model, 1)
    ref = store(registry, "sft", lambda folder: save_model(model, tokenizer, folder), base, kind="policy")
    again, _ = load_policy(ref, registry)
    assert torch.equal(logits(again), logits(model))
    files = set(registry.get(ref).files)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    for path in registry.path(ref).iterdir():
        if path.name != "entry.json":  # the entry names its parent, here a folder
            assert base.removeprefix("path:").encode() not in path.read_bytes(), path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(
    base: str, registry: ModelRegistry, tmp_path: Path, value: float
) -> None:
    whole, tokenizer = load_policy(base, registry)
    adapted, _ = load_policy(base, registry, adapter_config=LoraSettings(r=2))
    for model, save in ((whole, save_model), (adapted, save_adapter)):
        name, weight = [(n, w) for n, w in model.named_parameters() if w.requires_grad][-1]
        with torch.no_grad():
            weight.view(-1)[0] = value
        module = name.rpartition(".")[0].removesuffix(".default")
        with pytest.raises(ModelError, match=rf"{module}\S* has values that are not finite"):
            save(model, tokenizer, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_model_does_not_offer_its_base_weights_under_its_name(base: str, registry: ModelRegistry) -> None:
    sft, _ = train_adapter(registry, "sft", base, 1)
    model, _ = load_policy(sft, registry)
    assert (model.name_or_path, model.config._name_or_path, model.source_ref) == ("", "", sft)


def test_an_adapter_cannot_be_saved_as_full_weights(base: str, registry: ModelRegistry, tmp_path: Path) -> None:
    model, tokenizer = load_policy(base, registry, adapter_config=LoraSettings(r=2))
    with pytest.raises(TypeError, match="use save_adapter"):
        save_model(model, tokenizer, tmp_path / "out")
    del model.get_base_model().source_ref
    with pytest.raises(ValueError, match="say what it adapts with parent="):
        save_adapter(model, tokenizer, tmp_path / "out")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write files beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_weights_that_do_not_fit_on_the_disk_leave_nothing(base: str, registry: ModelRegistry) -> None:
    model, tokenizer = load_policy(base, registry)
    with largest_file(20_000), pytest.raises(StorageError, match="no space left to write"):
        registry.add("m", kind="base", fill=lambda folder: save_model(model, tokenizer, folder))
    assert registry.names() == []
    assert [path.name for path in (registry.root / ".tmp").iterdir()] == [".lock"]
    assert registry.add("m", kind="base", fill=lambda folder: save_model(model, tokenizer, folder)).ref == "m@1"


def test_loading_says_nothing(base: str, registry: ModelRegistry, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    sft, _ = train_adapter(registry, "sft", base, 1)
    new_reward_model(sft, registry, seed=1)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
