"""Cold start and peak memory of a model, measured in fresh processes.

Run as a script, this file loads one model, runs it, and prints times and memory as JSON. For ONNX it imports only ONNX
Runtime and NumPy, so that the process contains little else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

REPEATS = 3
MEMORY_RUNS = 3
PHOTOGRAPH = (375, 500)
"""See `alphanet_export.runtimes.runtime`, which the process that measures an ONNX file does not import."""
MODULES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "executorch": ("torch", "executorch.runtime"),
    "pytorch": ("torch",),
    "exported-program": ("torch",),
    "aot-inductor": ("torch", "torch._inductor"),
}
"""Modules that each runtime imports before it loads a model."""


@dataclass(frozen=True)
class Startup:
    """Wall times of a fresh process up to its first result, in milliseconds; medians over processes.

    The files are in the page cache, so reading them from disk is not included.

    Args:
        total_ms: From the start of the process to the first result, including Python's own start.
        import_ms: Importing the runtime and NumPy.
        load_ms: Opening the model and optimising its graph.
        first_ms: The first run.
        repeats: Number of processes.
        threads: Threads within an operator.
    """

    total_ms: float
    import_ms: float
    load_ms: float
    first_ms: float
    repeats: int
    threads: int


@dataclass(frozen=True)
class Memory:
    """Memory that loading and running a model adds to a process.

    Args:
        peak_mb: Largest resident memory while loading and running, minus ``baseline_mb``, in MB (10^6 bytes).
        baseline_mb: Resident memory of the process after importing the runtime, before loading the model.
        batch: Images per run.
        threads: Threads within an operator.
    """

    peak_mb: float
    baseline_mb: float
    batch: int
    threads: int


def measure_process(
    model_path: str | os.PathLike[str],
    *,
    threads: int,
    batch: int = 1,
    repeats: int = REPEATS,
    size: int | None = None,
) -> tuple[Startup, Memory | None]:
    """Starts fresh processes that load a model, run it once on one image and then three times on a batch.

    Args:
        model_path: A file of any format that has a runtime here.
        threads: Threads within an operator.
        batch: Images per run for the memory.
        repeats: Number of processes.
        size: Side of the input in pixels; None to take it from the file.

    Returns:
        Medians over the processes. The memory is None on systems that do not report the peak memory of a process
        (Windows).

    Raises:
        UsageError: The file does not exist, or it has an unknown format.
        AlphaNetError: A process failed; the message ends with its last line.
    """
    with _checked_copy(model_path) as path:
        steps = [_fresh_process(path, threads, batch, size) for _ in range(repeats)]
    medians = {name: 1e3 * median(step[name] for step in steps) for name in ("total", "import", "load", "first")}
    startup = Startup(medians["total"], medians["import"], medians["load"], medians["first"], repeats, threads)
    if steps[0]["peak"] is None:
        return startup, None
    peak, baseline = (median(step[name] for step in steps) / 1e6 for name in ("peak", "baseline"))
    return startup, Memory(peak, baseline, batch, threads)


@contextmanager
def _checked_copy(model_path: str | os.PathLike[str]) -> Iterator[str | os.PathLike[str]]:
    """A file that the runtime may open by its path: for ONNX, a copy of the checked content, alone in a folder."""
    from alphanet_export.formats import format_of

    if format_of(model_path).name != "onnx":
        yield model_path
        return
    from alphanet_export.onnx_model import parse_proto, read_model

    content = read_model(model_path)
    parse_proto(model_path, content)
    with tempfile.TemporaryDirectory(prefix="alphanet-verify-") as folder:
        copy = os.path.join(folder, "model.onnx")
        with open(copy, "wb") as file:
            file.write(content)
        yield copy


def _fresh_process(model_path: str | os.PathLike[str], threads: int, batch: int, size: int | None) -> dict[str, Any]:
    """Runs this file as a script on a model; returns what `_measure` returns, and ``total`` seconds."""
    from alphanet_export.formats import format_of  # Not imported by the process that measures an ONNX file.
    from alphanet_zoo.errors import AlphaNetError

    # -P: the folder of this file must not hide modules of the standard library.
    words = [os.fspath(model_path), str(format_of(model_path).runtime), *map(str, (threads, batch, size or 0))]
    start = time.time()
    done = subprocess.run([sys.executable, "-P", __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise AlphaNetError(f"loading and running {os.fspath(model_path)} in a fresh process failed: {last}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"total": figures["end"] - start}


def _measure(path: str, runtime: str, threads: int, batch: int, size: int) -> dict[str, float | None]:
    """Loads and runs a model in this process: seconds of each step, time of day after the first run, and bytes.

    ``size`` is the side of the input in pixels; 0 takes it from the file.
    """
    begin = time.perf_counter()
    import numpy as np

    for name in MODULES[runtime]:
        import_module(name)
    imported, before = time.perf_counter(), _resident_and_peak()
    infer, side = _onnxruntime(path, threads) if runtime == "onnxruntime" else _other(path, threads)
    loaded = time.perf_counter()
    shape, kind = ((*PHOTOGRAPH, 3), np.uint8) if side is None else ((3, size or side, size or side), np.float32)
    infer(np.ones((1, *shape), kind))
    first, end = time.perf_counter(), time.time()
    images = np.ones((batch, *shape), kind)
    for _ in range(MEMORY_RUNS):
        infer(images)
    after = _resident_and_peak()
    return {
        "import": imported - begin,
        "load": loaded - imported,
        "first": first - loaded,
        "end": end,
        "baseline": before[0] if before else None,
        "peak": after[1] - before[0] if before and after else None,
    }


def _onnxruntime(path: str, threads: int) -> tuple[Callable[[Any], object], int | None]:
    """A model in ONNX Runtime, imported without this package; and the side of its input, None if it takes any size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    side = None if given.type == "tensor(uint8)" else given.shape[2]
    return lambda images: session.run(None, {given.name: images}), side


def _other(path: str, threads: int) -> tuple[Callable[[Any], object], int | None]:
    """A model in another runtime; and the side of its input, 0 if it is not in the file, None if it takes any size."""
    from alphanet_export.runtimes.runtime import open_runtime

    runtime = open_runtime(path, threads=threads)
    return runtime.infer, None if runtime.embedded else runtime.input_size or 0


def _resident_and_peak() -> tuple[int, int] | None:
    """Resident bytes of this process, now and at most; None if the system does not report them.

    On Linux from /proc, because ``ru_maxrss`` of a fresh process starts at the value of its parent.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
        return tuple(int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))))
