"""One look for every HTML page that is written here: no script, no other file, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2330; --soft: #5b687a; --line: #e2e7ee; --page: #f4f6f9; --card: #fff;
  --blue: #2f6fd0; --blue2: #8fb7ee; --blue3: #c9ddf7; --mark: #c2571a; --good: #15804a; --good-back: #e5f5ec;
  --bad: #b3261e; --bad-back: #fdebea; --shade: #f0f4fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf1; --soft: #9ba8ba; --line: #2d3642; --page: #12161c;
  --card: #1a2029; --blue: #6ea3e8; --blue2: #42699f; --blue3: #2c4567; --mark: #f0965a; --good: #5bc48d;
  --good-back: #16301f; --bad: #f2857c; --bad-back: #3a1d1b; --shade: #212936; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 64rem; margin: 0 auto; }
h1 { font-size: 1.7rem; letter-spacing: -.01em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.02rem; margin: 0 0 .8rem; }
h2 small { color: var(--soft); font-weight: normal; font-size: .85rem; margin-left: .4rem; }
.lead { color: var(--soft); margin: .2rem 0 1.2rem; overflow-wrap: anywhere; }
.verdict { padding: .65rem 1rem; border-radius: 8px; background: var(--good-back); color: var(--good);
  font-weight: 600; margin: 0 0 1.2rem; }
.failed { background: var(--bad-back); color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .8rem; margin: 0 0 1.2rem; }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: .8rem 1rem; }
.card b { display: block; font-size: 1.45rem; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .82rem; display: block; line-height: 1.35; }
section { padding: 1.1rem 1.3rem; margin: 0 0 1rem; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .34rem 1rem .34rem 0; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; font-weight: normal; font-variant-numeric: tabular-nums; }
tr:first-child > * { border-top: 0; }
.facts th { width: 25%; color: var(--soft); }
.facts td + td { color: var(--soft); width: 40%; }
.grid { overflow-wrap: normal; }
.grid thead th { color: var(--soft); font-size: .82rem; border-bottom: 1px solid var(--line); vertical-align: bottom; }
.grid td, .grid th { overflow-wrap: normal; white-space: nowrap; padding-right: .9rem; }
.grid thead th, .grid .note { white-space: normal; }
.grid .number { text-align: right; }
.grid small { color: var(--soft); display: block; font-size: .78rem; }
.grid tr.ours > * { background: var(--shade); }
.notes { color: var(--soft); font-size: .88rem; margin: .8rem 0 0; padding-left: 1.1rem; }
svg { display: block; width: 100%; height: auto; margin-top: 1.1rem; }
svg text { font: 11.5px system-ui, "Liberation Sans", sans-serif; fill: var(--soft); }
.bar { fill: var(--blue); } .bar2 { fill: var(--blue2); } .bar3 { fill: var(--blue3); }
.lost { fill: var(--bad); } .won { fill: var(--good); }
.mark { stroke: var(--mark); stroke-width: 1.6; fill: none; } .dot { fill: var(--mark); }
.axis { stroke: var(--line); } .guide { stroke: var(--soft); stroke-dasharray: 3 4; }
.ours-dot { fill: var(--blue); } .theirs-dot { fill: var(--mark); }
.ours-line { stroke: var(--blue); stroke-width: 1.4; fill: none; } .theirs-line { stroke: var(--mark);
  stroke-width: 1.4; }
svg .label { fill: var(--mark); } svg .name { fill: var(--ink); }
"""


def html_page(title: str, body: str) -> str:
    """A whole page; ``title`` is escaped, ``body`` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def cards(entries: Sequence[tuple[str, str]]) -> str:
    """Key figures side by side, as (figure, what it is); escaped here."""
    inside = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>\n' for value, label in entries
    )
    return f'<div class="cards">\n{inside}</div>' if inside else ""


def section(title: str, body: str, remark: str = "") -> str:
    """A titled part of a page; title and remark are escaped here, ``body`` is HTML."""
    small = f" <small>{escape(remark)}</small>" if remark else ""
    return f"<section>\n<h2>{escape(title)}{small}</h2>\n{body}</section>"
