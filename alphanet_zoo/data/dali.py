"""Decoding, cropping and augmentation with NVIDIA DALI, on the GPU or the CPU: an optional engine of the batches.

Order, crops and flips are those of the default engine. AutoAugment is DALI's own: its draws come from a generator that
the pipeline keeps, so a resumed run, or one with another number of processes, does not get the same bits with it.
Tested with DALI 2.4 on the CPU; its authors have not run it on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from alphanet_zoo.data.augment import draw_crop
from alphanet_zoo.data.draws import generator, torch_seed
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.images import read_file, read_header
from alphanet_zoo.data.reader import Batch, BatchReader
from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError


def dali_batches(
    reader: BatchReader, mean: tuple[float, ...], std: tuple[float, ...], start: int, end: int, device: torch.device
) -> Iterator[Batch]:
    """The batches of the steps from ``start`` up to ``end``, made on the training device.

    A broken image stops the run: DALI decodes whole batches.

    Raises:
        MissingDependencyError: DALI is not installed.
        UsageError: The source is not a folder.
        AlphaNetError: An image is broken.
    """
    try:
        from nvidia.dali.plugin.pytorch import DALIGenericIterator
    except ImportError as error:
        raise MissingDependencyError("nvidia-dali", "dali") from error
    if not isinstance(reader.source, FolderSource):
        raise UsageError("data.engine=dali requires data.source=folder; use data.engine=torch")
    pipeline = _pipeline(reader, mean, std, start, end, device)
    try:
        for step, output in zip(range(start, end), DALIGenericIterator([pipeline], ["images", "labels"]), strict=False):
            epoch, indices = reader.indices(step)
            images = output[0]["images"].contiguous(memory_format=torch.channels_last)
            yield Batch(epoch, indices, images, output[0]["labels"].view(-1))
    except RuntimeError as error:
        raise AlphaNetError(f"DALI: {error}; find broken images with alphanet verify-data") from error


def _pipeline(
    reader: BatchReader, mean: tuple[float, ...], std: tuple[float, ...], start: int, end: int, device: torch.device
) -> Any:
    """The built pipeline; its inputs are those of `_inputs`, step by step."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import auto_augment

    size, on_gpu = [reader.config.image_size] * 2, device.type == "cuda"
    inputs = (_inputs(reader, step) for step in range(start, end))  # DALI rewrites what is written in `define`.

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=reader.batch_size, num_threads=max(reader.config.workers, 1),
        device_id=(device.index or 0) if on_gpu else None,
        seed=torch_seed(reader.seed, "dali", start, reader.rank) % 2**31, enable_conditionals=True,
    )  # fmt: skip
    def define() -> Any:
        """Encoded files and draws to normalised images."""
        encoded, anchors, shapes, flips, labels = fn.external_source(source=inputs, num_outputs=5, batch=True)
        images = fn.decoders.image_slice(
            encoded, anchors, shapes, device="mixed" if on_gpu else "cpu", output_type=types.RGB, axis_names="HW",
            normalized_anchor=False, normalized_shape=False, jpeg_fancy_upsampling=True,
        )  # fmt: skip
        images = fn.resize(images, size=size, interp_type=types.INTERP_CUBIC, antialias=True)
        images = fn.flip(images, horizontal=flips)
        if reader.config.autoaugment:
            images = auto_augment.auto_augment_image_net(images, shape=size, fill_value=0)
        scaled_mean, scaled_std = ([255.0 * value for value in values] for values in (mean, std))
        images = fn.crop_mirror_normalize(
            images, dtype=types.FLOAT, output_layout="CHW", mean=scaled_mean, std=scaled_std
        )
        return images, labels.gpu() if on_gpu else labels

    pipeline = define()
    pipeline.build()
    return pipeline


def _inputs(reader: BatchReader, step: int) -> tuple[list[Any], ...]:
    """Encoded files, crops as (top, left) and (height, width), flips and labels of one step."""
    assert isinstance(reader.source, FolderSource)
    epoch, indices = reader.indices(step)
    rows = []
    for index in indices:
        path = reader.source.path(index)
        content = read_file(path)
        header = read_header(content, str(path))
        rng = generator(reader.seed, "augment", epoch, index)
        top, left, height, width = draw_crop(header.height, header.width, rng)
        flip = np.array(rng.random() < 0.5, np.int32)
        anchor, shape = np.array([top, left], np.float32), np.array([height, width], np.float32)
        label = reader.source.labels[index].numpy().reshape(1)
        rows.append((np.frombuffer(content, np.uint8), anchor, shape, flip, label))
    return tuple(list(column) for column in zip(*rows, strict=True))
