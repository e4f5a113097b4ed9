"""The formats that can be written: plain data, so that a command line is checked before anything heavy is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from alphanet_export.packages import require_compiler, require_package
from alphanet_zoo.errors import UsageError


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: As the command line calls it.
        title: As people call it.
        ending: Of the file, or of the folder, that a runtime opens.
        companions: Endings of the files that belong beside it.
        package: What must be importable beside our own dependencies.
        extra: Our extra that brings it.
        compiles: Whether a C++ compiler is needed.
        dynamic_batch: Whether it can take any number of images.
        resizes: Whether it can resize its input (bicubic).
        runs_here: Whether it runs on Linux, so that parity is measured before it is written.
    """

    name: str
    title: str
    ending: str
    companions: tuple[str, ...] = ()
    package: str | None = None
    extra: str = ""
    compiles: bool = False
    dynamic_batch: bool = True
    resizes: bool = True
    runs_here: bool = True

    def path(self, base: Path) -> Path:
        """The file of this format for a model at ``base``, a path without ending."""
        return base.with_name(base.name + self.ending)

    def files(self, path: Path) -> tuple[Path, ...]:
        """``path`` and the files that belong beside it."""
        stem = path.name.removesuffix(self.ending)
        return (path, *(path.with_name(stem + ending) for ending in self.companions))

    def require(self) -> None:
        """Checks that what it needs is installed.

        Raises:
            MissingDependencyError: A package is missing.
            MissingProgramError: The compiler is missing.
        """
        if self.package is not None:
            require_package(self.package, self.extra)
        if self.compiles:
            require_compiler()


FORMATS = {
    each.name: each
    for each in (
        Format("onnx", "ONNX Runtime", ".onnx"),
        Format("openvino", "OpenVINO", ".xml", companions=(".bin",), package="openvino", extra="openvino"),
        Format("executorch", "ExecuTorch", ".pte", package="executorch", extra="executorch", dynamic_batch=False),
        Format("coreml", "Core ML", ".mlpackage", package="coremltools", extra="coreml", dynamic_batch=False,
               resizes=False, runs_here=False),
        Format("pt2", "the ExportedProgram", ".pt2"),
        Format("aoti", "AOTInductor", ".aoti.pt2", compiles=True),
    )
}  # fmt: skip
"""The formats by name, in the order they are written."""

INT8_LOG_ENDING = ".quantization.json"
"""Ending of the log that is written beside an int8 file, after the file's name."""


def parse_formats(text: str) -> tuple[str, ...]:
    """The names in a list such as ``onnx,openvino``, without repeats, in the order of `FORMATS`.

    Raises:
        UsageError: A name is unknown, or there is none.
    """
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            close = difflib.get_close_matches(name, FORMATS, 1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"unknown format {name!r}; {hint}there is {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def check_formats(names: Iterable[str], *, dynamic_batch: bool, resizes: bool = False) -> None:
    """Checks that every format can be written so, and that what it needs is installed.

    Args:
        names: Keys of `FORMATS`.
        dynamic_batch: Whether any number of images is wanted.
        resizes: Whether the input is resized in the graph.

    Raises:
        UsageError: A format cannot honour an option; the message names both.
        MissingDependencyError: A package is missing.
        MissingProgramError: A compiler is missing.
    """
    formats = [FORMATS[name] for name in names]
    for each in formats:
        if dynamic_batch and not each.dynamic_batch:
            raise UsageError(f"--dynamic-batch does not go with --format {each.name}, which takes one image at a time")
        if resizes and not each.resizes:
            raise UsageError(
                f"--img-size does not go with --format {each.name}, which has no bicubic resize; "
                "leave it out, so that the input has the arch's resolution"
            )
    for each in formats:
        each.require()
