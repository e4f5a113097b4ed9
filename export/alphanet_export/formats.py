"""The formats that can be exported and verified: plain data, so that a command line is checked before torch loads."""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from alphanet_export.packages import require_compiler, require_package
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import exported_in


@dataclass(frozen=True)
class Format:
    """One file format.

    Args:
        name: Its name on the command line.
        title: Name of the runtime that runs it, for messages.
        ending: Ending of the file, or of the folder, that the runtime opens.
        runtime: Key of `alphanet_export.runtimes.runtime.RUNTIMES`; None if no runtime runs it on Linux.
        distribution: Python distribution whose version identifies the runtime.
        companions: Endings of the files that belong beside it.
        sidecar: Whether the export writes ``<file name>.json`` beside it, with the metadata and the SHA-256 of every
            file. For formats whose metadata can be read only by running the file, or that have several files.
        package: Package to import beside the required dependencies.
        extra: The extra of ``alphanet-zoo`` that installs the package.
        compiles: Whether the export requires a C++ compiler.
        dynamic_batch: Whether the batch size can be dynamic.
        resizes: Whether the graph can resize its input (bicubic).
        embeds: Whether the graph can include the preprocessing.
        int8: Whether int8 files can be written.
    """

    name: str
    title: str
    ending: str
    runtime: str | None
    distribution: str
    companions: tuple[str, ...] = ()
    sidecar: bool = False
    package: str | None = None
    extra: str = ""
    compiles: bool = False
    dynamic_batch: bool = True
    resizes: bool = True
    embeds: bool = False
    int8: bool = False

    @property
    def runs_here(self) -> bool:
        """Whether parity can be measured on this system."""
        return self.runtime is not None

    def path(self, base: Path) -> Path:
        """The file of this format for a model at ``base``, a path without ending."""
        return base.with_name(base.name + self.ending)

    def weight_files(self, path: Path) -> tuple[Path, ...]:
        """``path`` and the files that the runtime opens with it."""
        stem = path.name[: -len(self.ending)]
        return (path, *(path.with_name(stem + ending) for ending in self.companions))

    def sidecar_path(self, path: Path) -> Path | None:
        """``<file name>.json`` beside the file; None if the format has no sidecar."""
        return path.with_name(f"{path.name}.json") if self.sidecar else None

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of an export to ``path``."""
        sidecar = self.sidecar_path(path)
        return (*self.weight_files(path), *([sidecar] if sidecar else []))

    def report_path(self, path: Path) -> Path:
        """Default place of the report: ``<stem>.verify.json`` for ONNX, ``<file name>.verify.json`` otherwise."""
        return path.with_name(f"{path.stem if self.name == 'onnx' else path.name}.verify.json")

    def require(self) -> None:
        """Checks that everything the format needs is installed.

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
        Format("onnx", "ONNX Runtime", ".onnx", "onnxruntime", "onnxruntime", embeds=True, int8=True),
        Format("ort", "ONNX Runtime (ORT format)", ".ort", "onnxruntime", "onnxruntime", sidecar=True, embeds=True,
               int8=True),
        Format("openvino", "OpenVINO", ".xml", "openvino", "openvino", companions=(".bin",), sidecar=True,
               package="openvino", extra="openvino", embeds=True, int8=True),
        Format("executorch", "ExecuTorch", ".pte", "executorch", "executorch", sidecar=True, package="executorch",
               extra="executorch", dynamic_batch=False),
        Format("coreml", "Core ML", ".mlpackage", None, "coremltools", package="coremltools", extra="coreml",
               dynamic_batch=False, resizes=False),
        Format("pt2", "PyTorch ExportedProgram", ".pt2", "exported-program", "torch"),
        Format("aoti", "AOTInductor", ".aoti.pt2", "aot-inductor", "torch", sidecar=True, compiles=True),
        Format("safetensors", "PyTorch", ".safetensors", "pytorch", "torch", resizes=False),
    )
}  # fmt: skip
"""The formats by name, in the order in which they are written."""

