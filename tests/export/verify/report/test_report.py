from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from alphanet_export.metadata import ExportedModel
from alphanet_export.verify.environment import current_environment
from alphanet_export.verify.measure.ab import TimingRatio
from alphanet_export.verify.measure.accuracy import Accuracy
from alphanet_export.verify.measure.diagnostics import ClassFigures, Confusion, Diagnostics, Mistake
from alphanet_export.verify.measure.energy import Energy
from alphanet_export.verify.measure.graph_health import GraphHealth
from alphanet_export.verify.measure.graph_rules import GraphRule, GraphRules
from alphanet_export.verify.measure.latency import Throughput, summarise
from alphanet_export.verify.measure.mcnemar import McNemar
from alphanet_export.verify.measure.parity import LevelParity, Parity
from alphanet_export.verify.measure.process import Memory, Startup
from alphanet_export.verify.measure.robustness import CorruptedAccuracy, Robustness
from alphanet_export.verify.report.figures import Data, Reference
from alphanet_export.verify.report.report import VerificationReport
from alphanet_zoo.data.corruptions import CORRUPTIONS
from alphanet_zoo.errors import AccuracyError, ParityError, TargetError
from alphanet_zoo.evaluate.diagnostics import Reliability
from alphanet_zoo.space.presets import ALPHANET_TINY

EVIL = "<script>alert('x')</script>|&\"\n"
MODEL = ExportedModel(
    path=Path("folder") / "tiny.onnx",
    format="onnx",
    file_sha256="f" * 64,
    graph_sha256="a" * 64,
    input_size=12,
    batch=1,
    opset=18,
    metadata={
        "name": "tiny",
        "arch": ALPHANET_TINY.smallest.to_dict(),
        "space": ALPHANET_TINY.to_dict(),
        "num_classes": 10,
        "macs": 1_234_567,
        "params": 45_678,
        "weights_sha256": "b" * 64,
        "calibration": {"images": 512, "batches": 2, "digest": "c" * 64},
        "preprocessing": {"input_size": 12},
    },
)
PARITY = Parity(1e-6, 1.0, 8, True, 2e-5, 120.0, "PyTorch", (LevelParity("basic", 1e-6, 2e-6, 1.0, 0, 120.0),))
BROKEN = dataclasses.replace(PARITY, max_relative_error=0.5, levels=(LevelParity("all", 0.5, 1.0, 0.25, 0, 3.0),))
ACCURACY = Accuracy(90.0, (85.0, 94.0), 99.0, (97.0, 99.9), 200, 10, 180)
LATENCY = summarise(np.linspace(1.0, 3.0, 101), batch=1, threads=2, cpu_share=0.95, load_ms=5.0)
HEALTH = GraphHealth(40, 30, 0, 0, 15, 15, 13, 7, "float32", {"Conv": 15}, {"com.microsoft.nchwc.Conv": 15, "Gemm": 1})
PLAIN = ("schema", "format", "passed", "failures", "graph_sha256", "weights_sha256", "throughput", "name", "arch",
         "space", "num_classes", "macs", "params", "preprocessing", "calibration", "tools")  # fmt: skip
RULES = GraphRules(None, (GraphRule("SiLUs fused", 8, 8), GraphRule("reorders", 4, 6, at_most=True)))
UNFUSED = GraphRules(None, (GraphRule("SiLUs fused", 7, 8), GraphRule("reorders", 4, 6, at_most=True)))
BINS = Reliability((0.0, 0.5, 1.0), (0, 200), (None, 0.95), (None, 0.9))
ROBUSTNESS = Robustness(
    200, 0, 90.0, 55.5,
    tuple(
        CorruptedAccuracy(each.name, severity, each.parameter, value, 90.0 - 10 * severity, (20.0, 95.0))
        for each in CORRUPTIONS
        for severity, value in enumerate(each.values, 1)
    ),
)  # fmt: skip


def diagnostics(label: str = "owl", classes: int = 10) -> Diagnostics:
    """Diagnostics in which class 0 has images that are classified as class 1; class 0 is called ``label``."""
    names = [label, *map(str, range(1, classes))]
    figures = [ClassFigures(name, 20, 20, 20, 100.0, (84.0, 100.0)) for name in names]
    figures[0] = ClassFigures(label, 20, 12, 12, 60.0, (39.0, 78.0))
    matrix = [[20 * (row == column) for column in range(classes)] for row in range(classes)]
    matrix[0][:2] = [12, 8]
    mistakes = tuple(Mistake(f"{label}/{number}.png", label, "1", 0.99, 0.004) for number in range(8))
    whole = tuple(map(tuple, matrix)) if classes <= 30 else None
    return Diagnostics(0.1234, 0.05, 0.95, BINS, tuple(figures), whole, (Confusion(label, "1", 8, 40.0),), mistakes)


