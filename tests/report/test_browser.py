"""The page in a real browser: nothing is wider than a phone, nothing is blocked, nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--virtual-time-budget=3000",
]
# A page around the report measures it from outside: the report itself allows no script.
FRAME = """<!doctype html><iframe id="report" src="{source}" style="width:{width}px;height:2000px;border:0"></iframe>
<p id="found"></p><script>
document.getElementById("report").onload = event => {{
  const page = event.target.contentDocument.documentElement;
  document.getElementById("found").textContent = "width " + page.scrollWidth + " height " + page.scrollHeight;
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("report", ["built", "built_suites"])
def test_no_sideways_scrolling(width: int, report: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    page: Path = request.getfixturevalue(report)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(source=(page / "index.html").as_uri(), width=width))
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"width (\d+) height (\d+)", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    assert int(found[1]) <= width
    assert int(found[2]) > 2000  # the whole report, not an empty page
