"""The machine and the versions of the packages that figures were measured with."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alphanet_export.formats import Format


@dataclass(frozen=True)
class Environment:
    """Machine, versions and date of a measurement.

    Args:
        cpu: Name of the processor.
        cores: Physical cores that this process may use.
        system: Operating system and machine type.
        python: Version of Python.
        onnxruntime: Version of ONNX Runtime.
        onnx: Version of onnx.
        torch: Version of PyTorch.
        alphanet_zoo: Version of this package.
        date: Date and time in UTC, ISO 8601.
        runtime: Name and version of the runtime that ran the file; None if figures of several runtimes are compared.
    """

    cpu: str
    cores: int
    system: str
    python: str
    onnxruntime: str
    onnx: str
    torch: str
    alphanet_zoo: str
    date: str
    runtime: str | None = None


def current_environment(form: Format | None = None) -> Environment:
    """This machine, now, with the runtime of a format."""
    return Environment(
        cpu=cpu_name(),
        cores=physical_cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=_version("onnxruntime"),
        onnx=_version("onnx"),
        torch=_version("torch"),
        alphanet_zoo=_version("alphanet-zoo"),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=None if form is None else f"{form.title} {_version(form.distribution)}",
    )


def cpu_name() -> str:
    """Name of the processor, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def physical_cores() -> int:
    """Physical cores that this process may use: its CPU affinity without hyperthreads, within the container's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    siblings = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(siblings), _quota()))


def _siblings(cpu: int) -> str:
    """The hardware threads that share a core with ``cpu``."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Cores that the control group allows; a large number if there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 16


def _version(distribution: str) -> str:
    """The version of an installed distribution."""
    try:
        return version(distribution)
    except PackageNotFoundError:  # A build under another name, such as onnxruntime-gpu.
        return str(getattr(__import__(distribution.replace("-", "_")), "__version__", "unknown"))
