"""An exported ONNX file, opened with suspicion and run through ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.space import SearchSpace

FloatArray = npt.NDArray[np.float32]

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
LEVELS: dict[str, onnxruntime.GraphOptimizationLevel] = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""ONNX Runtime's graph optimisation levels that are looked at, by name."""


@dataclass(frozen=True)
class OnnxModel:
    """What an exported file says of itself.

    Args:
        path: Where it lies.
        file_sha256: SHA-256 of the file.
        graph_sha256: SHA-256 of the model without any metadata: the same network gives the same hash.
        input_size: Side of the square input image, in pixels.
        batch: The one batch size it takes, or None where any will do.
        opset: Version of the standard operator set.
        metadata: Its ``alphanet.*`` entries, decoded from JSON, without that prefix.
    """

    path: Path
    file_sha256: str
    graph_sha256: str
    input_size: int
    batch: int | None
    opset: int
    metadata: Mapping[str, Any]

    @property
    def space(self) -> SearchSpace:
        """The search space that its arch comes from."""
        return SearchSpace.from_dict(self.metadata["space"])

    @property
    def arch(self) -> ArchSpec:
        """The arch that it computes."""
        return ArchSpec.from_dict(self.metadata["arch"])

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes its input."""
        return Preprocessing.from_dict(self.metadata["preprocessing"])

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return int(self.metadata["num_classes"])

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits, or None where it does not know them."""
        labels = self.metadata.get("labels")
        return tuple(map(str, labels)) if labels else None


def open_model(path: str | os.PathLike[str]) -> OnnxModel:
    """Reads what ``alphanet-export`` wrote.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: It is not ONNX, corrupt or cut short, keeps weights in other files, has other inputs and
            outputs than an exported classifier, or does not carry the ``alphanet.*`` metadata.
    """
    proto = load_proto(path)
    metadata = _metadata(path, proto)
    batch, size = _input_shape(path, proto)
    described = metadata["preprocessing"]["input_size"]
    if described != size:
        raise AlphaNetError(f"{path} takes images of {size} pixels and says {described}; export it again")
    opsets = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    return OnnxModel(
        path=Path(path),
        file_sha256=sha256_of(path),
        graph_sha256=graph_sha256(proto),
        input_size=size,
        batch=batch,
        opset=max(opsets, default=0),
        metadata=metadata,
    )


def load_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model in a file; nothing outside that file is read.

    Raises:
        UsageError: There is no such file.
        AlphaNetError: It is not ONNX, corrupt or cut short, or keeps weights in other files.
    """
    if not Path(path).is_file():
        raise UsageError(f"{str(path)!r} is no file; give an ONNX file that alphanet-export wrote")
    content = Path(path).read_bytes()
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # Protobuf's error is in a package that we do not import.
        raise AlphaNetError(f"{path} is not ONNX, or corrupt or cut short ({error}); export it again") from error
    if not proto.graph.node or not proto.opset_import:
        raise AlphaNetError(f"{path} holds no ONNX graph; export it again")
    for tensor in tensors_of(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise AlphaNetError(
                f"{path} keeps the tensor {tensor.name!r} in another file, which is not opened; "
                "export it as one file, as alphanet-export does"
            )
    return proto


def open_session(
    model: str | os.PathLike[str] | bytes,
    level: str = "all",
    threads: int = 0,
    *,
    spin: bool = False,
    sleep_between: bool = False,
    optimized: Path | None = None,
) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU.

    Args:
        model: An ONNX file, or the content of one.
        level: A key of `LEVELS`.
        threads: Threads within an operator; 0 leaves the choice to ONNX Runtime.
        spin: Let idle threads wait actively, as ONNX Runtime does by default: faster alone, slower where others,
            such as PyTorch or another session, want the cores too.
        sleep_between: Let those threads sleep as soon as a run is over: for sessions that take turns.
        optimized: Where to write the optimised graph.

    Raises:
        AlphaNetError: ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", str(int(sleep_between)))
    options.log_severity_level = 4 if optimized else 3  # Writing an optimised graph warns that it suits this CPU alone.
    if optimized:
        options.optimized_model_filepath = str(optimized)
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its errors derive from Exception directly, a class for each code.
        name = "the graph" if isinstance(model, bytes) else model
        raise AlphaNetError(f"ONNX Runtime {onnxruntime.__version__} cannot load {name}: {error}") from error


def run_logits(session: onnxruntime.InferenceSession, images: FloatArray) -> FloatArray:
    """Logits ``(N, classes)`` of images ``(N, 3, S, S)``, one by one where the model takes no other batch."""
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else len(images)
    chunks = (np.ascontiguousarray(images[i : i + step]) for i in range(0, len(images), step))
    return np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: chunk})[0] for chunk in chunks])


def graph_sha256(proto: onnx.ModelProto) -> str:
    """SHA-256 of a model without its metadata and documentation, on any level of it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.ClearField("metadata_props")
    for name in ("doc_string", "producer_name", "producer_version"):
        bare.ClearField(name)
    graphs = list(graphs_of(bare))
    holders = [*graphs, *bare.functions, *tensors_of(bare)]
    holders += [node for graph in (*graphs, *bare.functions) for node in graph.node]
    holders += [value for graph in graphs for value in (*graph.input, *graph.output, *graph.value_info)]
    for holder in holders:
        for name in ("metadata_props", "doc_string"):
            if name in holder.DESCRIPTOR.fields_by_name:
                holder.ClearField(name)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def graphs_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model and those inside its nodes (the branches of an If, the body of a Loop)."""
    waiting: list[Any] = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while waiting or nodes:
        if waiting:
            graph = waiting.pop()
            yield graph
            nodes.extend(graph.node)
        else:
            for attribute in nodes.pop().attribute:
                waiting.extend([attribute.g] if attribute.HasField("g") else [])
                waiting.extend(attribute.graphs)


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a model stores: initialisers, and the values of constants."""
    graphs = list(graphs_of(proto))
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in (node for graph in (*graphs, *proto.functions) for node in graph.node):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)


