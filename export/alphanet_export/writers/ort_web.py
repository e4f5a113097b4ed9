"""ONNX Runtime Web, which npm has: where the page of a model takes it from."""

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
"""The onnxruntime-web that is taken from npm where no folder is given, and that the page was tested with."""

ORT_WEB_FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""What the page needs of it, in ``dist/``: the first two on any device, the others once WebGPU is chosen."""


def check_ort_web(ort_web: str | os.PathLike[str] | None) -> None:
    """Refuses what `ort_web_package` could not give, before anything is done.

    Raises:
        UsageError: ``ort_web`` is not the unpacked package.
        MissingProgramError: There is no ``ort_web`` and no npm.
    """
    if ort_web is not None:
        _check_package(Path(ort_web))
    elif shutil.which("npm") is None:
        raise MissingProgramError(
            "neither onnxruntime-web nor npm, which fetches it, is here; unpack the npm package onnxruntime-web "
            f"{ORT_WEB_VERSION} and give its folder with --ort-web"
        )


@contextmanager
def ort_web_package(ort_web: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """The unpacked onnxruntime-web: the given folder, or npm's package in a folder that lasts as long as the block.

    Args:
        ort_web: A folder with ``dist/`` and ``package.json``, such as ``node_modules/onnxruntime-web``. None: npm
            fetches `ORT_WEB_VERSION`.

    Raises:
        UsageError: The folder is not the package.
        MissingProgramError: There is no folder and no npm.
        AlphaNetError: npm fails.
    """
    check_ort_web(ort_web)
    if ort_web is not None:
        yield Path(ort_web)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _fetch(Path(folder))


def _fetch(folder: Path) -> Path:
    """Has npm download the package into a folder, and unpacks what the page needs of it."""
    npm = shutil.which("npm")
    assert npm is not None, "checked before"
    wanted = f"onnxruntime-web@{ORT_WEB_VERSION}"
    ran = subprocess.run([npm, "pack", wanted, "--pack-destination", str(folder)], cwd=folder, text=True,
                         capture_output=True)  # fmt: skip
    archives = list(folder.glob("*.tgz"))
    if ran.returncode or len(archives) != 1:
        lines = [line for line in ran.stderr.splitlines() if "error" in line.lower()] or ["it wrote no archive"]
        raise AlphaNetError(f"npm could not fetch {wanted} ({lines[-1]}); give an unpacked package with --ort-web")
    members = {f"package/dist/{name}" for name in ORT_WEB_FILES} | {"package/package.json"}
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            if member.name in members:
                archive.extract(member, folder, filter="data")
    _check_package(folder / "package")
    return folder / "package"


def _check_package(package: Path) -> None:
    """Raises where a folder is not the unpacked onnxruntime-web."""
    missing = [name for name in ORT_WEB_FILES if not (package / "dist" / name).is_file()]
    if missing or package_facts(package).get("name") != "onnxruntime-web":
        lacks = f"dist/{missing[0]}" if missing else "a package.json that says onnxruntime-web"
        raise UsageError(
            f"--ort-web {package} lacks {lacks}; give the unpacked npm package onnxruntime-web {ORT_WEB_VERSION}, "
            "such as node_modules/onnxruntime-web"
        )


def package_facts(package: Path) -> dict[str, Any]:
    """The content of an unpacked package's ``package.json``; empty where there is none to read."""
    try:
        facts = json.loads((package / "package.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
