"""Measures an exported file: parity, accuracy, latency, memory and, for ONNX, its graph."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphanet_export.formats import FORMATS, format_of
from alphanet_export.metadata import ExportedModel, open_exported
from alphanet_export.verify.environment import current_environment, physical_cores
from alphanet_export.verify.measure.ab import measure_ratio
from alphanet_export.verify.measure.accuracy import BATCH, accuracy_of, answers_of_file
from alphanet_export.verify.measure.diagnostics import diagnose, thumbnail
from alphanet_export.verify.measure.energy import measure_energy
from alphanet_export.verify.measure.graph_health import measure_health
from alphanet_export.verify.measure.graph_rules import graph_rules
from alphanet_export.verify.measure.latency import (
    check_batch,
    measure_latency,
    measure_throughput,
    open_alone,
    thread_counts,
)
from alphanet_export.verify.measure.mcnemar import McNemar, compare_right, recorded_classes
from alphanet_export.verify.measure.parity import (
    SYNTHETIC_IMAGES,
    allow_rounding,
    measure_consistency,
    measure_parity,
    synthetic_images,
    synthetic_photographs,
    tolerance_of,
)
from alphanet_export.verify.measure.process import measure_process
from alphanet_export.verify.measure.robustness import measure_robustness
from alphanet_export.verify.measure.weights import compare_weights
from alphanet_export.verify.reference import assumed_metadata, open_reference
from alphanet_export.verify.report.figures import Data
from alphanet_export.verify.report.report import VerificationReport
from alphanet_export.verify.report.stamp import write_stamp
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.images import read_image
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import spread, spread_indices
from alphanet_zoo.evaluate.evaluator import Answers, Evaluator
from alphanet_zoo.nn.family import Network

STAGES = 7
"""Largest number of stages of `verify_model`."""


@dataclass(frozen=True)
class Settings:
    """Options of `verify_model`.

    Args:
        limit: Number of images of the data to use, spread evenly over it; None is all.
        parity_only: Use the data for parity only: its folders need not be the model's classes.
        labels_by_position: Class i of the data is output i of the model, whatever their names.
        tolerance: Largest relative error of parity. None: `alphanet_export.verify.measure.parity.tolerance_of`,
            or, for an int8 file, `alphanet_export.verify.measure.parity.INT8_LEAST_DB`.
        min_top1: Floor of top-1, in percent.
        max_latency_ms: Target of the median latency.
        threads: Threads within an operator; None is the number of physical cores.
        batch: Images per run for latency and memory.
        repeats: Minimum number of timed runs.
        seconds: Minimum time for the latency, and as much for the ratio; a sixth of it for each point of the
            throughput, a third for energy.
        starts: Number of fresh processes for the cold start and the memory.
        max_ratio: Target of the ratio of times.
        any_graph: Report, but accept, an ONNX graph that ONNX Runtime does not fully fuse.
        thumbnails: Include thumbnails of the most confident mistakes in the HTML report.
        corruptions: Also measure the accuracy on corrupted images, which takes 41 times as long as the accuracy.
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
    thumbnails: bool = False
    corruptions: bool = False


def verify_model(
    model_path: str | os.PathLike[str],
    *,
    reference: str | Network | None = None,
    weights: str | None = None,
    preprocessing: Preprocessing | str | os.PathLike[str] | None = None,
    calib_data: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    versus: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    progress: Callable[[str], object] = str,
) -> VerificationReport:
    """Measures an exported file in the runtime of its format.

    A bad figure does not raise here; `VerificationReport.check` raises.

    Args:
        model_path: A file that ``alphanet export`` wrote, of any format in `alphanet_export.formats.FORMATS` that runs
            here.
        reference: The network that the file must compute, see `open_reference`. None: parity with PyTorch is not
            measured; for ONNX, the optimised graphs are compared with the unoptimised one instead.
        weights: The weights of a reference that is a model's name.
        preprocessing: For a file without metadata: how an image becomes its input, as a value or a JSON file. Requires
            ``reference``.
        calib_data: The images that the file was calibrated on, for a reference that was not, see `open_reference`.
        data: A folder with one folder of images per class, for parity and accuracy. None: parity is measured on
            8 synthetic images, and accuracy is not measured.
        versus: Another file to compare times with.
        settings: Options.
        progress: Called with the name of each of the (at most `STAGES`) stages when it begins.

    Raises:
        UsageError: A file does not exist, or an argument does not fit the file.
        MissingDependencyError: The runtime of the format is not installed.
        AlphaNetError: A file is corrupt, has changed since the export, has no metadata, or cannot be run.
    """
    settings = settings or Settings()
    assumed = None if preprocessing is None else assumed_metadata(reference, weights, preprocessing)
    model = open_exported(model_path, assumed)
    check_batch(model.batch, settings.batch)
    if versus is not None:
        format_of(versus)
    folder = None if data is None else FolderSource(data)
    chosen = None if folder is None else spread(folder, settings.limit)
    evaluator = Evaluator(chosen, batch_size=BATCH, labels_by_position=settings.labels_by_position)
    labelled = folder is not None and not settings.parity_only
    if labelled:
        evaluator.outputs(model.num_classes, model.labels)
    calib = None if calib_data is None else FolderSource(calib_data)
    net, described = (None, None) if reference is None else open_reference(reference, model, weights, calib)
    onnx = model.format == "onnx"
    health = measure_health(model.path) if onnx else None
    int8 = health.precision == "int8" if health else bool(model.metadata.get("quantization"))
    tolerance = settings.tolerance
    if tolerance is None and not int8:
        tolerance = tolerance_of(model.format, model.embedding)
    images = _images(model, evaluator)
    parity, consistency = None, None
    if net is not None or onnx:
        progress("parity")
    exact = described is not None and onnx and not int8 and not described.recalibrated and "tools" in model.metadata
    weights_match = compare_weights(model, net) if exact and net is not None else None
    with recorded_classes(net) as classes:
        if net is not None:
            with warnings.catch_warnings():  # A net without statistics gives meaningless outputs, but equal ones.
                warnings.filterwarnings("ignore", message=".*batch-norm statistics", category=UserWarning)
                parity = measure_parity(
                    model.path, net, images, synthetic=folder is None, tolerance=tolerance,
                    embedding=model.embedding,
                )  # fmt: skip
        elif onnx:
            consistency = measure_consistency(model.path, images, synthetic=folder is None, tolerance=tolerance)
    if parity is not None and net is not None and settings.tolerance is None and model.embedding is None:
        parity = allow_rounding(parity, net, next(_images(model, evaluator)))
    if chosen is not None and labelled:
        progress(f"accuracy on {len(chosen)} images")
    answers = answers_of_file(model, evaluator, threads=settings.threads) if labelled else None
    robustness = None
    if labelled and settings.corruptions:
        assert chosen is not None
        outputs = evaluator.outputs(model.num_classes, model.labels)
        robustness = measure_robustness(model, chosen, outputs, threads=settings.threads)
    compared = parity or consistency
    used = compared.images if compared else len(answers.classes) if answers else 0
    return VerificationReport(
        model=model,
        file_bytes=_file_bytes(model),
        data=Data(folder.root.resolve().name if folder else None, used, folder is None),
        environment=current_environment(FORMATS[model.format]),
        reference=described,
        weights=weights_match,
        parity=parity,
        consistency=consistency,
        accuracy=accuracy_of(answers) if answers else None,
        mcnemar=_mcnemar(classes, answers),
        **_diagnostics(model, folder, answers, settings),
        robustness=robustness,
        graph_health=health,
        graph_rules=graph_rules(model, health) if health else None,
        min_top1=settings.min_top1,
        max_latency_ms=settings.max_latency_ms,
        max_ratio=settings.max_ratio,
        any_graph=settings.any_graph,
        **_times(model, versus, settings, progress),
    )


