"""Peak memory of a model, measured in a process of its own.

Run as a script, this file loads and runs one model and prints what it took; it imports neither torch nor anything
of ours, so that the process holds little but ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Memory:
    """Memory that loading a model and running it adds to a process.

    Args:
        peak_mb: Most resident memory while loading and running, less ``baseline_mb``, in MB (10^6 bytes).
        baseline_mb: Resident memory of the process with ONNX Runtime imported and no model yet.
        batch: Images a run.
        threads: Threads within an operator.
    """

    peak_mb: float
    baseline_mb: float
    batch: int
    threads: int


def measure_memory(model_path: str | os.PathLike[str], *, threads: int, batch: int = 1) -> Memory | None:
    """Peak memory of loading a model and running it three times, at full optimisation.

    A fresh process does it, because this one holds PyTorch and whatever ran before.

    Args:
        model_path: An ONNX file.
        threads: Threads within an operator.
        batch: Images a run.

    Returns:
        The figures, or None on systems that do not tell a process its peak (Windows).

    Raises:
        AlphaNetError: The process failed; the message ends with its last line.
    """
    from alphanet_zoo.errors import AlphaNetError  # Not for the process that measures.

    # -P: the folder of this file must not hide modules of the standard library.
    command = [sys.executable, "-P", __file__, os.fspath(model_path), str(threads), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise AlphaNetError(f"measuring the memory of {os.fspath(model_path)} failed: {last}")
    figures = json.loads(done.stdout)
    if figures is None:
        return None
    return Memory(figures["peak"] / 1e6, figures["baseline"] / 1e6, batch, threads)


def _resident_and_peak() -> tuple[int, int] | None:
    """Resident bytes of this process, now and at most; None where the system does not tell.

    On Linux from /proc, for ``ru_maxrss`` of a fresh process starts at what its parent held.
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


def _run(path: str, threads: int, batch: int) -> dict[str, Any] | None:
    """Loads and runs the model in this process."""
    import numpy as np
    import onnxruntime

    before = _resident_and_peak()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[2]
    images = np.random.default_rng(0).standard_normal((batch, 3, side, side), dtype=np.float32)
    for _ in range(3):
        session.run(None, {session.get_inputs()[0].name: images})
    after = _resident_and_peak()
    if before is None or after is None:
        return None
    return {"baseline": before[0], "peak": after[1] - before[0]}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
