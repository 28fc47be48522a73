"""How a page looks: light and dark, wide and narrow."""

from __future__ import annotations

from megatron_ettin.observe.plot import COLORS

DIMMED = ("#56B4E9", "#F0884A", "#3CC79B", "#E3A6C8", "#F2C14E", "#9AD0F5", "#A6A6A6", "#E6E6E6")
"""COLORS for a dark ground, in their order."""


def _colors(colors: tuple[str, ...]) -> str:
    return " ".join(f"--series-{number}: {color};" for number, color in enumerate(colors))


LIGHT = f"--ground: #ffffff; --raised: #f5f6f8; --ink: #1c1f23; --quiet: #59616b; --line: #d9dde2; {_colors(COLORS)}"
DARK = f"--ground: #15181c; --raised: #1f242a; --ink: #e6e9ed; --quiet: #a3acb8; --line: #363d46; {_colors(DIMMED)}"

STYLE_SHEET = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
main {{ max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin: 0 0 .5rem; }}
h2 {{ font-size: 1.3rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.05rem; margin: 1.5rem 0 .4rem; }}
p, li {{ max-width: 46rem; }}
p.lead, figcaption, .note {{ color: var(--quiet); }}
.note, figcaption {{ font-size: .9rem; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; padding: 0; margin: 1rem 0 0; }}
li {{ margin: .3rem 0; }}
a {{ color: inherit; text-decoration: underline; text-decoration-color: var(--quiet); text-underline-offset: .2em; }}
a:hover {{ text-decoration-color: currentColor; }}
.scroll {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }}
th, td {{ padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }}
thead th {{ vertical-align: bottom; color: var(--quiet); font-weight: 600; }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--ground); }}
tbody th {{ font-weight: 500; }}
td small, th small {{ display: block; color: var(--quiet); font-weight: 400; white-space: nowrap; }}
small.wrap {{ white-space: normal; min-width: 7rem; }}
td.best > a {{ font-weight: 700; }}
td.text {{ text-align: left; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.25rem;
  margin: 1rem 0; }}
figure {{ margin: 0; max-width: 27rem; }}
figure svg {{ display: block; width: 100%; height: auto; overflow: visible; }}
pre {{ background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  margin: .25rem 0 0;  font-size: .8rem; line-height: 1.4; max-height: 18rem; overflow: auto; }}
.evidence {{ scroll-margin-top: 1rem; margin-top: 1rem; }}
.evidence:target > pre {{ border: 2px solid var(--series-1); }}
.evidence h3 {{ margin: 0; font-size: .9rem; overflow-wrap: anywhere; }}
@media (max-width: 40rem) {{
  body {{ font-size: 15px; }}
  main {{ padding: 1rem .8rem 3rem; }}
  h1 {{ font-size: 1.4rem; }}
  th, td {{ padding: .4rem .3rem; }}
  table {{ font-size: .85rem; }}
  tbody th {{ min-width: 4.8rem; }}
  thead th {{ font-size: .75rem; }}
  td small {{ white-space: normal; }}
  small.wrap {{ min-width: 4.5rem; }}
}}
@media print {{ .evidence pre {{ max-height: none; }} }}
"""
