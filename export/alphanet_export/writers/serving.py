"""Writes an exported ONNX file as a model of a Triton (or KServe) model repository."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from alphanet_export.metadata import ExportedModel, open_onnx
from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import replacing

MAX_BATCH = 32
"""Default maximum batch size of a server for a model with a dynamic batch size."""

_CLIENT_FACTS = ("arch", "preprocessing", "weights_sha256")


def write_repository(
    model_path: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    max_batch: int | None = None,
) -> dict[Path, int]:
    """Writes ``<repository>/<name>/``: ``config.pbtxt``, ``1/model.onnx``, and ``labels.txt`` if the file has labels.

    Args:
        model_path: A file that ``alphanet export`` wrote.
        repository: The model repository; created if it does not exist. Other models in it are not changed.
        name: Name of the model on the server. None: the name in the file.
        max_batch: See `config_pbtxt`.

    Returns:
        Size of each written file, in bytes.

    Raises:
        UsageError: The name is not valid, the repository is a file, or ``max_batch`` does not fit the model.
        AlphaNetError: The file is corrupt, or alphanet export did not write it.
        OSError: The disk is full or not writable; no file is replaced.
    """
    model = open_onnx(model_path)
    name = name or str(model.metadata.get("name") or model.path.stem)
    check_repository(repository, name)
    folder = Path(repository) / name
    texts = {folder / "config.pbtxt": config_pbtxt(model, name, max_batch=max_batch)}
    if model.labels is not None:
        texts[folder / "labels.txt"] = "".join(f"{' '.join(label.split())}\n" for label in model.labels)
    weights = folder / "1" / "model.onnx"
    with ExitStack() as stack:
        shutil.copyfile(model.path, stack.enter_context(replacing(weights)))
        for path, text in texts.items():
            stack.enter_context(replacing(path)).write_text(text, "utf-8")
    return {path: path.stat().st_size for path in (weights, *texts)}


def check_repository(repository: str | os.PathLike[str], name: str | None = None) -> None:
    """Checks the path of a repository and the name of a model.

    Raises:
        UsageError: One of them is not valid.
    """
    path = Path(repository)
    parents = [parent for parent in (path, *path.parents) if parent.exists()]
    if not os.fspath(repository) or (parents and not parents[0].is_dir()):
        raise UsageError(f"{os.fspath(repository)!r} is not a valid model repository; pass a folder")
    if name is not None and not re.fullmatch(r"[\w][\w.-]*", name):
        raise UsageError(f"{name!r} is not a valid model name; use letters, digits, _ - and .")


def config_pbtxt(model: ExportedModel, name: str, *, max_batch: int | None = None) -> str:
    """The model configuration for Triton.

    A file with a fixed batch size gets ``max_batch_size: 0`` and full shapes; a file with a dynamic batch size gets a
    maximum batch size, shapes of one image, and dynamic batching. The parameters contain the preprocessing for clients.

    Args:
        model: An exported file.
        name: Name of the model and of its folder.
        max_batch: Maximum batch size of the server. None: 0 for a fixed batch size, else `MAX_BATCH`.

    Raises:
        UsageError: ``max_batch`` is positive for a file with a fixed batch size, or less than 1 for a dynamic one.
    """
    if model.batch is not None and max_batch:
        raise UsageError(
            f"{model.path} has the fixed batch size {model.batch}, so a server cannot batch {max_batch} images; "
            "export it with --dynamic-batch"
        )
    if model.batch is None and max_batch is not None and max_batch < 1:
        raise UsageError(f"max_batch is {max_batch}; pass 1 or more")
    fixed = [] if model.batch is None else [model.batch]
    largest = 0 if fixed else max_batch or MAX_BATCH
    labels = ' label_filename: "labels.txt"' if model.labels is not None else ""
    image, logits = [*fixed, 3, model.input_size, model.input_size], [*fixed, model.num_classes]
    lines = [
        f"name: {_text(name)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {largest}",
        f"input [ {{ name: {_text(INPUT_NAME)} data_type: TYPE_FP32 dims: {image} }} ]",
        f"output [ {{ name: {_text(OUTPUT_NAME)} data_type: TYPE_FP32 dims: {logits}{labels} }} ]",
    ]
    lines += [] if fixed else ["dynamic_batching { }"]
    for key in _CLIENT_FACTS:
        if model.metadata.get(key) is not None:
            value = json.dumps(model.metadata[key], sort_keys=True)
            lines.append(f"parameters {{ key: {_text('alphanet.' + key)} value: {{ string_value: {_text(value)} }} }}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A string literal of protobuf's text format, which supports the escapes of JSON."""
    return json.dumps(value, ensure_ascii=False)
