"""Hook of MkDocs: pages of the site that are not in docs/, notebooks as pages, and the links to both.

Links are written for GitHub, relative to the file in the repository. Here they are changed to the pages of the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "MODEL_CARD.md": "model_card.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSE": "license.md",
    "benchmarks/RESULTS.md": "results.md",
}
"""Files of the repository outside docs/ that are pages of the site, and the names of these pages."""
REPOSITORY_NAMES = {page: name for name, page in OUTSIDE.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not Markdown files in docs/, and the pictures of RESULTS.md."""
    pages = {page: (ROOT / name).read_text("utf-8") for name, page in OUTSIDE.items()}
    pages["license.md"] = f"# Licence\n\n```text\n{pages['license.md']}```\n"
    for notebook in sorted(ROOT.glob("docs/notebooks/*.ipynb")):
        pages[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for picture in sorted(ROOT.glob("benchmarks/*.png")):
        files.append(File.generated(config, f"benchmarks/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes the links between files of the repository to links between pages, and what GitHub's tables require."""
    here = page.file.src_uri

    def changed(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        if not target or "://" in target:
            return link[0]
        folder = posixpath.dirname(REPOSITORY_NAMES.get(here, f"docs/{here}"))
        file = posixpath.normpath(posixpath.join(folder, target))
        linked = OUTSIDE.get(file, file.removeprefix("docs/"))
        return f"]({posixpath.relpath(linked, posixpath.dirname(here) or '.')}{anchor})"

    text = re.sub(r"^\|.*$", lambda row: _without_escapes(row[0]), text, flags=re.MULTILINE)
    return re.sub(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", changed, text)


def _without_escapes(row: str) -> str:
    r"""A row of a table with plain ``|`` in its code: GitHub needs ``\|`` there, and Python-Markdown would show it."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), row)


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its text and code, and a link to the file."""
    parts = [_cell(cell) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    return "\n\n".join([*parts, f"[Download this notebook]({path.name}).", ""])


def _cell(cell: dict[str, Any]) -> str:
    """A cell as Markdown."""
    source = "".join(cell["source"])
    return source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