CONVERTED = {
    **dict.fromkeys(("litert", "tflite"), "export .pt2 and convert it to LiteRT as docs/export.md describes (LiteRT)"),
    **dict.fromkeys(("tensorrt", "engine"), "export .onnx and run trtexec as docs/export.md describes (ONNX)"),
    "torchscript": "PyTorch has deprecated TorchScript; export .pt2, which torch.export.load opens",
}
"""Formats (or their endings) that users of other tools ask for, and what to do."""

INT8_LOG_ENDING = ".quantization.json"
"""Ending of the log that is written beside an int8 file, after the file's name."""


def parse_formats(text: str) -> tuple[str, ...]:
    """The names in a list such as ``onnx,openvino``, without repeats, in the order of `FORMATS`.

    Raises:
        UsageError: A name is unknown or empty.
    """
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            if name in CONVERTED:
                raise UsageError(f"{name} is not a format of this package; {CONVERTED[name]}")
            close = difflib.get_close_matches(name, FORMATS, 1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"unknown format {name!r}; {hint}choose from {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def format_by_ending(path: str | os.PathLike[str] | None) -> str | None:
    """The key of `FORMATS` whose ending a file name has; None if there is none."""
    name = Path(path or "").name.lower()
    return max((each.name for each in FORMATS.values() if name.endswith(each.ending)),
               key=lambda each: len(FORMATS[each].ending), default=None)  # fmt: skip


def check_formats(names: Iterable[str], *, dynamic_batch: bool, resizes: bool = False, embeds: bool = False) -> None:
    """Checks that every format supports the options, and that its dependencies are installed.

    Args:
        names: Keys of `FORMATS`.
        dynamic_batch: Whether the batch size is dynamic.
        resizes: Whether the graph resizes its input.
        embeds: Whether the graph includes the preprocessing.

    Raises:
        UsageError: A format does not support an option; the message names both.
        MissingDependencyError: A package is missing.
        MissingProgramError: A compiler is missing.
    """
    formats = [FORMATS[name] for name in names]
    if embeds and dynamic_batch:
        raise UsageError(
            "--embed-preprocessing does not support --dynamic-batch: images differ in size, so the file takes one at a "
            "time"
        )
    for each in formats:
        if dynamic_batch and not each.dynamic_batch:
            raise UsageError(f"--format {each.name} does not support --dynamic-batch: it takes one image at a time")
        if embeds and not each.embeds:
            able = " and ".join(name for name, form in FORMATS.items() if form.embeds)
            raise UsageError(f"--embed-preprocessing supports --format {able}, not {each.name}")
        if resizes and not each.resizes:
            raise UsageError(
                f"--format {each.name} does not support --img-size: it has no bicubic resize; "
                "remove --img-size, so that the input has the arch's resolution"
            )
    for each in formats:
        each.require()


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format of an existing file, by its ending and, for a ``.pt2`` archive, by its contents.

    Raises:
        UsageError: The file does not exist, or the format is unknown or does not run on Linux.
        AlphaNetError: The ``.pt2`` archive is damaged.
    """
    path = Path(path)
    ending = path.suffix.lower()
    found = {each.ending: each for each in FORMATS.values()}.get(ending)
    if found is None and path.is_dir():
        exported = exported_in(path)
        remedy = "pass a file that alphanet export wrote" if exported is None else f"pass the file in it: {exported}"
        raise UsageError(f"{str(path)!r} is a folder; {remedy}")
    if found is None:
        known = ", ".join(each.ending for each in FORMATS.values() if each.runs_here)
        raise UsageError(f"{path}: unknown file type; pass a file that alphanet export wrote, with the ending {known}")
    if not found.runs_here:
        raise UsageError(f"{path}: Core ML runs on macOS only; open it there with coremltools, or export ONNX")
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; pass a file that alphanet export wrote")
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is not a file; pass one that alphanet export wrote")
    if ending != ".pt2":
        return found
    try:
        with zipfile.ZipFile(path) as archive:
            compiled = any("/data/aotinductor/" in name for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise AlphaNetError(f"{path} is corrupt or truncated ({error}); export it again") from error
    return FORMATS["aoti" if compiled else "pt2"]
