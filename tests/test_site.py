"""The documentation as a site, and the notebooks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


def test_the_navigation_lists_every_page() -> None:
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    outside = {"index.md", "model_card.md", "changelog.md", "contributing.md", "security.md", "license.md",
               "results.md"}  # fmt: skip
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in NOTEBOOKS}
    assert NOTEBOOKS and sorted(listed) == sorted(outside | pages | notebooks)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_have_no_outputs(path: Path) -> None:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_site_has_no_dead_links(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="requires the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "index.html").read_text("utf-8")
    for page in ("docs/", "MODEL_CARD.md", "RESULTS.md"):
        assert f'href="{page}' not in index
    for page in ("train.html", "results.html", "model_card.html", "security.html", "notebooks/quickstart.html"):
        assert f'href="{page}"' in index and (tmp_path / page).exists()
    assert "results.html#int8" in (tmp_path / "quantize.html").read_text("utf-8")
    assert (tmp_path / "notebooks/quickstart.ipynb").exists() and (tmp_path / "benchmarks/runtimes.png").exists()
    assert not (tmp_path / "site_pages.py").exists()
    assert "NAME|PATH" in (tmp_path / "verify.html").read_text("utf-8")


@pytest.mark.slow
def test_a_dead_link_or_anchor_stops_the_build(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="requires the extra docs")
    for name in ("docs", "benchmarks", "mkdocs.yml", *(path.name for path in ROOT.glob("*.md")), "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "README.md").unlink()
    readme = (ROOT / "README.md").read_text("utf-8")
    (tmp_path / "README.md").write_text(readme + "\n[a](docs/train.md#no-such-anchor) [b](docs/no_such_page.md)\n")
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    for path in (ROOT / "docs").iterdir():
        if path.name == "site_pages.py":
            (tmp_path / "docs" / path.name).write_text(path.read_text("utf-8"))
        else:
            (tmp_path / "docs" / path.name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=tmp_path, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no-such-anchor" in done.stderr and "no_such_page.md" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_without_a_network(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="requires the extra docs")
    client = pytest.importorskip("nbclient", reason="requires the extra docs")
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "export"))))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    errors = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert not errors
    assert any("top-1" in str(output.get("text")) for output in notebook.cells[-2].outputs)
