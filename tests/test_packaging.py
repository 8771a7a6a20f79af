"""The wheel holds the packages, the recipes and the data, and finds them away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_what_the_readme_promises(unpacked: Path) -> None:
    shipped = unpacked / "alignment/_shipped"
    assert (shipped / "recipes/quickstart.yaml").is_file()
    assert (shipped / "data/quickstart/rankings.jsonl").is_file()
    assert (shipped / "data/preference.schema.json").is_file()
    assert not list(shipped.rglob("*.py"))
    assert list((unpacked / "alignment/report/templates").glob("*.html"))
    metadata = next(unpacked.glob("*.dist-info/METADATA")).read_text()
    for extra in ("demo", "tracking", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


def test_recipes_are_listed_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alignment.cli", "recipes", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    assert {"quickstart", "hh-harmless/full"} <= {row["name"] for row in rows}
    assert all(Path(row["path"]).is_relative_to(unpacked) for row in rows)
