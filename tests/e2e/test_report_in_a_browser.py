"""The page of `hfx report` in a real browser, where there is one: it draws, complains of nothing, and asks nobody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from report_pages import report
from run_records import ended, step_line, steps, write_run
from seen_runs import HOSTILE

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
SWITCH = """
setTimeout(() => {
  const plots = Bokeh.documents[0].roots(), drawn = plots[0].renderers;
  const shown = () => `${drawn.filter((one) => one.visible).length} of ${drawn.length}`;
  const before = shown();
  document.querySelector("[data-run='1']").click();
  const ranges = new Set(plots.map((plot) => plot.x_range)).size;
  document.body.dataset.shown = `${before}, then ${shown()}, ranges ${ranges}`;
}, 3000);
"""
"""Takes the second run out of the charts, and says what is left, and how many x axes there are."""
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")


def drawn(page: Path, folder: Path) -> tuple[str, str, set[str]]:
    """Return what a browser makes of a page, what it says of it, and the hosts that it asks for."""
    log = folder / "net.json"
    done = subprocess.run(
        [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={folder / 'user'}",
         "--window-size=1280,4000", "--virtual-time-budget=10000", "--enable-logging=stderr", f"--log-net-log={log}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    events = json.loads(log.read_text())["events"]
    urls = [str(event.get("params", {}).get("url", "")) for event in events]
    return done.stdout, said, {match[1] for url in urls if (match := re.match(r"https?://([^/:]+)", url))}


def test_charts_are_drawn_and_nothing_is_asked_for_or_complained_of(tmp_path: Path) -> None:
    lines = [*steps(400), {"step": 200, "eval_loss": 3.0}, {"step": 400, "eval_loss": 2.0}]
    lines[50] = step_line(51, float("nan"), skipped=True)
    run = write_run(tmp_path / "$$x$$", lines, status=ended("failed", 400, HOSTILE))
    (run / "data_report.json").write_text(json.dumps({"rows": {"read": 4}, "dropped": {HOSTILE: 3}}))
    report(tmp_path, run, write_run(tmp_path / "other", steps(400, seed=1), lr=1e-3))

    page = tmp_path / "page.html"
    page.write_text(page.read_text().replace("</body>", f"<script>{SWITCH}</script></body>"))
    dom, said, hosts = drawn(page, tmp_path)
    assert dom.count('<figure class="chart') == dom.count("data-root-id") >= 6
    assert dom.count("bk-Figure") >= 6
    assert "error" not in said.lower()
    assert "refused" not in said.lower()
    assert not {"nowhere.invalid", "cdn.bokeh.org", "cdn.jsdelivr.net"} & hosts
    assert 'data-shown="4 of 4, then 2 of 4, ranges 1"' in dom
    assert "window.hostile" in dom
    assert "<img" not in dom