RATIO = TimingRatio("other.onnx", "e" * 64, 0.8, (0.78, 0.83), 2.0, 2.5, 50, 1, 1, "CPU time")


def report(**changes: Any) -> VerificationReport:
    """A report in which everything was measured and every check passes."""
    values: dict[str, Any] = {
        "model": MODEL,
        "file_bytes": 1000,
        "data": Data(None, 8, True),
        "environment": current_environment(),
        "reference": Reference("tiny.safetensors", None, "b" * 64, "training"),
        "parity": PARITY,
        "accuracy": ACCURACY,
        "mcnemar": McNemar(178, 4, 2, 16, 0.6875),
        "diagnostics": diagnostics(),
        "robustness": ROBUSTNESS,
        "latency": LATENCY,
        "throughput": tuple(Throughput(batch, threads, 400.0 + batch, 9) for threads in (1, 2) for batch in (1, 4)),
        "startup": Startup(700.0, 400.0, 100.0, 9.0, 3, 2),
        "memory": Memory(20.0, 50.0, 1, 2),
        "energy": Energy(None, 120.0, 80.0, 30.0, 10.0, 2, 64),
        "graph_health": HEALTH,
        "graph_rules": RULES,
        "timing_ratio": RATIO,
    }
    return VerificationReport(**{**values, **changes})


def bare() -> VerificationReport:
    """A report in which nothing was measured."""
    return VerificationReport(MODEL, 1000, Data(None, 0, True), current_environment())


