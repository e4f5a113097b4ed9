"""Provides ONNX Runtime Web, from a folder or from npm, for the web page of a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError, MissingProgramError, UsageError

ORT_WEB_VERSION = "1.30.0"
"""Version of onnxruntime-web that the page was tested with, and that is downloaded from npm by default."""

ORT_WEB_FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files in ``dist/`` that the page loads: the first two always, the others if WebGPU is selected."""


def check_ort_web(ort_web: str | os.PathLike[str] | None) -> None:
    """Checks that `ort_web_package` can provide the package, before any other work.

    Raises:
        UsageError: ``ort_web`` is not the unpacked package.
        MissingProgramError: ``ort_web`` is None and npm is not installed.
    """
    if ort_web is not None:
        _check_package(Path(ort_web))
    elif shutil.which("npm") is None:
        raise MissingProgramError(
            "npm, which downloads onnxruntime-web, is not installed; install it, or pass the unpacked npm package "
            f"onnxruntime-web {ORT_WEB_VERSION} with --ort-web"
        )


@contextmanager
def ort_web_package(ort_web: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yields a folder with the unpacked onnxruntime-web: ``ort_web``, or a temporary folder with npm's package.

    Args:
        ort_web: A folder with ``dist/`` and ``package.json``, such as ``node_modules/onnxruntime-web``. None: npm
            downloads `ORT_WEB_VERSION`.

    Raises:
        UsageError: The folder is not the package.
        MissingProgramError: ``ort_web`` is None and npm is not installed.
        AlphaNetError: npm fails.
    """
    check_ort_web(ort_web)
    if ort_web is not None:
        yield Path(ort_web)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _fetch(Path(folder))


def _fetch(folder: Path) -> Path:
    """Downloads the package with npm into a folder, and unpacks the files that the page loads."""
    npm = shutil.which("npm")
    assert npm is not None, "check_ort_web was not called"
    wanted = f"onnxruntime-web@{ORT_WEB_VERSION}"
    ran = subprocess.run([npm, "pack", wanted, "--pack-destination", str(folder)], cwd=folder, text=True,
                         capture_output=True)  # fmt: skip
    archives = list(folder.glob("*.tgz"))
    if ran.returncode or len(archives) != 1:
        lines = [line for line in ran.stderr.splitlines() if "error" in line.lower()] or ["no archive was written"]
        raise AlphaNetError(f"npm could not download {wanted} ({lines[-1]}); pass an unpacked package with --ort-web")
    members = {f"package/dist/{name}" for name in ORT_WEB_FILES} | {"package/package.json"}
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            if member.name in members:
                archive.extract(member, folder, filter="data")
    _check_package(folder / "package")
    return folder / "package"


def _check_package(package: Path) -> None:
    """Raises UsageError unless a folder is the unpacked onnxruntime-web."""
    missing = [name for name in ORT_WEB_FILES if not (package / "dist" / name).is_file()]
    if missing or package_facts(package).get("name") != "onnxruntime-web":
        lacks = f"dist/{missing[0]}" if missing else "a package.json with the name onnxruntime-web"
        raise UsageError(
            f"--ort-web {package} lacks {lacks}; pass the unpacked npm package onnxruntime-web {ORT_WEB_VERSION}, "
            "such as node_modules/onnxruntime-web"
        )


def package_facts(package: Path) -> dict[str, Any]:
    """The content of ``package.json`` in an unpacked package; empty if it cannot be read."""
    try:
        facts = json.loads((package / "package.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
