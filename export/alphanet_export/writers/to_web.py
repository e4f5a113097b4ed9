"""Writes a static web page that runs an exported ONNX file in the browser."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

from alphanet_export.metadata import ExportedModel, open_onnx, top1_text
from alphanet_export.writers.ort_web import ORT_WEB_FILES, check_ort_web, ort_web_package, package_facts
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import replacing

PAGE_FILES = ("app.js", "style.css", "serve.py", "index.html")
"""Files of the page that are included in this package."""

MODEL_FACTS = ("name", "arch", "num_classes", "preprocessing", "labels", "weights", "weights_sha256")
"""Metadata entries that the page shows or uses."""

INTERPOLATIONS = ("bicubic", "bilinear")
"""Resampling filters that the page implements."""


def write_web(
    model_path: str | os.PathLike[str], folder: str | os.PathLike[str], ort_web: str | os.PathLike[str] | None = None
) -> dict[Path, int]:
    """Writes a page that classifies images with an exported file and sends no requests to other hosts.

    Args:
        model_path: A file that ``alphanet export`` wrote.
        folder: Output folder; created if it does not exist. Other files in it are not changed.
        ort_web: The unpacked onnxruntime-web, see `alphanet_export.writers.ort_web.ort_web_package`.

    Returns:
        Size of each written file, in bytes.

    Raises:
        UsageError: ``ort_web`` is not that package, or the page does not implement the model's preprocessing.
        MissingProgramError: ``ort_web`` is None and npm is not installed.
        AlphaNetError: The file is corrupt, or npm could not download the package.
        OSError: The disk is full or not writable; no file is replaced.
    """
    check_ort_web(ort_web)
    model = open_onnx(model_path)
    if model.preprocessing.interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"{model.path} requires {model.preprocessing.interpolation} resizing, and the page supports only "
            f"{' and '.join(INTERPOLATIONS)}; export a model with one of these"
        )
    target, page = Path(folder), files("alphanet_export.writers") / "web"
    with ort_web_package(ort_web) as package, ExitStack() as stack:
        version = package_facts(package)["version"]
        contents = {name: (page / name).read_bytes() for name in PAGE_FILES}
        contents["model.json"] = json.dumps(page_facts(model, version), ensure_ascii=False, indent=1).encode()
        sources = {name: package / "dist" / name.removeprefix("ort/") for name in map("ort/{}".format, ORT_WEB_FILES)}
        sources |= {"ort/package.json": package / "package.json", "model.onnx": model.path}
        for name, source in sources.items():
            shutil.copyfile(source, stack.enter_context(replacing(target / name)))
        for name, content in contents.items():
            stack.enter_context(replacing(target / name)).write_bytes(content)
    return {target / name: (target / name).stat().st_size for name in (*contents, *sources)}


def page_facts(model: ExportedModel, ort_web_version: str) -> dict[str, Any]:
    """The content of ``model.json``, which the page reads."""
    facts = {key: model.metadata.get(key) for key in MODEL_FACTS}
    return facts | {
        "macs": model.space.count_macs(model.arch, model.num_classes),
        "params": model.space.count_params(model.arch, model.num_classes),
        "accuracy": top1_text(model.space, model.metadata.get("published_top1")),
        "input_size": model.input_size,
        "precision": "int8" if model.metadata.get("quantization") else "float32",
        "file_bytes": model.path.stat().st_size,
        "file_sha256": model.file_sha256,
        "ort_web": ort_web_version,
    }
