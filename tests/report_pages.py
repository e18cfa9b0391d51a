"""Pages of `hfx report`, read as a browser reads them."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from command_line import hfx

LARGEST = 3 * 2**20
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text outside of scripts, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: Counter[str] = Counter()
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._inside.append(tag)
        for name, value in attrs:
            if name in LOADING and not (value or "").startswith(("#", "data:")):
                self.loads.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside[-1:]):
            self.text += " " + " ".join(data.split())


def report(folder: Path, *runs: str | Path, **environ: str) -> Page:
    """Write a report as `page.html` in a folder; return it, once it is sure that it loads nothing."""
    done = hfx("report", *map(str, runs), "--output", str(folder / "page.html"), **environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {folder / 'page.html'}\n"
    html = (folder / "page.html").read_text()
    assert len(html.encode()) < LARGEST
    page = Page(html)
    assert (page.loads, page.handlers) == ([], [])
    charts = "data-root-id" in html
    assert page.tags["script"] == (5 if charts else 2)  # the theme, bokeh and its log, the charts, the page's own
    assert page.tags["style"] == 1
    return page
