"""Finds `recipes/` and `data/`, which hold no Python, in a wheel, an sdist and a checkout."""

from pathlib import Path

from alignment.errors import DataError

BUNDLED = "bundled:"


def shipped_folder(name: str) -> Path:
    """The folder `recipes` or `data` as shipped with this installation."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_shipped" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise DataError(f"this installation has no {name}/ folder; reinstall the package")


def resolve_bundled(source: str) -> Path:
    """`bundled:quickstart/rankings.jsonl` -> the file inside the shipped `data/` folder."""
    relative = source.removeprefix(BUNDLED)
    root = shipped_folder("data")
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"{source}: a bundled path must stay inside data/")
    if not path.exists():
        names = sorted(str(p.relative_to(root)) for p in root.rglob("*.jsonl"))
        raise DataError(f"{source}: no such bundled file; there are: {', '.join(names)}")
    return path
