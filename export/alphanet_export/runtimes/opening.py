"""Opens a file in the runtime it was written for, and a net in PyTorch."""

from __future__ import annotations

import difflib
import os
import zipfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from alphanet_export.runtimes.interface import PRECISIONS, Runtime
from alphanet_zoo.errors import AlphaNetError, UsageError

if TYPE_CHECKING:
    from torch import nn

RUNTIMES = {
    "pytorch": ("eager", "Eager"),
    "pytorch-compiled": ("compiled", "Compiled"),
    "exported-program": ("exported_program", "Program"),
    "aot-inductor": ("aot_inductor", "AotInductor"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "openvino": ("open_vino", "OpenVino"),
    "executorch": ("executorch_xnnpack", "ExecuTorch"),
}
"""Every runtime by name: its module here, and its class. A module is imported when its runtime is opened."""

_NETS = ("pytorch", "pytorch-compiled")
"""Those that take a net in memory; the others take a file."""
_ENDINGS = {".onnx": "onnxruntime", ".xml": "openvino", ".pte": "executorch"}


def open_runtime(
    model: str | os.PathLike[str] | nn.Module,
    name: str | None = None,
    *,
    threads: int | None = None,
    precision: str = "fp32",
) -> Runtime:
    """Loads a model.

    Args:
        model: A file that ``alphanet-export`` wrote, or a net in eval mode.
        name: A key of `RUNTIMES`. None: the one that the file is for, or PyTorch as it is for a net.
        threads: Threads within an operator; None is the physical cores that this process may use.
        precision: One of `PRECISIONS`.

    Raises:
        UsageError: There is no such file or runtime, they do not go together, or the runtime or this CPU cannot honour
            the precision.
        MissingDependencyError: The runtime is not installed.
        AlphaNetError: The file cannot be loaded.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; there is {', '.join(PRECISIONS)}")
    if name is not None and name not in RUNTIMES:
        close = difflib.get_close_matches(name, RUNTIMES, 1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"unknown runtime {name!r}; {hint}there is {', '.join(RUNTIMES)}")
    fitting = (runtime_of(model),) if isinstance(model, str | os.PathLike) else _NETS
    if name is not None and name not in fitting:
        raise UsageError(f"{name} does not run {_called(model)}; {' or '.join(fitting)} does")
    module, class_name = RUNTIMES[name or fitting[0]]
    runtime: Runtime = getattr(import_module(f"alphanet_export.runtimes.{module}"), class_name)(
        model, threads, precision
    )
    return runtime


def runtime_of(path: str | os.PathLike[str]) -> str:
    """The name of the runtime that a file is for, by its ending and, of a ``.pt2`` archive, by what is in it.

    Raises:
        UsageError: There is no such file, or no runtime for it here.
        AlphaNetError: It is a damaged archive.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".mlpackage":
        raise UsageError(f"{path}: Core ML runs on macOS alone; open it there with coremltools, or export ONNX")
    if ending not in (*_ENDINGS, ".pt2"):
        raise UsageError(f"{path} ends in none of {', '.join((*_ENDINGS, '.pt2'))}; give a file of alphanet-export")
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no file; give one that alphanet-export wrote")
    if ending != ".pt2":
        return _ENDINGS[ending]
    try:
        with zipfile.ZipFile(path) as archive:
            compiled = any("/data/aotinductor/" in name for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise AlphaNetError(f"{path} is corrupt or cut short ({error}); export it again") from error
    return "aot-inductor" if compiled else "exported-program"


def _called(model: object) -> str:
    """A model, for a message."""
    return str(model) if isinstance(model, str | os.PathLike) else f"a {type(model).__name__} in memory"
