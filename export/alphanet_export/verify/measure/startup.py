"""How long until a fresh process has its first result.

Run as a script, this file imports ONNX Runtime, loads one model and runs it, and prints what each step took; it imports
neither torch nor anything of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

REPEATS = 3


@dataclass(frozen=True)
class Startup:
    """Wall times of a fresh process up to its first result, in milliseconds; each is the median of some processes.

    The files are in the system's cache: what a disk adds is not in here.

    Args:
        total_ms: From the start of the process to the first result, Python's own start included.
        import_ms: Importing ONNX Runtime and NumPy.
        load_ms: Opening the model and optimising its graph.
        first_ms: The first run.
        repeats: How many processes.
        threads: Threads within an operator.
    """

    total_ms: float
    import_ms: float
    load_ms: float
    first_ms: float
    repeats: int
    threads: int


def measure_startup(model_path: str | os.PathLike[str], *, threads: int, repeats: int = REPEATS) -> Startup:
    """Starts fresh processes that load a model and run it once on one image, and takes the medians.

    Args:
        model_path: An ONNX file.
        threads: Threads within an operator.
        repeats: How many processes.

    Raises:
        AlphaNetError: A process failed; the message ends with its last line.
    """
    from alphanet_zoo.errors import AlphaNetError  # Not for the process that measures.

    # -P: the folder of this file must not hide modules of the standard library.
    command = [sys.executable, "-P", __file__, os.fspath(model_path), str(threads)]
    steps: list[dict[str, float]] = []
    for _ in range(repeats):
        start = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise AlphaNetError(f"starting a process with {os.fspath(model_path)} failed: {last}")
        times = json.loads(done.stdout)
        steps.append({**times, "total": times["end"] - start})
    medians = {name: 1e3 * median(step[name] for step in steps) for name in ("total", "import", "load", "first")}
    return Startup(medians["total"], medians["import"], medians["load"], medians["first"], repeats, threads)


def _run(path: str, threads: int) -> dict[str, float]:
    """Does in this process what is timed; seconds of each step, and the time of day at its end."""
    begin = time.perf_counter()
    import numpy as np
    import onnxruntime

    imported = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    side = session.get_inputs()[0].shape[2]
    session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, side, side), np.float32)})
    end = time.perf_counter()
    return {"import": imported - begin, "load": loaded - imported, "first": end - loaded, "end": time.time()}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]))))
