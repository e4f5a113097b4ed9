"""Loads a file or a network in a runtime. Every runtime has the same three methods: load, infer, close."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from alphanet_export.formats import format_of
from alphanet_export.verify.environment import physical_cores
from alphanet_zoo.errors import AlphaNetError, UsageError

if TYPE_CHECKING:
    from torch import nn

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]

PHOTOGRAPH = (375, 500)
"""Height and width of the image that a file with its preprocessing inside is timed on; common in ImageNet."""
PRECISIONS = ("fp32", "bf16", "fp16")
"""Arithmetic to request. ``fp32`` runs a file as it was written; int8 files stay int8."""
PREFIX = "alphanet."
"""Start of every metadata key."""

RUNTIMES = {
    "pytorch": ("torch_runtimes", "Eager"),
    "pytorch-compiled": ("torch_runtimes", "Compiled"),
    "exported-program": ("torch_runtimes", "Program"),
    "aot-inductor": ("torch_runtimes", "AotInductor"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "openvino": ("open_vino", "OpenVino"),
    "executorch": ("executorch_xnnpack", "ExecuTorch"),
}
"""Module and class of every runtime, by name. The module is imported when the runtime is opened."""

_NETS = ("pytorch", "pytorch-compiled")
"""Runtimes that run a network in memory; the others run a file."""


class Runtime(ABC):
    """A classifier loaded on the CPU; `open_runtime` opens one. A context manager that closes it.

    Args:
        label: Name of the model, for messages.
        threads: Threads within an operator; None is the number of physical cores that this process may use.
        precision: One of `precisions`.

    Attributes:
        name: Key of `RUNTIMES`.
        title: Name for people.
        precisions: The `PRECISIONS` that it supports; whether this CPU supports one is checked on loading.
        input_size: Side of the square input in pixels; None if any size is accepted.
        batch: The only batch size it accepts; None if any is accepted.
        embedded: Whether it includes the preprocessing, so that it takes uint8 images of any size.
        metadata: The ``alphanet.*`` entries in the file, each JSON, by their full key; empty for a network in memory.

    Raises:
        UsageError: A value is out of its domain, or the runtime does not support the precision.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def __init__(self, label: str, threads: int | None = None, precision: str = "fp32") -> None:
        """Checks the settings; a subclass loads the model into ``_engine``."""
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; pass 1 or more")
        if precision not in self.precisions:
            raise UsageError(f"{self.title} does not support {precision}; pass {' or '.join(self.precisions)}")
        self.label = label
        self.threads = physical_cores() if threads is None else threads
        self.precision = precision
        self.input_size: int | None = None
        self.batch: int | None = None
        self.embedded = False
        self.metadata: Mapping[str, str] = {}
        self._engine: Any = None

    def infer(self, images: ImageArray) -> FloatArray:
        """Logits ``(N, classes)``, float32, of images.

        A model with a fixed batch size runs the images in several parts. If the output of a file is probabilities,
        these are their natural logarithms, so that the softmax of the result is always the probabilities.

        Args:
            images: Normalised ``(N, 3, S, S)``, float32; or RGB ``(N, H, W, 3)``, uint8, if `embedded`.

        Raises:
            ValueError: The images have another shape or type, or the runtime is closed.
            AlphaNetError: The runtime fails.
        """
        self._check(images)
        step = self.batch or len(images)
        try:
            parts = [self._run(np.ascontiguousarray(images[i : i + step])) for i in range(0, len(images), step)]
        except Exception as error:  # Each runtime raises its own types, mostly plain RuntimeErrors.
            raise AlphaNetError(f"{self.title} cannot run {self.label}: {error}") from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def example(self, batch: int, size: int | None = None) -> ImageArray:
        """Random images for timing, the same on every call.

        Args:
            batch: Number of images.
            size: Side of the input in pixels, if the file does not contain it.
        """
        rng, side = np.random.default_rng(0), self.input_size or size
        if self.embedded:
            return rng.integers(0, 256, (batch, *PHOTOGRAPH, 3), np.uint8)
        assert side is not None, "the file does not contain its input size"
        return rng.standard_normal((batch, 3, side, side), dtype=np.float32)

    def close(self) -> None:
        """Releases the model. Closing twice has no effect."""
        self._engine = None

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    @abstractmethod
    def _run(self, images: Any) -> FloatArray:
        """Logits of one batch that the model accepts, in memory of their own."""

    def _check(self, images: ImageArray) -> None:
        """Raises ValueError if the model does not accept the images."""
        if self._engine is None:
            raise ValueError(f"{self.title} has closed {self.label}; open it again")
        if self.embedded:
            if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape:
                raise ValueError(f"{self.label} takes uint8 RGB images of shape (N, H, W, 3), not {images.dtype} of "
                                 f"shape {images.shape}")  # fmt: skip
            return
        size = self.input_size
        if images.ndim != 4 or images.shape[1] != 3 or size not in (None, images.shape[2]) or size not in (
            None, images.shape[3]
        ):  # fmt: skip
            raise ValueError(f"{self.label} takes images of shape (N, 3, {size or 'S'}, {size or 'S'}), "
                             f"not {images.shape}")  # fmt: skip
        if images.dtype != np.float32:
            raise ValueError(f"{self.label} takes float32 images, not {images.dtype}; convert them")
        if not len(images) or len(images) % (self.batch or 1):
            raise ValueError(f"{self.label} takes {self.batch or 1} images at a time, not {len(images)}")


def open_runtime(
    model: str | os.PathLike[str] | nn.Module,
    name: str | None = None,
    *,
    threads: int | None = None,
    precision: str = "fp32",
) -> Runtime:
    """Loads a model.

    Args:
        model: A file that ``alphanet export`` wrote, or a network in eval mode.
        name: A key of `RUNTIMES`. None: the runtime of the file's format, or PyTorch in eager mode for a network.
        threads: Threads within an operator; None is the number of physical cores that this process may use.
        precision: One of `PRECISIONS`.

    Raises:
        UsageError: There is no such file or runtime, the runtime does not run the model, or the runtime or this CPU
            does not support the precision.
        MissingDependencyError: The runtime is not installed.
        AlphaNetError: The file cannot be loaded.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if name is not None and name not in RUNTIMES:
        close = difflib.get_close_matches(name, RUNTIMES, 1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"unknown runtime {name!r}; {hint}choose from {', '.join(RUNTIMES)}")
    is_file = isinstance(model, str | os.PathLike)
    fitting = (str(format_of(model).runtime),) if isinstance(model, str | os.PathLike) else _NETS
    if name is not None and name not in fitting:
        called = str(model) if is_file else f"a {type(model).__name__} in memory"
        raise UsageError(f"{name} does not run {called}; use {' or '.join(fitting)}")
    module, class_name = RUNTIMES[name or fitting[0]]
    opened = getattr(import_module(f"alphanet_export.runtimes.{module}"), class_name)
    runtime: Runtime = opened(model, threads, precision)
    return runtime


def alphanet_entries(entries: Mapping[str, str]) -> dict[str, str]:
    """The entries whose key begins with ``alphanet.``."""
    return {key: value for key, value in entries.items() if key.startswith(PREFIX)}
