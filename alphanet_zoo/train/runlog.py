"""Logging of a run: speed and memory, a JSON line every few steps, and TensorBoard on request."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from alphanet_zoo.errors import MissingDependencyError
from alphanet_zoo.files import replacing

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

SINGLE = "network"
"""Name in the log of the network of a run that trains a single one, not a supernet."""


class RunLog:
    """Writes ``<output>/log.jsonl`` and optionally ``<output>/tensorboard``.

    Args:
        output: Output folder of the run; None writes nothing (only one process of a run writes).
        start: Number of completed steps; lines of later steps are removed from an existing log.
        tensorboard: Also write the metrics to TensorBoard.

    Attributes:
        validations: The metrics of each validation, by step.

    Raises:
        MissingDependencyError: TensorBoard is requested and not installed.
    """

    def __init__(self, output: Path | None, *, start: int, tensorboard: bool) -> None:
        """Opens the files."""
        self._writer: Any = None
        self._file: TextIO | None = None
        self.validations: dict[int, dict[str, dict[str, float]]] = {}
        if output is None:
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError("tensorboard", "train") from error
            self._writer = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1)
        path = output / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= start]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self.validations = {line["step"]: line["validation"] for line in kept if "validation" in line}
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Writes the metrics of a ``step``: numbers, and tables (``subnets``, ``validation``) of numbers by subnet."""
        self._append(line)
        step = line["step"]
        if "validation" in line:
            self.validations[step] = line["validation"]
        if self._writer is None:
            return
        for name, value in line.items():
            if isinstance(value, dict):
                prefix = "" if name == "subnets" else f"{name}_"
                for subnet, figures in value.items():
                    for figure, number in figures.items():
                        self._writer.add_scalar(f"{prefix}{figure}/{subnet}", number, step)
            elif name != "step" and value is not None:
                self._writer.add_scalar(name, value, step)

    def note(self, step: int, event: str, message: str) -> None:
        """Writes an event of a step, also as a warning of the ``logging`` module."""
        self._append({"step": step, "event": event, "message": message})
        if self._file is not None:
            _LOG.warning("step %d: %s: %s", step, event, message)

    def _append(self, line: dict[str, Any]) -> None:
        """Appends a line to the file."""
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def __enter__(self) -> RunLog:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``; empty if there is no file. An incomplete last line (killed run) is dropped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Meter:
    """Measures images per second and the time spent waiting for data.

    Args:
        device: The device of the run.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts counting."""
        self._device = device
        self._restart()

    def _restart(self) -> None:
        """Starts the next interval."""
        self._began, self._waited, self._steps, self._images = time.perf_counter(), 0.0, 0, 0

    def waiting_for(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches and measures the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield batch

    def count(self, images: int) -> None:
        """Counts one step over ``images`` images."""
        self._steps, self._images = self._steps + 1, self._images + images

    def read(self) -> dict[str, float | None]:
        """Speed since the last call, and peak memory of this process since its start, in MiB.

        ``data_seconds`` is the mean time per step spent waiting for data. ``memory_mib``: see `peak_memory`.
        """
        steps = max(self._steps, 1)
        memory = peak_memory(self._device)
        figures = {
            "images_per_second": self._images / (time.perf_counter() - self._began),
            "data_seconds": self._waited / steps,
            "memory_mib": None if memory is None else memory / 2**20,
        }
        self._restart()
        return figures


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of this process in bytes: tensors only on a GPU, the whole process on a CPU (None on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
