"""What the README says about the tree is true."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
HIDDEN = {"__pycache__", "_shipped"}


def tree() -> dict[str, str]:
    """Folder -> its line, from the tree drawn in the README."""
    block = re.search(r"## What is where\n\n```\n(.*?)```", README, re.DOTALL)
    assert block
    found, parent = {}, ""
    for line in block[1].splitlines():
        match = re.fullmatch(r"( *)(\S+)/ +(\S.*)", line)
        assert match, line
        parent = "" if not match[1] else parent
        found[parent + match[2]] = match[3]
        parent = parent or match[2] + "/"
    return found


def test_every_folder_of_the_tree_exists_and_says_something() -> None:
    for folder, says in tree().items():
        assert (ROOT / folder).is_dir(), folder
        assert len(says) > 5


def test_every_package_folder_is_in_the_tree() -> None:
    there = {
        str(p.relative_to(ROOT))
        for top in ("alignment", "reward")
        for p in [ROOT / top, *(ROOT / top).iterdir()]
        if p.is_dir() and p.name not in HIDDEN
    }
    assert there <= set(tree())


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
