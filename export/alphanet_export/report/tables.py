"""What all tables of reports are made of."""

from __future__ import annotations

from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Section:
    """A titled table of a report.

    Args:
        key: Which section it is.
        title: Its title.
        rows: (label, value, remark) each.
        remark: What goes for the whole of it.
    """

    key: str
    title: str
    rows: tuple[tuple[str, str, str], ...]
    remark: str = ""


def interval(bounds: tuple[float, float], unit: str, digits: int = 2) -> str:
    """An interval in words."""
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f} {unit}".rstrip()


def cell(text: str) -> str:
    """A text inside a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
