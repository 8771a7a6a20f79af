"""What cannot be loaded or talked to is refused in one line; and what precision the hardware gets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from alignment.errors import ModelError
from alignment.models import autocast, autocast_bf16, check_chat_template, load_policy, load_tokenizer, pick_device
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


def test_missing_weights_are_not_filled_with_random_ones(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks 1 weights, for example {name}"):
        load_policy(f"path:{folder}", registry)
    tensors[name] = tensors[name][:1]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_policy(f"path:{folder}", registry)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "no-such-model"}', "cannot be loaded"),
        ("config.json", '{"model_type": "x", "auto_map": {"AutoModelForCausalLM": "code.Model"}}', "cannot be loaded"),
        ("tokenizer.json", "{", "tokenizer in .* cannot be read"),
        ("tokenizer_config.json", None, "has no tokenizer"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nModel = None")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_policy(f"path:{folder}", registry)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_chat_template_says_how_to_give_one(
    tiny_model_dir: Path, registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    template = folder / "chat_template.jinja"
    given = template.rename(tmp_path / "mine.jinja")
    ref = f"path:{folder}"
    with pytest.raises(ModelError, match=r"`chat_template: path/to/template\.jinja`"):
        check_chat_template(load_tokenizer(ref, registry), ref)
    _, tokenizer = load_policy(ref, registry, chat_template=given)
    check_chat_template(tokenizer, ref)
    with pytest.raises(ModelError, match=r"absent\.jinja: cannot be read"):
        load_policy(ref, registry, chat_template=tmp_path / "absent.jinja")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('system first') if messages[0]['role'] != 'system' }}", "fails .*system first"),
        ("{% for m in messages %}", "fails on user and assistant messages"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "drops the text"),
        ("{{ messages[0]['content'] }}", "drops the text"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails on user and assistant messages"),
    ],
)
def test_a_chat_template_that_does_not_work_is_refused(
    base: str, registry: ModelRegistry, template: str, message: str
) -> None:
    tokenizer = load_tokenizer(base, registry)
    check_chat_template(tokenizer, base)
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=message):
        check_chat_template(tokenizer, base)


def test_autocast_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device() in ("cpu", "cuda")
    for found, expected in (
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert autocast_bf16("cpu") is expected
        with autocast("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if expected else torch.float32)
    assert autocast_bf16("mps") is False
