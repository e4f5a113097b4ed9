"""What every runtime offers: load, infer, close."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from alphanet_export.verify.environment import physical_cores
from alphanet_zoo.errors import AlphaNetError, UsageError

FloatArray = npt.NDArray[np.float32]

PRECISIONS = ("fp32", "bf16", "fp16")
"""Arithmetic that can be asked for. ``fp32`` takes a file as it is written, one with integers inside included."""
PREFIX = "alphanet."


class Runtime(ABC):
    """A classifier loaded on the CPU; `alphanet_export.runtimes.opening.open_runtime` opens one.

    A context manager, which closes it.

    Args:
        label: What it runs, for messages.
        threads: Threads within an operator; None is the physical cores that this process may use.
        precision: One of `precisions`.

    Attributes:
        name: Of the runtime.
        title: The same, as people call it.
        precisions: Those of `PRECISIONS` that it can be asked for; whether this CPU has one is seen on loading.
        input_size: Side of the square input in pixels; None where any will do.
        batch: The one number of images it takes; None where any will do.
        metadata: The file's ``alphanet.*`` entries, JSON each, by their whole key; empty for a net in memory.

    Raises:
        UsageError: A value is out of its domain, or the runtime does not have the precision.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def __init__(self, label: str, threads: int | None = None, precision: str = "fp32") -> None:
        """Checks the settings; a subclass loads the model into ``_engine``."""
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; give 1 or more")
        if precision not in self.precisions:
            known = f"it takes {' or '.join(self.precisions)}"
            raise UsageError(f"{self.title} cannot be asked for {precision}; {known}")
        self.label = label
        self.threads = physical_cores() if threads is None else threads
        self.precision = precision
        self.input_size: int | None = None
        self.batch: int | None = None
        self.metadata: Mapping[str, str] = {}
        self._engine: Any = None

    def infer(self, images: FloatArray) -> FloatArray:
        """Logits ``(N, classes)``, float32, of normalised images ``(N, 3, S, S)``, float32.

        A model of a fixed batch gets them part by part.

        Raises:
            ValueError: The images have another shape or type, or the runtime is closed.
            AlphaNetError: The runtime fails.
        """
        self._check(images)
        step = self.batch or len(images)
        try:
            parts = [self._run(np.ascontiguousarray(images[i : i + step])) for i in range(0, len(images), step)]
        except Exception as error:  # Each runtime has its own kinds, most of them plain RuntimeErrors.
            raise AlphaNetError(f"{self.title} cannot run {self.label}: {error}") from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Lets go of the model. Closing twice does nothing."""
        self._engine = None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    @abstractmethod
    def _run(self, images: FloatArray) -> FloatArray:
        """Logits of one batch that the model takes, in memory of their own."""

    def _check(self, images: FloatArray) -> None:
        """Raises where the images are none that the model takes."""
        if self._engine is None:
            raise ValueError(f"{self.title} has closed {self.label}; open it again")
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


def only_ours(entries: Mapping[str, str]) -> dict[str, str]:
    """The entries whose key begins with ``alphanet.``."""
    return {key: value for key, value in entries.items() if key.startswith(PREFIX)}
