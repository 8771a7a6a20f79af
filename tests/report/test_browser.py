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
  const boxes = [...page.querySelectorAll(".box")].map(box => box.offsetWidth);
  document.getElementById("found").textContent = "width " + page.scrollWidth + " height " + page.scrollHeight
    + " boxes " + boxes.join(" ");
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("report", ["built", "built_suites"])
def test_no_sideways_scrolling(width: int, report: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    page: Path = request.getfixturevalue(report)
    found = measured(page / "index.html", width, tmp_path)
    assert int(found[1]) <= width
    assert int(found[2]) > 2000  # the whole report, not an empty page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_no_model_of_a_long_chain_is_squeezed(built: Path, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    more = '<ul><li><div class="box"><p>more</p></div>{}</li></ul>'
    text = (built / "index.html").read_text(encoding="utf-8")
    head, chain = text.split('<ul class="chain">')
    page.write_text(
        head
        + '<ul class="chain">'
        + chain.replace("</div>\n</li>", "</div>" + more.format(more.format("")) + "</li>", 1)
    )
    found = measured(page, 1000, tmp_path)
    assert int(found[1]) <= 1000
    widths = found[3].split()
    assert len(widths) > 4
    assert len(set(widths)) == 1


def measured(page: Path, width: int, folder: Path) -> re.Match[str]:
    """Width and height of a page, and the widths of the models in its chain."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(source=page.as_uri(), width=width))
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"width (\d+) height (\d+) boxes ([\d ]+)", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return found
