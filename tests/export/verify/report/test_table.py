from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from torch import nn

from alphanet_export.verify.measure.contenders import Contender, Published
from alphanet_export.verify.report.compare import measure_table
from alphanet_export.verify.report.scatter import Point, front_of, label_places, scatter_plot
from alphanet_export.verify.report.table import ComparisonTable
from alphanet_zoo.errors import MissingDependencyError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.cost import count_macs
from tests.export.exported import tiny_net
from tests.export.verify.report.test_report import EVIL, Page


def other_net() -> nn.Module:
    """A classifier that is not an AlphaNet, with a batch norm to fold and a mean to rewrite."""
    layers = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU(), nn.AdaptiveAvgPool2d(1))
    return fill_live(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 10))).eval()


@pytest.fixture(scope="module")
def table() -> ComparisonTable:
    models = (
        Contender("alphanet_tiny", True, 12, Published(80.0, "a paper", "tiny"), "random", tiny_net),
        Contender("efficientnet_b0", False, 12, Published(77.5, "a list", "b0.tag"), "random", other_net),
        Contender(EVIL.strip(), False, 14, None, "random", other_net),
    )
    told: list[str] = []
    measured = measure_table(models, threads=1, batch=2, rounds=20, seconds=0.0, tell=told.append)
    assert told[0] == "exporting alphanet_tiny (1 of 3)" and told[-1] == "measuring 3 models in onnxruntime"
    return measured


def test_every_model_is_measured_in_every_runtime(table: ComparisonTable) -> None:
    assert (table.runtimes, table.threads, table.rounds, table.clock) == (("pytorch", "onnxruntime"), 1, 20, "CPU time")
    for row in table.rows:
        for figures in row.figures.values():
            low, high = figures.median_interval_ms
            assert 0 < low <= figures.median_ms <= high and figures.images_per_second > 0
            assert figures.ratio is not None and figures.ratio_interval is not None
            assert figures.ratio_interval[0] <= figures.ratio <= figures.ratio_interval[1]
        assert row.file_bytes > 1000
    ours, anchor, _ = table.rows
    net = tiny_net()
    assert ours.macs == count_macs(net.arch, net.space, 10) and table.anchor == "efficientnet_b0"
    assert anchor.macs == 36 * 16 * 27 + 160
    assert all(figures.ratio == 1.0 for figures in anchor.figures.values())


def test_the_notes_name_what_is_published_and_what_is_random(table: ComparisonTable) -> None:
    text = " ".join(table.to_text().split())  # The notes are wrapped.
    assert "All models were measured with random weights" in text and "accuracy was not measured" in text
    assert "Top-1 is published, not measured here" in text and "from a paper (tiny); a list (b0.tag)." in text
    assert "No published top-1 was found for <script>" in text and "report twice as many" in text
    assert "by the same exporters" in text and "efficientnet_b0" in text


def test_the_page_has_a_scatter_for_each_runtime(table: ComparisonTable, tmp_path: Path) -> None:
    table.write(tmp_path / "table.html")
    html = (tmp_path / "table.html").read_text()
    page = Page(html)
    assert page.loads == [] and "script" not in page.tags and page.tags["svg"] == 2
    pictures = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    for picture in pictures:
        named = [shape for shape in picture.iter() if shape.tag == "circle" and len(shape)]
        assert all(shape[0].text and "%, " in shape[0].text for shape in named)
        dots = {shape.get("class"): shape for shape in named}
        assert set(dots) == {"ours-dot", "theirs-dot"}  # What has no published top-1 has no dot.
        assert float(dots["ours-dot"].get("cy", 0)) < float(dots["theirs-dot"].get("cy", 0))  # More accurate: higher.
    faster = table.rows[1].figures["onnxruntime"].median_ms < table.rows[0].figures["onnxruntime"].median_ms
    ours, theirs = (float(dots[kind].get("cx", 0)) for kind in ("ours-dot", "theirs-dot"))
    assert (theirs < ours) is faster


