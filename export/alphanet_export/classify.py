"""Opens an exported file as the model of a `alphanet_zoo.predict.classifier.Classifier`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphanet_export.formats import format_of
from alphanet_export.metadata import decoded_entries, read_sidecar
from alphanet_export.runtimes.runtime import FloatArray, Runtime, open_runtime
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.predict.model import ImageModel, preprocessed


def open_model_file(
    path: str | os.PathLike[str], preprocessing: Preprocessing | None = None, threads: int | None = None
) -> ImageModel:
    """Opens a file on the runtime of its format.

    Args:
        path: The file. The digests of a sidecar are checked before the runtime opens it.
        preprocessing: For a file without metadata.
        threads: Threads within an operator; None is the number of physical cores.

    Raises:
        UsageError: The file does not exist, it has an unknown format, or the file and the caller have a preprocessing
            each, or neither has one.
        MissingDependencyError: The runtime is not installed.
        AlphaNetError: The file is corrupt or has changed, or its metadata does not fit its input.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not an exported file; open a run or a saved network with Classifier({str(path)!r})"
        )
    runtime, metadata = opened_file(path, threads)
    described: dict[str, Any] = {
        "labels": tuple(metadata["labels"]) if metadata.get("labels") else None,
        "multi_label": bool(metadata.get("multi_label")),
        "random_weights": metadata.get("weights") == "random",
        "name": str(path),
        "classes": metadata.get("num_classes"),
        "runtime": runtime.title,
    }
    spec = _preprocessing(path, metadata, preprocessing)
    if runtime.embedded:
        return ImageModel(lambda image: image, lambda images: _embedded_inference(runtime, images), **described)
    if runtime.input_size not in (None, spec.input_size):
        raise AlphaNetError(
            f"{path} takes images of {runtime.input_size} pixels, and its preprocessing gives {spec.input_size}; "
            "pass the preprocessing that belongs to it, or export it again"
        )

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(padded_inference(runtime, images.numpy()))

    return preprocessed(spec, predict, **described)


def opened_file(path: str | os.PathLike[str], threads: int | None = None) -> tuple[Runtime, Mapping[str, Any]]:
    """The runtime of a file, and its metadata; see `open_model_file`, also for the exceptions."""
    path = Path(path)
    recorded = read_sidecar(path, format_of(path))
    runtime = open_runtime(path, threads=threads)
    return runtime, recorded or decoded_entries(path, runtime.metadata)


def _preprocessing(path: Path, metadata: Mapping[str, Any], given: Preprocessing | None) -> Preprocessing:
    """The preprocessing of a file, from its metadata or from the caller."""
    if "preprocessing" not in metadata:
        if given is None:
            raise UsageError(
                f"{path} has no metadata of alphanet export, so its preprocessing is unknown; pass its input_size, "
                "resize_size, interpolation, mean and std: --preprocessing FILE.json (preprocessing=Preprocessing(...))"
            )
        return given
    if given is not None:
        raise UsageError(f"{path} has its own preprocessing in its metadata; remove --preprocessing (preprocessing=)")
    try:
        return Preprocessing.from_dict(metadata["preprocessing"])
    except (ValueError, TypeError) as error:
        raise AlphaNetError(f"{path}: its metadata is not valid ({error}); export it again") from error


def _embedded_inference(runtime: Runtime, images: Sequence[Tensor]) -> Tensor:
    """Logits of decoded images ``(3, H, W)`` uint8 of any sizes, by a file that includes its preprocessing."""
    batches = (np.ascontiguousarray(image.permute(1, 2, 0).numpy()[None]) for image in images)
    return torch.from_numpy(np.concatenate([runtime.infer(batch) for batch in batches]))


def padded_inference(runtime: Runtime, images: FloatArray) -> FloatArray:
    """Logits of any number of images; the last batch of a model with a fixed batch size is padded."""
    missing = -len(images) % (runtime.batch or 1)
    padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
    return runtime.infer(np.ascontiguousarray(padded))[: len(images)]
