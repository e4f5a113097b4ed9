"""A verification report: figures as one value that renders to text, Markdown, HTML and JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass

from alphanet_export.verify.report.figures import VerificationFigures
from alphanet_export.verify.report.render import write_page
from alphanet_export.verify.report.sections import document_of


@dataclass(frozen=True)
class VerificationReport(VerificationFigures):
    """The figures of an exported file, with their renderings; see `VerificationFigures`."""

    def to_text(self) -> str:
        """The report as tables for the terminal."""
        return document_of(self).to_text()

    def to_markdown(self) -> str:
        """The report in Markdown."""
        return document_of(self).to_markdown()

    def to_html(self) -> str:
        """The report as one HTML page that needs no other file."""
        return document_of(self).to_html()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as HTML, Markdown or JSON, chosen by the ending of ``path``.

        Raises:
            ValueError: ``path`` has another ending.
        """
        write_page(path, html=self.to_html, markdown=self.to_markdown, json=self.to_json)
