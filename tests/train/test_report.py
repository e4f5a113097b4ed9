import json
import math
import re
from html.parser import HTMLParser

import pytest

from alphanet_zoo.svg import axis_ticks, curve_plot
from alphanet_zoo.train.report import MOST_POINTS, write_report


class Page(HTMLParser):
    """Collects the elements, headings, text and points of a page, and checks that elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.headings, self.points, self.tags, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "line", "rect", "circle"):
            self.stack.append(tag)
        if tag == "polyline":
            self.points.append([tuple(map(float, pair.split(","))) for pair in dict(attributes)["points"].split()])

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "circle"):
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.stack[-1:] == ["h2"]:
            self.headings.append(data)


def write_run(folder, lines):
    (folder / "config.yaml").write_text("output: <run>\n")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def step(number, loss=1.0):
    students = {"loss": 0.1, "accuracy": 0.25, "divergence_alpha_min": 0.3, "divergence_alpha_max": 0.2}
    subnets = {"largest": {"loss": loss, "accuracy": 0.5}, "smallest": students}
    return {"step": number, "epoch": 0, "lr": 0.1, "images_per_second": 50.0, "memory_mib": 10.0, "subnets": subnets}


def test_the_page_has_all_curves_and_needs_nothing_else(tmp_path):
    validation = {"step": 20, "validation": {"smallest": {"accuracy": 0.9, "correct": 9, "images": 10.0}}}
    event = {"step": 15, "event": "skipped", "message": "<b>a loss</b> was not finite"}
    write_run(tmp_path, [step(10, 2.0), event, step(20), validation])
    assert write_report(tmp_path) == tmp_path / "run.html"
    text = (tmp_path / "run.html").read_text()
    page = Page(text)
    assert page.headings == [
        "Validation accuracy", "Loss per subnet", "Training accuracy", "Divergence at the lower alpha",
        "Divergence at the upper alpha", "Learning rate", "Images per second", "Events",
    ]  # fmt: skip
    assert "<b>a loss</b> was not finite" in page.text and "output: <run>" in page.text and "90.0 %" in page.text
    assert not re.search(r"<script|<link|https?:|url\(|@import| on\w+=", text)
    assert "prefers-color-scheme: dark" in text
    assert all(0 <= x <= 800 and 0 <= y <= 260 for points in page.points for x, y in points)
    assert len(page.points) == 1 + 2 + 2 + 1 + 1 + 1 + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "log.jsonl", "run.html"]


def test_the_page_of_a_single_network_names_no_subnets(tmp_path):
    line = step(10) | {"subnets": {"network": {"loss": 1.5, "accuracy": 0.5}}}
    write_run(tmp_path, [line, {"step": 10, "validation": {"network": {"accuracy": 0.9, "images": 10.0}}}])
    write_report(tmp_path)
    page = Page((tmp_path / "run.html").read_text())
    assert page.headings == [
        "Validation accuracy", "Training loss", "Training accuracy", "Learning rate", "Images per second",
    ]  # fmt: skip
    assert "The network on 10 validation images." in page.text
    assert not re.search("subnet|largest|divergence", page.text)


def test_long_runs_are_thinned_and_values_that_are_not_finite_left_out(tmp_path):
    lines = [step(number, math.nan if number == 7 else 1.0 + number) for number in range(1, 2001)]
    write_run(tmp_path, lines)
    write_report(tmp_path)
    loss = Page((tmp_path / "run.html").read_text()).points[0]
    assert MOST_POINTS * 0.9 < len(loss) <= MOST_POINTS
    assert all(before[1] > after[1] for before, after in zip(loss, loss[1:], strict=False))  # SVG's y axis points down.


def test_a_run_without_steps_has_no_page(tmp_path):
    write_run(tmp_path, [])
    assert write_report(tmp_path) is None and not (tmp_path / "run.html").exists()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.3, 97, [0, 20, 40, 60, 80, 100]),
        (-0.3, 2.2, [-0.5, 0, 0.5, 1, 1.5, 2, 2.5]), (1000, 1000, [1000]),
    ],
)  # fmt: skip
def test_ticks_are_round_and_cover_the_values(low, high, ticks):
    assert axis_ticks(low, high) == ticks


def test_names_in_a_plot_are_escaped():
    picture = curve_plot("a & b", "step", {"<x>": [(0, 1.0)]}, unit="<u>")
    assert "<x>" not in picture and "<u>" not in picture and "&lt;x&gt;" in picture and "a &amp; b" in picture
