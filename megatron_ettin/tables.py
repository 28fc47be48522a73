"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: int = 2, least: Sequence[int] = (), rule: bool = True) -> str:
    """Rows with a head: the first ``left`` columns to the left, figures to the right.

    ``least`` holds least widths of the columns; ``rule`` draws a line below the head.
    """
    columns = range(len(rows[0]))
    least = least or [0] * len(columns)
    widths = [max(least[column], *(len(row[column]) for row in rows)) for column in columns]
    lines = [
        "  ".join(row[i].ljust(widths[i]) if i < left else row[i].rjust(widths[i]) for i in columns).rstrip()
        for row in rows
    ]
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def pairs(lines: Sequence[tuple[str, str]]) -> str:
    """Names and what they are, in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
