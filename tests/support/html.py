"""What a page must be: well formed, nothing from elsewhere, every number with a link that leads somewhere."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=10000",
)  # fmt: skip


class Structure(HTMLParser):
    """Tags, anchors, links and bare numbers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.bare: list[str] = []
        """Numbers in cells of tables that link nowhere."""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note ids, links and whatever a browser would fetch."""
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href"):
                self.links.append(value or "")
            elif name in ("src", "srcset", "data", "action", "poster"):
                self.resources.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """As a start tag that nothing closes."""
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Tags close in the order in which they were opened."""
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        """Note numbers of cells outside of links and of the small print below them."""
        if "td" in self.open and not {"a", "small"} & set(self.open) and re.search(r"\d", data):
            self.bare.append(data)


def assert_sound(text: str) -> Structure:
    """The page stands by itself; every anchor exists once; every number in a table links to its JSON."""
    found = Structure(text)
    assert found.open == [], found.open
    assert [link for link in found.links if not link.startswith("#")] == [] and found.resources == []
    assert "@import" not in text and "url(http" not in text and "<script" not in text
    assert sorted(found.ids) == sorted(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert found.bare == []
    return found


def browser() -> str | None:
    """Chromium, where it is installed."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


def widths(page: str, width: int, folder: Path) -> tuple[int, int, list[float]]:
    """(width that the page needs, height, smallest heights of letters in pixels by plot) on a screen of ``width``."""
    measuring = (
        "const page = document.querySelector('iframe').contentDocument, root = page.documentElement;"
        "const letters = [...page.querySelectorAll('svg')].map(svg => Math.min(...[...svg.querySelectorAll('text')]"
        ".map(text => parseFloat(page.defaultView.getComputedStyle(text).fontSize)"
        " * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)));"
        "document.body.innerHTML = ['measured', root.scrollWidth, root.scrollHeight, letters.join(',')].join(' ');"
    )
    outer = folder / f"measure-{width}.html"
    outer.write_text(
        f'<!doctype html><body><iframe width="{width}" height="844" style="border:0" srcdoc="{html.escape(page)}">'
        f"</iframe><script>window.onload = () => {{ {measuring} }};</script></body>"
    )
    command = [str(browser()), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    measured = re.search(r"measured (\d+) (\d+) ([\d.,]*)", shown)
    assert measured, shown[-2000:]
    return int(measured[1]), int(measured[2]), [float(size) for size in measured[3].split(",") if size]