_REQUIRED = ("arch", "space", "num_classes", "preprocessing")


def _metadata(path: str | os.PathLike[str], proto: onnx.ModelProto) -> dict[str, Any]:
    """The decoded ``alphanet.*`` entries, of which the required ones are there and make sense."""
    prefix = "alphanet."
    texts = {p.key[len(prefix) :]: p.value for p in proto.metadata_props if p.key.startswith(prefix)}
    missing = [prefix + key for key in _REQUIRED if key not in texts]
    if missing:
        raise AlphaNetError(f"{path} was not written by alphanet-export: it carries no {', '.join(missing)}")
    metadata: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            metadata[key] = json.loads(text)
        except json.JSONDecodeError as error:
            raise AlphaNetError(f"{path}: its metadata {prefix}{key} is no JSON ({error}); export it again") from error
    try:
        SearchSpace.from_dict(metadata["space"]).validate(ArchSpec.from_dict(metadata["arch"]))
        Preprocessing.from_dict(metadata["preprocessing"])
    except (ValueError, TypeError) as error:
        raise AlphaNetError(f"{path}: its metadata makes no sense ({error}); export it again") from error
    if not isinstance(metadata["num_classes"], int) or metadata["num_classes"] < 1:
        raise AlphaNetError(f"{path}: alphanet.num_classes is {metadata['num_classes']!r}; export it again")
    return metadata


def _input_shape(path: str | os.PathLike[str], proto: onnx.ModelProto) -> tuple[int | None, int]:
    """(Fixed batch or None, side) of the input ``(batch, 3, S, S)``."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in stored]
    outputs = [value.name for value in proto.graph.output]
    if [value.name for value in inputs] != [INPUT_NAME] or outputs != [OUTPUT_NAME]:
        raise AlphaNetError(
            f"{path} takes {[v.name for v in inputs]} and gives {outputs}; "
            f"an exported classifier takes {INPUT_NAME} and gives {OUTPUT_NAME}"
        )
    kind = inputs[0].type.tensor_type
    sides = [dim.dim_value for dim in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(sides) != 4 or sides[1] != 3 or not 0 < sides[2] == sides[3]:
        raise AlphaNetError(f"{path}: {INPUT_NAME} is no float32 image batch (batch, 3, S, S) but {sides}")
    if sides[0] > 1:
        raise AlphaNetError(f"{path} takes batches of {sides[0]} alone; export it for batch 1 or with --dynamic-batch")
    return sides[0] or None, sides[2]