class Page(HTMLParser):
    """Counts a page's tags and keeps what would load something else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.loads += [name for name, _ in attrs if name in ("src", "href", "srcset")]


def test_the_json_has_the_figures_under_their_names() -> None:
    figures = json.loads(report().to_json())
    assert figures["parity"]["max_relative_error"] == 1e-6
    assert figures["parity"]["top1_agreement"] == 1.0
    assert figures["parity"]["holds"] is True
    assert figures["accuracy"]["top1"] == 90.0
    assert figures["latency"]["median_ms"] == 2.0
    assert figures["graph_sha256"] == "a" * 64 and figures["weights_sha256"] == "b" * 64
    assert figures["arch"] == ALPHANET_TINY.smallest.to_dict() and figures["macs"] == 1_234_567
    assert figures["data"] == {"folder": None, "images": 8, "synthetic": True}
    assert figures["passed"] is True and figures["failures"] == []
    assert figures["environment"]["onnxruntime"]
    assert figures["mcnemar"]["p_value"] == 0.6875 and figures["timing_ratio"]["ratio"] == 0.8
    assert figures["throughput"][1] == {"batch": 4, "threads": 1, "images_per_second": 404.0, "runs": 9}
    assert figures["startup"]["total_ms"] == 700.0 and figures["energy"]["millijoules_per_image"] == 120.0
    assert figures["graph_rules"]["holds"] is True and figures["graph_rules"]["rules"][1]["at_most"] is True
    assert set(figures["stamp"].values()) == {None}


def test_what_was_not_measured_is_null_in_json_and_marked_in_text() -> None:
    figures = bare().to_dict()
    assert set(figures) == set(report().to_dict())
    for part in set(figures) - {*PLAIN, "data", "environment", "file", "floors", "input"}:
        assert set(figures[part]) == set(report().to_dict()[part])
        assert set(figures[part].values()) == {None}
    assert figures["throughput"] is None
    assert bare().to_text().count("not measured") == 8
    assert bare().verdict == "NOT CHECKED: nothing was compared with a reference or a target"


def test_a_figure_that_is_not_finite_is_null_in_valid_json() -> None:
    infinite = dataclasses.replace(PARITY, max_relative_error=float("inf"))
    figures = json.loads(report(parity=infinite).to_json())
    assert figures["parity"]["max_relative_error"] is None and figures["parity"]["holds"] is False
    assert figures["passed"] is False


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"parity": BROKEN, "min_top1": 95.0, "max_latency_ms": 1.0}, ParityError),
        ({"consistency": BROKEN, "parity": None, "min_top1": 95.0}, ParityError),
        ({"min_top1": 95.0, "max_latency_ms": 1.0}, AccuracyError),
        ({"graph_rules": UNFUSED, "max_latency_ms": 1.0, "max_ratio": 0.5}, TargetError),
        ({"max_latency_ms": 1.0}, TargetError),
        ({"max_ratio": 0.79}, TargetError),
    ],
)
def test_the_most_serious_failure_comes_first(changes: dict[str, Any], error: type[Exception]) -> None:
    failed = report(**changes)
    with pytest.raises(error):
        failed.check()
    assert len(failed.failures) == len(changes) - ("consistency" in changes)
    assert failed.verdict.startswith("FAILED: ")
    assert not failed.to_dict()["passed"]


def test_a_lost_fusion_can_be_accepted() -> None:
    accepted = report(graph_rules=UNFUSED, any_graph=True)
    assert accepted.check() is accepted and accepted.to_dict()["graph_rules"]["holds"] is False
    assert "BROKEN" in accepted.to_text() and "7, expected 8" in accepted.to_text()
    with pytest.raises(TargetError, match="SiLUs fused: 7 instead of 8"):
        report(graph_rules=UNFUSED).check()


def test_floors_that_hold_pass() -> None:
    passed = report(min_top1=90.0, max_latency_ms=2.0, max_ratio=0.8)
    assert passed.check() is passed
    assert passed.verdict.startswith("PASSED: ") and "90 %" in passed.verdict and "2 ms" in passed.verdict


def test_the_table_shows_the_figures() -> None:
    text = report().to_text()
    for shown in ("1.23 M", "1.00e-06", "90.00 %", "85.00 to 94.00 %", "2.00 ms", "20 MB", "15 of 15", "synthetic",
                  "p = 0.688", "-1.00 points",
                  "no significant difference", "401.0, 404.0 images/s", "700 ms", "120.0 mJ", "0.780 to 0.830",
                  "2 of 2 hold", "other.onnx"):  # fmt: skip
        assert shown in text
    assert "512 images in 2 batches" in text
    assert "the weights recorded in the file" in text
    other = dataclasses.replace(report().reference or pytest.fail(), weights_sha256="d" * 64)
    assert "NOT the weights recorded" in report(reference=other).to_text()


def test_the_accuracy_sections_show_the_figures() -> None:
    text = report().to_text()
    for shown in ("96.00 %", "Lowest of a class", "owl    60.00", "39.00 to 78.00", "5.00 %", "95.00 %",
                  "overconfident by 5.00 points", "0.1234", "equal probabilities have 2.3026", "owl/0.png", "55.50 %",
                  "not the files or parameters of ImageNet-C", "0.04, 0.08, 0.12, 0.18, 0.26"):  # fmt: skip
        assert shown in text, shown
    assert re.search(r"owl +1 +8 +40\.0\n", text)
    assert re.search(r"gaussian noise +80\.00 +70\.00 +60\.00 +50\.00 +40\.00 +60\.00", text)
    assert "owl/4.png" in text and "owl/5.png" not in text and "The HTML report has 3 more rows." in text
    assert "The HTML report has 3 more rows." in report().to_markdown() and "owl/7.png" in report().to_html()
    assert "Classes" not in report(diagnostics=None).to_text()


def test_thumbnails_are_embedded_in_the_page_only() -> None:
    pictured = report(thumbnails=tuple(f"data:image/jpeg;base64,{number}" for number in range(8)))
    page = Page(pictured.to_html())
    assert page.tags["img"] == 8 and page.loads == ["src"] * 8
    assert "data:image" not in pictured.to_json() + pictured.to_text() + pictured.to_markdown()


def test_the_heat_map_shows_every_cell_and_is_for_few_classes() -> None:
    html = report().to_html()
    pictures = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    matrix = next(picture for picture in pictures if picture.get("aria-label") == "Confusion matrix")
    tips = [shape.text for shape in matrix.iter() if shape.tag == "title"][1:]
    assert len(tips) == 11 and "owl classified as 1: 8 images (40.0 %)" in tips
    assert "Confusion matrix" not in report(diagnostics=diagnostics(classes=31)).to_html()


def test_a_bin_without_images_and_a_loss_that_is_not_finite_are_shown() -> None:
    bad = dataclasses.replace(diagnostics(), negative_log_likelihood=float("inf"), mistakes=())
    figures = json.loads(report(diagnostics=bad).to_json())["diagnostics"]
    assert figures["negative_log_likelihood"] is None and figures["reliability"]["accuracy"] == [None, 0.9]
    assert figures["confusion_matrix"][0][:2] == [12, 8] and figures["per_class"][0]["interval"] == [39.0, 78.0]
    assert "mistakes" not in report(diagnostics=bad).to_text()


def test_a_busy_machine_is_reported() -> None:
    assert "OTHER PROGRAMS" not in report().to_text()
    assert "OTHER PROGRAMS" in report(latency=dataclasses.replace(LATENCY, cpu_share=0.5)).to_text()


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    html = report(min_top1=95.0).to_html()
    page = Page(html)
    assert page.loads == [] and "script" not in page.tags and "url(" not in html
    assert page.tags["svg"] == 8 and page.tags["section"] == 13
    pictures = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    run_times = next(picture for picture in pictures if picture.get("aria-label") == "Histogram of run times")
    bars = [shape for shape in run_times.iter() if shape.get("class") == "bar"]
    assert len(bars) == len(LATENCY.histogram.counts)
    tallest = max(float(bar.get("height", 0)) for bar in bars)
    for bar, count in zip(bars, LATENCY.histogram.counts, strict=True):
        assert float(bar.get("height", 0)) == pytest.approx(tallest * count / max(LATENCY.histogram.counts), abs=0.06)
    assert 'class="verdict failed"' in html and 'class="verdict"' in report().to_html()
    assert "svg" not in Page(bare().to_html()).tags


def test_the_page_and_markdown_escape_metadata() -> None:
    evil = dataclasses.replace(MODEL, path=Path(EVIL.strip()), metadata={**MODEL.metadata, "name": EVIL})
    health = dataclasses.replace(HEALTH, optimized_operators={EVIL: 1})
    rendered = report(model=evil, data=Data(EVIL, 8, False), graph_health=health)
    assert "script" not in Page(rendered.to_html()).tags
    markdown = rendered.to_markdown()
    assert "<script>" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("| | ")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if "---" not in row}
    assert widths == {4, 5, 6, 7, 8}  # Facts, confusions, mistakes, classes, robustness.


TERMINAL = "\x1b[31mred\x1b]8;;http://evil\x07\u202e\x9b2J\r\udcff"
"""A colour, a link, a bell, reversed text, a cleared screen, a return and half a character."""


def untrusted(text: str) -> VerificationReport:
    """A report of a file whose metadata, name, operators and rules contain ``text``."""
    metadata = {**MODEL.metadata, "name": text, "weights": text, "calibration": {"images": text, "batches": text},
                "macs": text, "params": text}  # fmt: skip
    model = dataclasses.replace(MODEL, path=Path(text.replace("/", "")), metadata=metadata)
    parity = dataclasses.replace(PARITY, levels=(dataclasses.replace(PARITY.levels[0], level=text),))
    return report(
        model=model,
        parity=parity,
        data=Data(text, 8, False),
        reference=Reference(text, text, "b" * 64, text),
        graph_health=dataclasses.replace(HEALTH, optimized_operators={text: 1}),
        graph_rules=GraphRules(None, (GraphRule(text, 7, 8),)),
        timing_ratio=dataclasses.replace(RATIO, other=text, ratio=3.0),
        max_ratio=2.0,
        diagnostics=diagnostics(text),
    )


def test_metadata_cannot_control_the_terminal() -> None:
    for form in (untrusted(TERMINAL).to_text(), untrusted(TERMINAL).to_markdown(), untrusted(TERMINAL).to_html()):
        assert all(each.isprintable() or each == "\n" for each in form)
        form.encode("utf-8")
    text = untrusted(TERMINAL).to_text()
    shown = r"\x1b[31mred\x1b]8;;http://evil\x07\u202e\x9b2J\r\udcff"
    assert re.search(rf"^  Model +{re.escape(shown)} ", text, re.MULTILINE) and text.count(shown) > 8
    assert len(text.splitlines()) == len(report(graph_rules=UNFUSED).to_text().splitlines())


def test_metadata_cannot_add_markup() -> None:
    attack = (
        "<script>alert(1)</script><img src=http://evil onerror=x>&\"'{{ 7*7777 }}![i](http://evil)[l](javascript:x)`*|"
    )
    page = untrusted(attack).to_html()
    tags = Page(page)
    assert (
        tags.loads == []
        and not {"script", "img", "a"} & set(tags.tags)
        and "54439" not in page
        and "{{ 7*7777 }}" in page
    )
    assert "&lt;script&gt;alert(1)" in page and "<h1>&lt;script&gt;" in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    text = untrusted(attack).to_markdown()
    assert "<" not in text and not re.search(r"(?<!\\)[`\[\]]", text)
    assert r"!\[i\](http://evil)" in text


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_it_is_written_by_its_ending(tmp_path: Path, ending: str) -> None:
    target = tmp_path / "new" / f"report.{ending}"
    report().write(target)
    text = target.read_text(encoding="utf-8")
    assert text.startswith({"html": "<!doctype html>", "md": "# tiny.onnx", "json": "{"}[ending])
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.html, \.htm, \.md, \.json"):
        report().write(tmp_path / "report.pdf")
