"""An exported ONNX file as an entry of a Triton (or KServe) model repository."""

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
"""Images that a server may put together for a model that takes any number, unless another number is given."""

_CLIENT_FACTS = ("arch", "preprocessing", "weights_sha256")


def write_repository(
    model_path: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    max_batch: int | None = None,
) -> dict[Path, int]:
    """Writes ``<repository>/<name>/``: ``config.pbtxt``, ``1/model.onnx`` and, where the file has them, ``labels.txt``.

    Args:
        model_path: A file that ``alphanet-export`` wrote.
        repository: The model repository; it is made where it is missing, other models in it are left alone.
        name: What the server calls the model. None: the name in the file.
        max_batch: See `config_pbtxt`.

    Returns:
        Bytes of each file written.

    Raises:
        UsageError: A name that no folder can have, a repository that is a file, or ``max_batch`` does not fit.
        AlphaNetError: The file is corrupt, or not ours.
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
    """Refuses a repository or a name that cannot be.

    Raises:
        UsageError: Names it.
    """
    path = Path(repository)
    parents = [parent for parent in (path, *path.parents) if parent.exists()]
    if not os.fspath(repository) or (parents and not parents[0].is_dir()):
        raise UsageError(f"{os.fspath(repository)!r} cannot be a model repository; give a folder")
    if name is not None and not re.fullmatch(r"[\w][\w.-]*", name):
        raise UsageError(f"{name!r} cannot be a served model's name; give letters, digits, _ - and .")


def config_pbtxt(model: ExportedModel, name: str, *, max_batch: int | None = None) -> str:
    """Triton's description of a model.

    A file with a fixed batch gets ``max_batch_size: 0`` and the whole shape; one that takes any number of images gets
    a batch size, the shape of one image, and dynamic batching. The parameters tell clients how to prepare an image.

    Args:
        model: An exported file.
        name: The model's name, which is its folder's too.
        max_batch: Images that the server may put together. None: 0 for a fixed batch, else `MAX_BATCH`.

    Raises:
        UsageError: A ``max_batch`` for a file with a fixed batch, or none at all for one without.
    """
    if model.batch is not None and max_batch:
        raise UsageError(
            f"{model.path} takes {model.batch} image at a time, so a server cannot put {max_batch} together; "
            "export it with --dynamic-batch"
        )
    if model.batch is None and max_batch is not None and max_batch < 1:
        raise UsageError(f"max_batch is {max_batch}; give at least 1")
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
    """A string of protobuf's text format; JSON's escapes for ASCII are among its own."""
    return json.dumps(value, ensure_ascii=False)
