"""Everything that is measured of an exported file, in one call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from alphanet_export.accuracy import class_indices, measure_accuracy
from alphanet_export.environment import current_environment
from alphanet_export.graph_health import measure_health
from alphanet_export.latency import check_batch, measure_latency
from alphanet_export.memory import measure_memory
from alphanet_export.onnx_model import OnnxModel, open_model
from alphanet_export.parity import TOLERANCE, Parity, measure_consistency, measure_parity, synthetic_images
from alphanet_export.reference import check_classes, open_reference
from alphanet_export.report import Data, Reference, VerificationReport
from alphanet_export.source import tensors_sha256
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.zoo.preprocess import ImageFolder

SYNTHETIC_IMAGES = 8
_DECODED = 16


@dataclass(frozen=True)
class Settings:
    """How a file is measured.

    Args:
        limit: Images of the data to take, spread evenly over it; None is all.
        parity_only: Take the data for parity alone: its folders need not be the model's classes.
        tolerance: Largest relative error of parity.
        min_top1: Floor of top-1, in percent.
        max_latency_ms: Target of the median latency.
        threads: Threads within an operator for latency and memory; None is the physical cores.
        batch: Images a run for latency and memory.
        repeats: Runs to time at least.
        seconds: Time to spend on latency at least.
    """

    limit: int | None = None
    parity_only: bool = False
    tolerance: float = TOLERANCE
    min_top1: float | None = None
    max_latency_ms: float | None = None
    threads: int | None = None
    batch: int = 1
    repeats: int = 50
    seconds: float = 3.0


def verify_model(
    model_path: str | os.PathLike[str],
    *,
    reference: str | AlphaNet | None = None,
    weights: str | None = None,
    calib_data: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
) -> VerificationReport:
    """Measures an exported file: parity, accuracy, latency, memory, graph.

    Nothing raises because a figure is bad: `VerificationReport.check` does.

    Args:
        model_path: A file that ``alphanet-export`` wrote.
        reference: What it must compute: a static net in eval mode, or what `open_reference` takes. None: parity with
            PyTorch is not measured, only that ONNX Runtime's optimiser keeps what the file computes.
        weights: The weights of a reference that is a model's name.
        calib_data: The images that the file was calibrated on, for a reference that was not, see `open_reference`.
        data: A folder with a folder of images for each class, for parity and accuracy. None: parity is measured on
            8 synthetic images, accuracy not.
        settings: How to measure.

    Raises:
        UsageError: A file that does not exist, or arguments that do not fit the file.
        AlphaNetError: A file is corrupt or cannot be run.
    """
    settings = settings or Settings()
    model = open_model(model_path)
    check_batch(model.batch, settings.batch)
    folder = None if data is None else ImageFolder(Path(data))
    labelled = None if settings.parity_only else folder
    if labelled is not None:
        class_indices(model, labelled)
    calib = None if calib_data is None else ImageFolder(Path(calib_data))
    net, described = _reference(reference, model, weights, calib)
    parity = _parity(model, net, folder, settings)
    latency = measure_latency(
        model.path,
        threads=settings.threads,
        batch=settings.batch,
        repeats=settings.repeats,
        seconds=settings.seconds,
    )
    return VerificationReport(
        model=model,
        file_bytes=model.path.stat().st_size,
        data=Data(folder.root.resolve().name if folder else None, parity.images, folder is None),
        environment=current_environment(),
        reference=described,
        parity=parity if net is not None else None,
        consistency=parity if net is None else None,
        accuracy=measure_accuracy(model, labelled, limit=settings.limit) if labelled else None,
        latency=latency,
        memory=measure_memory(model.path, threads=latency.threads, batch=settings.batch),
        graph_health=measure_health(model.path),
        min_top1=settings.min_top1,
        max_latency_ms=settings.max_latency_ms,
    )


def default_json_path(model_path: str | os.PathLike[str]) -> Path:
    """Where the report of a file goes: ``<stem>.verify.json`` beside it."""
    path = Path(model_path)
    return path.with_name(f"{path.stem}.verify.json")


def _reference(
    reference: str | AlphaNet | None, model: OnnxModel, weights: str | None, calib_data: ImageFolder | None
) -> tuple[AlphaNet | None, Reference | None]:
    """The network to compare with, where there is one, and what it is."""
    if reference is None:
        return None, None
    if isinstance(reference, str):
        return open_reference(reference, model, weights, calib_data)
    check_classes(reference.num_classes, model)
    return reference, Reference("network in memory", None, tensors_sha256(reference), reference.calibration)


def _parity(model: OnnxModel, net: AlphaNet | None, folder: ImageFolder | None, settings: Settings) -> Parity:
    """The file against ``net``, or, where there is none, against its own unoptimised graph."""
    images = _images(model, folder, settings.limit)
    options = {"synthetic": folder is None, "tolerance": settings.tolerance}
    if net is None:
        return measure_consistency(model.path, images, **options)  # type: ignore[arg-type]
    with warnings.catch_warnings():  # Statistics from nowhere make outputs meaningless, and equal all the same.
        warnings.filterwarnings("ignore", message="this net's batch-norm statistics", category=UserWarning)
        return measure_parity(model.path, net, images, **options)  # type: ignore[arg-type]


def _images(model: OnnxModel, folder: ImageFolder | None, limit: int | None) -> Iterator[Tensor]:
    """Batches of normalised images at the file's input size."""
    if folder is None:
        yield synthetic_images(SYNTHETIC_IMAGES, model.input_size)
        return
    for images, _ in folder.batches(model.preprocessing, _DECODED, limit):
        yield images