def test_markdown_and_json_have_the_same_figures(table: ComparisonTable, tmp_path: Path) -> None:
    table.write(tmp_path / "t.md")
    table.write(tmp_path / "t.json")
    lines = (tmp_path / "t.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 4 and "<script>" not in "".join(lines)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 13 for row in rows)
    figures = json.loads((tmp_path / "t.json").read_text())
    assert figures["rows"][0]["figures"]["onnxruntime"]["median_ms"] == table.rows[0].figures["onnxruntime"].median_ms
    assert figures["rows"][2]["top1"] is None and figures["environment"]["torch"] and len(figures["notes"]) == 7
    with pytest.raises(ValueError, match=r"'t.pdf' ends in '.pdf'; use one of .html, .htm, .md, .json"):
        table.write("t.pdf")


def test_the_text_fits_a_terminal_and_escapes_names(table: ComparisonTable) -> None:
    rows = (dataclasses.replace(table.rows[0], name="a\x1b]0;title\x07"), *table.rows[1:])
    text = dataclasses.replace(table, rows=rows).to_text()
    assert r"a\x1b]0;title\x07 " in text and "\x1b" not in text and "\x07" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("\nONNX Runtime\nmodel ") == text.count("\nPyTorch\nmodel ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "title"), [("openvino", "OpenVINO"), ("executorch", "ExecuTorch")])
def test_other_runtimes_run_the_same_models(runtime: str, title: str) -> None:
    pytest.importorskip(runtime)
    models = [
        Contender("alphanet_tiny", True, 12, Published(80.0, "a paper", "tiny"), "random", tiny_net),
        Contender("other", False, 12, Published(77.5, "a list", "b0.tag"), "random", other_net),
    ]
    table = measure_table(models, [runtime], threads=1, batch=2, rounds=3, seconds=0.0)
    assert table.anchor is None and all(row.figures[runtime].images_per_second > 0 for row in table.rows)
    assert f"\n{title}\nmodel " in table.to_text()


def test_the_plot_is_a_picture_of_all_runtimes(table: ComparisonTable, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table.write_plot(tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height  # Two runtimes, one beside the other.
    rows = tuple(dataclasses.replace(row, top1=None) for row in table.rows)
    with pytest.raises(UsageError, match="nothing to plot"):
        dataclasses.replace(table, rows=rows).write_plot(tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_plot_requires_matplotlib(table: ComparisonTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"alphanet-zoo\[bench\]"):
        table.write_plot(tmp_path / "plot.png")


def test_the_front_has_the_models_that_no_other_dominates() -> None:
    def point(name: str, latency: float, top1: float) -> Point:
        return Point(name, False, latency, (latency, latency), top1)

    points = [
        point("slow", 9, 80),
        point("fast", 2, 70),
        point("worse", 3, 69),
        point("same", 9, 80),
        point("mid", 5, 75),
    ]
    assert [one.name for one in front_of(points)] == ["fast", "mid", "slow"]
    picture = ElementTree.fromstring(scatter_plot("title", points))
    line = [shape.get("points", "") for shape in picture.iter() if shape.get("class") == "front-line"][-1]
    dots = {shape[0].text.split(":")[0]: f"{shape.get('cx')},{shape.get('cy')}" for shape in picture.iter()
            if shape.tag == "circle" and len(shape)}  # fmt: skip
    assert line.split() == [dots["fast"], dots["mid"], dots["slow"]]


def test_labels_overlap_neither_points_nor_one_another() -> None:
    centres = [(400.0, 200.0), (404.0, 204.0), (400.0, 215.0), (790.0, 100.0)]
    places = label_places(["one", "two", "three", "a_long_name"], centres)
    boxes = [(x, y - 10, x + 6.4 * n, y + 3) for (x, y), n in zip(places, (3, 3, 5, 11), strict=True)]
    boxes += [(x - 4, y - 4, x + 4, y + 4) for x, y in centres]
    for index, (a, b, c, d) in enumerate(boxes[:4]):
        for e, f, g, h in boxes[index + 1 :]:
            assert min(c, g) <= max(a, e) or min(d, h) <= max(b, f)
        assert 0 < a and c < 800
