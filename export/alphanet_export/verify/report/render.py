"""How reports become text, Markdown and HTML.

Names, labels and other metadata of a file are untrusted input. All three forms show control characters as escape
sequences; Markdown and HTML also escape their own markup.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alphanet_export.verify.report import PAGE_ENDINGS
from alphanet_zoo.files import replacing
from alphanet_zoo.svg import printable

NOT_MEASURED = "not measured"

Row = tuple[str, str, str]
"""Label, value and remark."""


@dataclass(frozen=True)
class Table:
    """A table of more than three columns, or of many rows.

    Args:
        header: Column headings.
        rows: Its rows.
        words: Number of leading columns that contain words; the others contain numbers and are aligned to the right.
        short: Maximum number of rows in text and Markdown; the HTML page has all. None: all.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    short: int | None = None

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows of text and Markdown."""
        return self.rows if self.short is None else self.rows[: self.short]

    @property
    def omitted(self) -> str:
        """A sentence on the rows that text and Markdown omit; empty if there are none."""
        rest = len(self.rows) - len(self.shown)
        return f"The HTML report has {rest} more row{'s' * (rest > 1)}." if rest else ""


@dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Args:
        title: Its title.
        rows: Its facts.
        remark: A phrase that applies to the whole section, without a full stop.
        plot: Inline SVG for the HTML page, or an empty string.
        table: A table after the facts, or None.
        gallery: Images for the HTML page, as (data URI, caption).
    """

    title: str
    rows: tuple[Row, ...]
    remark: str = ""
    plot: str = ""
    table: Table | None = None
    gallery: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """A report, ready to be shown.

    Args:
        title: Its title.
        lead: What it is about, in one line.
        verdict: The result, in one line.
        failed: Whether the verdict is negative.
        figures: Key figures of the HTML page, as (value, label).
        sections: The facts.
    """

    title: str
    lead: str
    verdict: str
    failed: bool
    figures: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]

    def to_text(self) -> str:
        """For the terminal."""
        rows = [[tuple(map(printable, row)) for row in section.rows] for section in self.sections]
        label = max(len(row[0]) for part in rows for row in part)
        value = max(len(row[1]) for part in rows for row in part if row[2])
        lines = [printable(self.title)]
        for section, part in zip(self.sections, rows, strict=True):
            lines += ["", printable(section.title + (f" ({section.remark})" if section.remark else ""))]
            lines += [f"  {a:<{label}}  {b:<{value}}  {c}".rstrip() for a, b, c in part]
            if section.table:
                lines += [f"  {row}" for row in text_table(section.table.header, section.table.shown)]
                lines += [f"  {section.table.omitted}"] if section.table.omitted else []
        return "\n".join([*lines, "", printable(self.verdict)]) + "\n"

    def to_markdown(self) -> str:
        """In Markdown."""
        lines = [f"# {markdown(self.title)}", "", f"**{markdown(self.verdict)}**"]
        for section in self.sections:
            lines += ["", f"## {markdown(section.title)}", ""]
            lines += [f"{markdown(section.remark[0].upper() + section.remark[1:])}.", ""] if section.remark else []
            lines += markdown_table(("", "", ""), section.rows)
            if section.table:
                lines += ["", *markdown_table(section.table.header, section.table.shown)]
                lines += ["", section.table.omitted] if section.table.omitted else []
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """As one HTML page that needs no other file."""
        return render_html("report.html", document=self)


def markdown(text: str) -> str:
    """``text`` as plain text in Markdown, also inside a table."""
    escaped = re.sub(r"([\\`*|\[\]])", r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown; the cells are escaped here."""
    lines = ["| " + " | ".join(map(markdown, row)) + " |" for row in (header, *rows)]
    return [lines[0], "|---" * len(header) + "|", *lines[1:]]


def interval(bounds: tuple[float, float], unit: str = "", digits: int = 2) -> str:
    """An interval in words."""
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f} {unit}".rstrip()


def threads_of(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'s' * (count > 1)}"


def in_thousands(value: Any) -> str:
    """A count in thousands or millions; ``unknown`` if the metadata has no positive integer."""
    if not isinstance(value, int) or value <= 0:
        return "unknown"
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.2f} k"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table for the terminal."""
    cells = [[printable(word) for word in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def render_html(template: str, **values: Any) -> str:
    """An HTML page from one of the package's templates; all values but `markupsafe.Markup` are escaped."""
    return _templates().get_template(template).render(values)


def write_page(
    path: str | os.PathLike[str],
    *,
    html: Callable[[], str],
    markdown: Callable[[], str],
    json: Callable[[], str],
) -> None:
    """Writes a report in the form that the ending of ``path`` names. The file appears complete or not at all.

    Args:
        path: The file, replaced if it exists.
        html: Makes the page for ``.html`` and ``.htm``.
        markdown: Makes the text for ``.md``.
        json: Makes the text for ``.json``.

    Raises:
        ValueError: ``path`` has another ending.
    """
    forms = dict(zip(PAGE_ENDINGS, (html, html, markdown, json), strict=True))
    ending = Path(path).suffix.lower()
    if ending not in forms:
        raise ValueError(f"{os.fspath(path)!r} ends in {ending!r}; use one of {', '.join(PAGE_ENDINGS)}")
    with replacing(path) as temporary:
        temporary.write_text(forms[ending](), encoding="utf-8")


@cache
def _templates() -> Environment:
    """The templates of ``alphanet_export/verify/templates``."""
    return Environment(
        loader=PackageLoader("alphanet_export.verify", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