def stamp_report(report: VerificationReport) -> VerificationReport:
    """Writes a report's summary into its ONNX file; returns the report of the file as it is then.

    Raises:
        UsageError: The file is not ONNX.
        AlphaNetError: The report has a failure, or the file has changed since.
    """
    write_stamp(report)
    model = open_exported(report.model.path)
    return replace(report, model=model, file_bytes=_file_bytes(model))


def _times(
    model: ExportedModel, versus: str | os.PathLike[str] | None, settings: Settings, progress: Callable[[str], object]
) -> dict[str, Any]:
    """Everything that is measured with a clock or a counter, one after the other, by its name in the report."""
    path, batch, seconds, size = model.path, settings.batch, settings.seconds, model.input_size
    threads = physical_cores() if settings.threads is None else settings.threads
    progress("latency")
    latency = measure_latency(path, threads=threads, batch=batch, repeats=settings.repeats, seconds=seconds, size=size)
    progress("throughput")
    counts = thread_counts(settings.threads)
    throughput = measure_throughput(path, batch=model.batch, threads=counts, seconds=seconds / 6, size=size)
    progress("energy")
    with open_alone(path, threads) as runtime:
        images = runtime.example(batch, size)
        energy = measure_energy(lambda: runtime.infer(images), images_a_run=batch, seconds=seconds / 3)
    ratio = None
    if versus is not None:
        progress("ratio of times")
        ratio = measure_ratio(path, versus, threads=threads, batch=batch, rounds=settings.repeats, seconds=seconds)
    progress("cold start and memory")
    startup, memory = measure_process(path, threads=threads, batch=batch, repeats=settings.starts, size=size)
    return {
        "latency": latency,
        "throughput": throughput,
        "startup": startup,
        "memory": memory,
        "energy": energy,
        "timing_ratio": ratio,
    }


def _diagnostics(
    model: ExportedModel, folder: FolderSource | None, answers: Answers | None, settings: Settings
) -> dict[str, Any]:
    """Where the file errs, and thumbnails if requested, by name in the report."""
    if folder is None or answers is None:
        return {}
    indices = spread_indices(len(folder), settings.limit)
    labels = model.labels or tuple(folder.classes)

    def path(index: int) -> Path:
        return folder.path(int(indices[index]))

    found = diagnose(answers, labels, lambda index: path(index).relative_to(folder.root).as_posix())
    pictures = [folder.root / mistake.file for mistake in found.mistakes] if settings.thumbnails else []
    return {"diagnostics": found, "thumbnails": tuple(thumbnail(read_image(picture)) for picture in pictures)}


def _file_bytes(model: ExportedModel) -> int:
    """Size of the file and of the files that the runtime opens with it."""
    return sum(file.stat().st_size for file in FORMATS[model.format].weight_files(model.path))


def _mcnemar(reference: list[Tensor], file: Answers | None) -> McNemar | None:
    """McNemar's test of the file against the reference; None without labelled images or a reference."""
    if file is None or not reference:
        return None
    return compare_right(torch.cat(reference) == file.classes, file.right)


def _images(model: ExportedModel, evaluator: Evaluator) -> Iterator[Tensor]:
    """Batches of normalised images at the file's input size, or decoded images if it includes its preprocessing."""
    if evaluator.validation is None and model.embedded:
        yield from synthetic_photographs(model.preprocessing)
    elif evaluator.validation is None:
        yield synthetic_images(SYNTHETIC_IMAGES, model.input_size)
    else:
        for images, _ in evaluator.batches(None if model.embedded else model.preprocessing):
            yield images
