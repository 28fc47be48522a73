"""A page as text: escaped parts, and the JSON behind every number, kept in the page itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from megatron_ettin.evaluate.page.style import STYLE_SHEET


@dataclass
class Evidence:
    """The JSON that numbers link to, each entry once, in the order of first use."""

    entries: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Title -> (anchor, JSON)."""

    def anchor(self, title: str, data: Any) -> str:  # noqa: ANN401 - any JSON
        """The anchor of an entry, which is made where there is none. Raises ValueError for other data of one title."""
        if title not in self.entries:
            anchor = "json-" + re.sub(r"[^\w.-]+", "-", title).strip("-").lower()
            taken = {known for known, _ in self.entries.values()}
            others = (f"{anchor}-{number}" for number in range(2, len(taken) + 2))
            self.entries[title] = (next(name for name in (anchor, *others) if name not in taken), data)
        anchor, known = self.entries[title]
        if known != data:
            raise ValueError(f"{title!r} is the title of two entries")
        return anchor

    def link(self, text: str, title: str, data: Any) -> str:  # noqa: ANN401 - any JSON
        """``text`` as a link to the entry."""
        return f'<a href="#{self.anchor(title, data)}">{escape(text)}</a>'

    def section(self) -> str:
        """All entries."""
        blocks = (
            f'<div class="evidence" id="{anchor}"><h3>{escape(title)}</h3>'
            f"<pre tabindex=\"0\">{escape(json.dumps(data, indent=1, ensure_ascii=False))}</pre></div>"
            for title, (anchor, data) in self.entries.items()
        )
        return "\n".join(blocks)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of a page."""

    title: str
    body: str
    """HTML."""

    @property
    def anchor(self) -> str:
        """For the list of contents."""
        return "part-" + re.sub(r"[^\w]+", "-", self.title).strip("-").lower()


def page(title: str, lead: str, parts: Sequence[Part], evidence: Evidence) -> str:
    """The whole file. ``lead`` is text below the title."""
    parts = [*parts, Part(title="The JSON behind the numbers", body=evidence.section())]
    contents = "".join(f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in parts)
    sections = "\n".join(
        f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>\n{part.body}\n</section>' for part in parts
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE_SHEET}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{escape(lead)}</p>\n<nav aria-label="Contents"><ul>{contents}</ul></nav>\n{sections}\n'
        "</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself on a narrow page. ``head`` and first cells are text, others whole cells."""
    titles = "".join(f'<th scope="col">{breakable(title)}</th>' for title in head)
    lines = "\n".join(
        f'<tr><th scope="row">{breakable(first)}</th>{"".join(cells)}</tr>' for first, *cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def breakable(name: str) -> str:
    """Text that may go on in another line behind an underscore."""
    return escape(name).replace("_", "_<wbr>")


def cell(body: str, kind: str = "") -> str:
    """A cell of HTML."""
    return f'<td class="{kind}">{body}</td>' if kind else f"<td>{body}</td>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """A list of HTML lines."""
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def figures(drawn: Iterable[str]) -> str:
    """Pictures beside each other, below each other where the page is narrow."""
    return '<div class="figures">' + "\n".join(drawn) + "</div>"
