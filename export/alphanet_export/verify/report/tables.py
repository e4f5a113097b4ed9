"""What all tables of reports are made of."""

from __future__ import annotations

from dataclasses import dataclass

NOT_MEASURED = "not measured"

PAGE_ENDINGS = (".html", ".htm", ".md", ".json")
"""Of what a report or the table of the family can be written as."""

NETS = ("pytorch", "pytorch-compiled")
"""Runtimes that run a net itself; the others run its ONNX file, or what is made of that."""
RUNTIMES = (*NETS, "onnxruntime", "openvino", "executorch")
"""What the table of the family can be measured in, see `alphanet_export.runtimes`."""
DEFAULT_RUNTIMES = ("pytorch", "onnxruntime")


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
