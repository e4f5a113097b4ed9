"""Everything that is measured of an exported file, in one call."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphanet_export.build import tensors_sha256
from alphanet_export.onnx_model import OnnxModel, open_model, open_session, run_logits
from alphanet_export.verify.environment import current_environment, physical_cores
from alphanet_export.verify.measure.ab import measure_ratio
from alphanet_export.verify.measure.accuracy import Classified, class_outputs, classify
from alphanet_export.verify.measure.energy import Energy, measure_energy
from alphanet_export.verify.measure.graph_health import measure_health
from alphanet_export.verify.measure.graph_rules import graph_rules
from alphanet_export.verify.measure.latency import check_batch, measure_latency
from alphanet_export.verify.measure.mcnemar import McNemar, compare_right, recorded_classes
from alphanet_export.verify.measure.memory import measure_memory
from alphanet_export.verify.measure.parity import (
    SYNTHETIC_IMAGES,
    TOLERANCE,
    Parity,
    measure_consistency,
    measure_parity,
    synthetic_images,
)
from alphanet_export.verify.measure.startup import measure_startup
from alphanet_export.verify.measure.throughput import measure_throughput, thread_counts
from alphanet_export.verify.reference import check_classes, open_reference
from alphanet_export.verify.report.report import Data, Reference, VerificationReport
from alphanet_export.verify.report.stamp import write_stamp
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import ImageSource, spread
from alphanet_zoo.nn.model import AlphaNet

_DECODED = 16


@dataclass(frozen=True)
class Settings:
    """How a file is measured.

    Args:
        limit: Images of the data to take, spread evenly over it; None is all.
        parity_only: Take the data for parity alone: its folders need not be the model's classes.
        labels_by_position: Class i of the data is output i of the model, whatever their names.
        tolerance: Largest relative error of parity. None: `TOLERANCE`, or of a file that computes in integers
            `alphanet_export.verify.measure.parity.INT8_LEAST_DB`.
        min_top1: Floor of top-1, in percent.
        max_latency_ms: Target of the median latency.
        threads: Threads within an operator for latency and memory; None is the physical cores.
        batch: Images a run for latency and memory.
        repeats: Runs to time at least.
        seconds: Time to spend on latency at least, and as much on the ratio; a sixth of it on each point of the
            throughput, a third on energy.
        starts: Fresh processes to time the cold start of.
        max_ratio: Target of the ratio of times.
        any_graph: Report, and no more, where ONNX Runtime fuses less of the graph than it must.
    """

    limit: int | None = None
    parity_only: bool = False
    labels_by_position: bool = False
    tolerance: float | None = None
    min_top1: float | None = None
    max_latency_ms: float | None = None
    threads: int | None = None
    batch: int = 1
    repeats: int = 50
    seconds: float = 3.0
    starts: int = 3
    max_ratio: float | None = None
    any_graph: bool = False


def verify_model(
    model_path: str | os.PathLike[str],
    *,
    reference: str | AlphaNet | None = None,
    weights: str | None = None,
    calib_data: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    versus: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> VerificationReport:
    """Measures an exported file: parity, accuracy, times, memory, energy, graph.

    Nothing raises because a figure is bad: `VerificationReport.check` does.

    Args:
        model_path: A file that ``alphanet-export`` wrote.
        reference: What it must compute: a static net in eval mode, or what `open_reference` takes. None: parity with
            PyTorch is not measured, only that ONNX Runtime's optimiser keeps what the file computes.
        weights: The weights of a reference that is a model's name.
        calib_data: The images that the file was calibrated on, for a reference that was not, see `open_reference`.
        data: A folder with a folder of images for each class, for parity and accuracy. None: parity is measured on
            8 synthetic images, accuracy not.
        versus: Another ONNX file to compare times with.
        settings: How to measure.

    Raises:
        UsageError: A file that does not exist, or arguments that do not fit the file.
        AlphaNetError: A file is corrupt or cannot be run.
    """
    settings = settings or Settings()
    model = open_model(model_path)
    check_batch(model.batch, settings.batch)
    folder = None if data is None else FolderSource(data)
    labelled = None if settings.parity_only else folder
    if labelled is not None:
        class_outputs(model, labelled, settings.labels_by_position)
    calib = None if calib_data is None else FolderSource(calib_data)
    net, described = _reference(reference, model, weights, calib)
    health = measure_health(model.path)
    if settings.tolerance is None and health.precision != "int8":
        settings = dataclasses.replace(settings, tolerance=TOLERANCE)
    with recorded_classes(net) as classes:
        parity = _parity(model, net, folder, settings)
    by_position = settings.labels_by_position
    classified = classify(model, labelled, limit=settings.limit, labels_by_position=by_position) if labelled else None
    return VerificationReport(
        model=model,
        file_bytes=model.path.stat().st_size,
        data=Data(folder.root.resolve().name if folder else None, parity.images, folder is None),
        environment=current_environment(),
        reference=described,
        parity=parity if net is not None else None,
        consistency=parity if net is None else None,
        accuracy=classified.accuracy if classified else None,
        mcnemar=_mcnemar(classes, classified),
        graph_health=health,
        graph_rules=graph_rules(model, health),
        min_top1=settings.min_top1,
        max_latency_ms=settings.max_latency_ms,
        max_ratio=settings.max_ratio,
        any_graph=settings.any_graph,
        **_times(model, versus, settings),
    )


def stamp_report(report: VerificationReport) -> VerificationReport:
    """Writes a report's summary into its file; the same report, of the file as it is then.

    Raises:
        AlphaNetError: The report has a failure, or the file has changed since.
    """
    write_stamp(report)
    model = open_model(report.model.path)
    return dataclasses.replace(report, model=model, file_bytes=model.path.stat().st_size)


def default_json_path(model_path: str | os.PathLike[str]) -> Path:
    """Where the report of a file goes: ``<stem>.verify.json`` beside it."""
    path = Path(model_path)
    return path.with_name(f"{path.stem}.verify.json")


def _times(model: OnnxModel, versus: str | os.PathLike[str] | None, settings: Settings) -> dict[str, Any]:
    """What is measured with a clock or a counter, one after the other, by its name in the report."""
    path, batch, seconds = model.path, settings.batch, settings.seconds
    threads = physical_cores() if settings.threads is None else settings.threads
    timing = {"threads": threads, "batch": batch, "seconds": seconds}
    return {
        "latency": measure_latency(path, repeats=settings.repeats, **timing),  # type: ignore[arg-type]
        "throughput": measure_throughput(
            path, batch=model.batch, threads=thread_counts(settings.threads), seconds=seconds / 6
        ),
        "startup": measure_startup(path, threads=threads, repeats=settings.starts),
        "memory": measure_memory(path, threads=threads, batch=batch),
        "energy": _energy(model, threads, batch, seconds / 3),
        "timing_ratio": None if versus is None else measure_ratio(path, versus, rounds=settings.repeats, **timing),  # type: ignore[arg-type]
    }


def _energy(model: OnnxModel, threads: int, batch: int, seconds: float) -> Energy:
    """Energy of runs in ONNX Runtime."""
    session = open_session(model.path, "all", threads, spin=True)
    images = synthetic_images(batch, model.input_size).numpy()
    return measure_energy(lambda: run_logits(session, images), images_a_run=batch, seconds=seconds)


def _mcnemar(reference: list[Tensor], file: Classified | None) -> McNemar | None:
    """The test, where there are labelled images and a reference that has seen them."""
    if file is None or not reference:
        return None
    return compare_right(torch.cat(reference) == file.classes, file.right)


def _reference(
    reference: str | AlphaNet | None, model: OnnxModel, weights: str | None, calib_data: ImageSource | None
) -> tuple[AlphaNet | None, Reference | None]:
    """The network to compare with, where there is one, and what it is."""
    if reference is None:
        return None, None
    if isinstance(reference, str):
        return open_reference(reference, model, weights, calib_data)
    check_classes(reference.num_classes, model)
    return reference, Reference("network in memory", None, tensors_sha256(reference), reference.calibration)


def _parity(model: OnnxModel, net: AlphaNet | None, folder: ImageSource | None, settings: Settings) -> Parity:
    """The file against ``net``, or, where there is none, against its own unoptimised graph."""
    images = _images(model, folder, settings.limit)
    options = {"synthetic": folder is None, "tolerance": settings.tolerance}
    if net is None:
        return measure_consistency(model.path, images, **options)  # type: ignore[arg-type]
    with warnings.catch_warnings():  # Statistics from nowhere make outputs meaningless, and equal all the same.
        warnings.filterwarnings("ignore", message="this net's batch-norm statistics", category=UserWarning)
        return measure_parity(model.path, net, images, **options)  # type: ignore[arg-type]


def _images(model: OnnxModel, folder: ImageSource | None, limit: int | None) -> Iterator[Tensor]:
    """Batches of normalised images at the file's input size."""
    if folder is None:
        yield synthetic_images(SYNTHETIC_IMAGES, model.input_size)
        return
    for images, _ in evaluation_batches(spread(folder, limit), model.preprocessing, _DECODED):
        yield images
