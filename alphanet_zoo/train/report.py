"""``run.html``: the curves of a run as one page that needs no other file and no JavaScript."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alphanet_zoo.files import replacing
from alphanet_zoo.svg import Points, curve_plot, printable
from alphanet_zoo.train.runlog import SINGLE, read_log

MOST_POINTS = 300
"""Maximum number of points of a curve; of more steps, means over equal numbers of steps are shown."""

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Plot:
    """A picture with its title and a remark in one sentence."""

    title: str
    remark: str
    picture: Markup


def write_report(output: Path) -> Path | None:
    """Writes ``run.html`` from ``log.jsonl`` and ``config.yaml``, completely or not at all.

    Args:
        output: The output folder of a run.

    Returns:
        The file; None if the log has no step yet.
    """
    lines = read_log(output / "log.jsonl")
    steps = [line for line in lines if "subnets" in line]
    if not steps:
        return None
    validations = [line for line in lines if "validation" in line]
    names = [name for key, group in (("subnets", steps), ("validation", validations)) for x in group for name in x[key]]
    shades = {name: number for number, name in enumerate(dict.fromkeys(names))}
    loader = PackageLoader("alphanet_zoo.train")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    page = environment.get_template("run.html").render(
        title=printable(f"Training run {output.resolve().name}"),
        lead=f"Step {lines[-1]['step']}, epoch {steps[-1]['epoch'] + 1}. This page is refreshed at each validation and "
        "at the end of the run.",
        cards=list(_cards(steps, validations)),
        plots=[*_validation_plots(validations, shades), *_step_plots(steps, shades)],
        events=[{**line, "message": printable(line["message"])} for line in lines if "event" in line],
        settings=(output / "config.yaml").read_text("utf-8"),
    )
    with replacing(output / "run.html") as temporary:
        temporary.write_text(page, "utf-8")
    return output / "run.html"


def _cards(steps: Lines, validations: Lines) -> Iterator[tuple[str, str]]:
    """The key figures, as (value, label)."""
    if validations:
        for name, figures in validations[-1]["validation"].items():
            key = "accuracy" if "accuracy" in figures else "mean_average_precision"
            yield f"{100 * figures[key]:.1f} %", _of(f"validation {key.replace('_', ' ')}", name)
    last = steps[-1]
    name, figures = next(iter(last["subnets"].items()))
    yield f"{figures['loss']:.3f}", _of("training loss", name)
    yield f"{last['images_per_second']:.0f}", "images per second"
    if last["memory_mib"] is not None:
        yield f"{last['memory_mib']:.0f} MiB", "peak memory of a process"


def _of(figure: str, name: str) -> str:
    """The label of a figure, with the name of its subnet if there are several."""
    return figure if name == SINGLE else f"{figure}, {name}"


def _validation_plots(validations: Lines, shades: Mapping[str, int]) -> Iterator[Plot]:
    """The accuracy of each subnet on the validation images."""
    curves = dict[str, list[tuple[float, float]]]()
    for line in validations:
        for name, figures in line["validation"].items():
            value = figures.get("accuracy", figures.get("mean_average_precision"))
            curves.setdefault(name, []).append((line["step"], 100 * value))
    if curves:
        images = next(iter(validations[-1]["validation"].values()))["images"]
        what = "The network" if set(shades) == {SINGLE} else "Extracted and calibrated subnets"
        remark = f"{what} on {images:.0f} validation images."
        title = "Validation accuracy"
        picture = curve_plot(title, "step", curves, shades=shades, unit="%", dots=True)
        yield Plot(title, remark, picture)


_SUBNET_FIGURES = (
    ("loss", "Loss per subnet", "Training loss; that of a smaller subnet is a divergence from the largest one.", ""),
    ("accuracy", "Training accuracy", "Share of the images of a step that a subnet classifies correctly.", "%"),
    ("label_accuracy", "Training accuracy", "Share of the labels of a step that a subnet predicts correctly.", "%"),
    ("divergence_alpha_min", "Divergence at the lower alpha", "From the largest subnet, mean over the batch.", ""),
    ("divergence_alpha_max", "Divergence at the upper alpha", "From the largest subnet, mean over the batch.", ""),
)
"""Key in the log, title, remark and unit of each plot with a curve per subnet."""

_SINGLE_FIGURES = (
    ("loss", "Training loss", "Mean over the images of a step.", ""),
    ("accuracy", "Training accuracy", "Share of the images of a step that are classified correctly.", "%"),
    ("label_accuracy", "Training accuracy", "Share of the labels of a step that are predicted correctly.", "%"),
)
"""The same for a single network."""


def _step_plots(steps: Lines, shades: Mapping[str, int]) -> Iterator[Plot]:
    """The curves of training steps."""
    for key, title, remark, unit in _SINGLE_FIGURES if set(shades) == {SINGLE} else _SUBNET_FIGURES:
        scale = 100 if unit == "%" else 1
        pairs = {
            name: [(line["step"], scale * line["subnets"].get(name, {}).get(key, math.nan)) for line in steps]
            for name in shades
        }
        yield from _plot(title, remark, pairs, unit, shades)
    rates = {"learning rate": [(line["step"], line["lr"]) for line in steps]}
    yield from _plot("Learning rate", "Of each logged step.", rates, "", None)
    speeds = {"images per second": [(line["step"], line["images_per_second"]) for line in steps]}
    yield from _plot("Images per second", "Over all processes, between two logged steps.", speeds, "", None)


def _plot(
    title: str, remark: str, pairs: Mapping[str, Points], unit: str, shades: Mapping[str, int] | None
) -> Iterator[Plot]:
    """A plot of the curves that have points, if there are any."""
    curves = {name: points for name, values in pairs.items() if (points := _thinned(values))}
    if curves:
        yield Plot(title, remark, curve_plot(title, "step", curves, shades=shades, unit=unit))


def _thinned(pairs: Points) -> list[tuple[float, float]]:
    """The finite points, or means of groups of them if they are too many."""
    points = [(float(step), float(value)) for step, value in pairs if math.isfinite(value)]
    size = math.ceil(len(points) / MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
