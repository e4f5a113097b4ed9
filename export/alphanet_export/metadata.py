"""The metadata of an exported file: written at export, and read back from any format."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alphanet_export.build import Source, tensors_sha256
from alphanet_export.embedding import Embedding
from alphanet_export.formats import Format, format_of
from alphanet_export.freeze import FrozenNet
from alphanet_export.onnx_model import (
    IMAGE_NAME,
    OUTPUT_NAME,
    PROBABILITIES_NAME,
    SEAL,
    check_pixel_input,
    check_seal,
    graph_sha256,
    input_shape,
    load_proto,
)
from alphanet_export.runtimes.runtime import PREFIX, open_runtime
from alphanet_zoo import __version__
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.evaluate.calibration import CalibrationPlan
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.zoo.archs import read_space
from alphanet_zoo.zoo.card import dataset_of
from alphanet_zoo.zoo.registry import member_of, published_top1

PUBLISHED_INPUT = 224
"""Side, in pixels, of the crop that the published accuracies were measured on."""
REQUIRED = ("arch", "space", "num_classes", "preprocessing")
"""Entries without which a file cannot be verified."""
SIDECAR_SCHEMA = 1


@dataclass(frozen=True)
class ExportedModel:
    """An exported file and its metadata.

    Args:
        path: The file.
        format: Key of `alphanet_export.formats.FORMATS`.
        file_sha256: SHA-256 of the file.
        graph_sha256: SHA-256 of an ONNX model without metadata, equal for equal networks; None for other formats.
        input_size: Side of the square that the network sees, in pixels; of the input image unless `embedded`.
        batch: The only batch size it accepts, or None if any is accepted.
        opset: Version of ONNX's standard operators; None for other formats.
        metadata: The ``alphanet.*`` entries, decoded from JSON, without that prefix.
    """

    path: Path
    format: str
    file_sha256: str
    graph_sha256: str | None
    input_size: int
    batch: int | None
    opset: int | None
    metadata: Mapping[str, Any]

    @property
    def space(self) -> Space[Any]:
        """The search space of its arch."""
        return read_space(self.metadata["space"])

    @property
    def arch(self) -> Arch:
        """The arch that it computes."""
        arch: Arch = self.space.read_arch(self.metadata["arch"])
        return arch

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes its input."""
        return Preprocessing.from_dict(self.metadata["preprocessing"])

    @property
    def embedded(self) -> bool:
        """Whether the graph includes the preprocessing, so that the input is a uint8 image of any size."""
        return self.embedding is not None

    @property
    def embedding(self) -> Embedding | None:
        """The preprocessing and the output of a file that includes its preprocessing; None for other files."""
        if self.metadata.get("input", {}).get("preprocessing") != "embedded":
            return None
        return Embedding(self.preprocessing, probabilities=self.metadata.get("output") == PROBABILITIES_NAME)

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return int(self.metadata["num_classes"])

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits, or None if they are unknown."""
        labels = self.metadata.get("labels")
        return tuple(map(str, labels)) if labels else None


def describe(frozen: FrozenNet, source: Source, embedding: Embedding | None = None) -> dict[str, str]:
    """The metadata of an export: ``alphanet.<key>`` to JSON. Equal for equal networks and tool versions."""
    entries = export_facts(frozen, source, embedding)
    return {PREFIX + key: json.dumps(value, ensure_ascii=False, sort_keys=True) for key, value in entries.items()}


def export_facts(frozen: FrozenNet, source: Source, embedding: Embedding | None) -> dict[str, Any]:
    """`facts`, and `embedded_facts` if the files include their preprocessing."""
    return facts(frozen, source) | (embedded_facts(embedding) if embedding else {})


def facts(frozen: FrozenNet, source: Source) -> dict[str, Any]:
    """The metadata as plain values, by key without the prefix.

    ``macs`` is multiply-accumulates per image. ``published_top1`` is a percentage; None unless the network is a model
    with its published or included weights, and the input is the one that its accuracy was measured with.
    """
    return _facts(frozen.net, frozen.preprocessing, source)


def top1_text(space: Space[Any], top1: float | None) -> str | None:
    """A ``published_top1`` in words, with the images that it belongs to; None if it is None.

    Args:
        space: The search space of the network.
        top1: The accuracy in percent.
    """
    if top1 is None:
        return None
    if space == ALPHANET:
        return f"ImageNet top-1 {top1:.2f} % (the authors' figure, not measured here)"
    dataset = dataset_of(space)
    return f"top-1 {top1:.2f} % on the {'' if dataset is None else f'{dataset} '}test images, measured in PyTorch"


def weights_facts(net: Network, path: Path) -> dict[str, Any]:
    """`facts` of the static network in a ``.safetensors`` file."""
    plan = CalibrationPlan.of_record(net.calibration)
    preprocessing = input_of(net) if plan is None else plan.preprocessing
    cfg = net.pretrained_cfg
    member = member_of(net)
    top1 = None if member is None else published_top1(net, member)
    source = Source(net, str(cfg.get("name") or path.stem), path.name, sha256_of(path), published_top1=top1)
    return _facts(net, preprocessing, source)


def _facts(net: Network, preprocessing: Preprocessing, source: Source) -> dict[str, Any]:
    """See `facts`."""
    if net.space == ALPHANET:
        as_measured = preprocessing.input_size == PUBLISHED_INPUT
    else:
        as_measured = preprocessing == input_of(net)
    published = as_measured and source.weights != "random"
    return {
        "name": source.name,
        **network_facts(net, preprocessing),
        "macs": net.space.count_macs(net.arch, net.num_classes),
        "params": net.space.count_params(net.arch, net.num_classes),
        "weights": source.weights,
        "weights_sha256": source.weights_sha256 or tensors_sha256(source.net),
        "calibration": net.calibration,
        "published_top1": source.published_top1 if published else None,
        "tools": tool_versions(),
    }


def network_facts(net: Network, preprocessing: Preprocessing) -> dict[str, Any]:
    """The part of the metadata that describes the network: the `REQUIRED` entries and the labels.

    ``multi_label`` is present only if the network was trained on images with several labels each.
    """
    return {
        "arch": net.arch.to_dict(),
        "space": net.space.to_dict(),
        "num_classes": net.num_classes,
        "preprocessing": preprocessing.to_dict(),
        "labels": label_names(net),
        **({"multi_label": True} if net.pretrained_cfg.get("multi_label") else {}),
    }


def embedded_facts(embedding: Embedding) -> dict[str, Any]:
    """The metadata that an export with its preprocessing inside has in addition.

    ``input`` describes the input; a file without that entry takes normalised float32 pixels, NCHW, under the name
    ``pixel_values``. ``output`` is the name of the output: ``logits`` or ``probabilities``.
    """
    taken = {"name": IMAGE_NAME, "dtype": "uint8", "layout": "NHWC", "channels": "RGB", "preprocessing": "embedded"}
    return {"input": taken, "output": PROBABILITIES_NAME if embedding.probabilities else OUTPUT_NAME}


def tool_versions() -> dict[str, str]:
    """Versions of the packages that write a file."""
    tools = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
    return {"alphanet_zoo": __version__, "python": platform.python_version(), **tools}


def label_names(net: Network) -> list[str] | None:
    """The names of the classes as the network has them, or None. They are never derived from the number of classes."""
    labels = net.pretrained_cfg.get("label_names")
    return [str(label) for label in labels] if labels else None


def open_exported(path: str | os.PathLike[str], assumed: Mapping[str, Any] | None = None) -> ExportedModel:
    """Reads an exported file of any format that has a runtime here.

    The digests of a sidecar are checked before a runtime opens the file.

    Args:
        path: The file.
        assumed: Metadata to use if the file has none, see `network_facts`.

    Raises:
        UsageError: The file does not exist, it has an unknown format, or it has metadata and ``assumed`` is not None.
        MissingDependencyError: The runtime that reads the format is not installed.
        AlphaNetError: The file is corrupt, truncated or changed since the export, is not an image classifier, or has no
            metadata and ``assumed`` is None.
    """
    path = Path(path)
    form = format_of(path)
    graph_digest, opset = None, None
    if form.name == "onnx":
        proto = load_proto(path)
        check_seal(path, proto)
        entries = {entry.key: entry.value for entry in proto.metadata_props}
        batch, found = input_shape(path, proto)
        embedded = found is None
        graph_digest = graph_sha256(proto)
        opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        metadata = _checked(path, decoded_entries(path, entries), assumed)
        outputs = proto.graph.output[0].type.tensor_type.shape.dim
        logits = outputs[-1].dim_value if outputs else 0
        if logits and logits != metadata["num_classes"]:
            raise AlphaNetError(
                f"{path} computes {logits} logits, and its metadata states {metadata['num_classes']} classes; export "
                "it again"
            )
    else:
        recorded = read_sidecar(path, form)
        with open_runtime(path) as runtime:
            batch, found, embedded = runtime.batch, runtime.input_size, runtime.embedded
            metadata = _checked(path, recorded or decoded_entries(path, runtime.metadata), assumed)
    described = int(metadata["preprocessing"]["input_size"])
    size = found or described
    if described != size:
        raise AlphaNetError(f"{path} takes images of {size} pixels, and its preprocessing gives {described}; "
                            "export it again")  # fmt: skip
    model = ExportedModel(path, form.name, sha256_of(path), graph_digest, size, batch, opset, metadata)
    if model.embedded != embedded:
        raise AlphaNetError(f"{path}: its input is not that of its metadata alphanet.input; export it again")
    return model


def open_onnx(path: str | os.PathLike[str]) -> ExportedModel:
    """`open_exported` for uses that require an ONNX file that takes normalised pixels: servers, the web page, int8.

    Raises:
        UsageError: The file does not exist, is not named ``*.onnx``, or contains the preprocessing in its graph.
        AlphaNetError: See `open_exported`.
    """
    check_pixel_input(path)
    return open_exported(path)


def write_sidecar(form: Format, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes ``<file name>.json``: the metadata, and the SHA-256 of every file of the export and of itself.

    Does nothing if the format has no sidecar.

    Args:
        form: The format.
        path: The file that was written.
        metadata: Its entries, see `describe`.
    """
    place = form.sidecar_path(path)
    if place is None:
        return
    endings = (form.ending, *form.companions)
    content = {
        "schema": SIDECAR_SCHEMA,
        "format": form.name,
        "files": {end: sha256_of(file) for end, file in zip(endings, form.weight_files(path), strict=True)},
        "metadata": {key.removeprefix(PREFIX): json.loads(text) for key, text in metadata.items()},
    }
    content["sha256"] = _content_sha256(content)
    place.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_sidecar(path: Path, form: Format) -> dict[str, Any] | None:
    """The metadata in the sidecar of a file; None if there is no sidecar.

    Raises:
        AlphaNetError: The sidecar is damaged, or a file has changed since the export.
    """
    place = form.sidecar_path(path)
    if place is None or not place.is_file():
        return None
    remedy = f"export it again, or delete {place.name} to use the metadata inside the file"
    try:
        content = json.loads(place.read_text("utf-8"))
        recorded, digests, metadata = content.pop("sha256"), content["files"], dict(content["metadata"])
        expected = [digests[ending] for ending in (form.ending, *form.companions)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AlphaNetError(f"{place} is not the sidecar of an export ({error!r}); {remedy}") from error
    if recorded != _content_sha256(content):
        raise AlphaNetError(f"{place} has changed since the export (its SHA-256 differs); {remedy}")
    for file, digest in zip(form.weight_files(path), expected, strict=True):
        if not file.is_file():
            raise AlphaNetError(f"{file} is missing; copy it beside {path.name}, or export it again")
        if sha256_of(file) != digest:
            raise AlphaNetError(f"{file} has changed since the export: its SHA-256 is not that in {place}; {remedy}")
    return metadata


def _content_sha256(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def decoded_entries(path: Path, entries: Mapping[str, str]) -> dict[str, Any]:
    """The ``alphanet.*`` entries, decoded from JSON, without the prefix."""
    metadata: dict[str, Any] = {}
    for key, text in entries.items():
        if not key.startswith(PREFIX) or key == SEAL:
            continue
        try:
            metadata[key.removeprefix(PREFIX)] = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = "too deeply nested" if isinstance(error, RecursionError) else error
            raise AlphaNetError(f"{path}: its metadata {key} is not JSON ({reason}); export it again") from error
    return metadata


def _checked(path: Path, metadata: dict[str, Any], assumed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata, whose required entries are present and valid."""
    missing = [PREFIX + key for key in REQUIRED if key not in metadata]
    if missing and assumed is None:
        raise AlphaNetError(
            f"{path} has no metadata of alphanet export ({', '.join(missing)}); export it again, or verify it with "
            "--reference NAME|PATH and --preprocessing FILE.json"
        )
    if assumed is not None and not missing:
        raise UsageError(f"{path} has its own metadata; remove --preprocessing")
    if assumed is not None:
        metadata = {**metadata, **assumed}
    try:
        space = read_space(metadata["space"])
        space.validate(space.read_arch(metadata["arch"]))
        Preprocessing.from_dict(metadata["preprocessing"])
    except (ValueError, TypeError) as error:
        raise AlphaNetError(f"{path}: its metadata is not valid ({error}); export it again") from error
    classes, labels = metadata["num_classes"], metadata.get("labels")
    if not isinstance(classes, int) or classes < 1:
        raise AlphaNetError(f"{path}: alphanet.num_classes is {classes!r}; export it again")
    if labels is not None and (not isinstance(labels, list) or len(labels) != classes):
        count = len(labels) if isinstance(labels, list) else "no list of"
        raise AlphaNetError(f"{path}: its metadata has {count} labels for {classes} classes; export it again")
    for key, kinds in _KINDS.items():
        value = metadata.get(key)
        if value is not None and not isinstance(value, kinds):
            raise AlphaNetError(f"{path}: alphanet.{key} is {str(value)[:80]!r}; export it again")
    return metadata


_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,), "macs": (int,), "params": (int,), "weights": (str,), "weights_sha256": (str,), "tools": (dict,),
    "calibration": (dict, str), "published_top1": (int, float), "input": (dict,), "output": (str,),
    "quantization": (dict,), "multi_label": (bool,), "verification": (dict,),
}  # fmt: skip
"""Types of the entries that are shown or used, if they are present."""
