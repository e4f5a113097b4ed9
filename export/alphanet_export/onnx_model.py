"""Loads, hashes and runs ONNX files. Files are not trusted: no other file is opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from alphanet_export.graph_gate import check_model
from alphanet_zoo.errors import AlphaNetError, ParityError, UsageError
from alphanet_zoo.files import open_regular

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
"""Normalised pixels ``(N, 3, S, S)`` float32, or RGB images ``(N, H, W, 3)`` uint8."""

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
IMAGE_NAME, PROBABILITIES_NAME = "image", "probabilities"
"""Input of a file with its preprocessing inside, and output of a file with a softmax."""
PREPROCESSING_PREFIX = "preprocessing/"
"""Start of the names of the nodes of embedded preprocessing."""
LEAST_PROBABILITY = 1e-30
"""Probabilities are raised to this before their logarithm is taken."""
SEAL = "alphanet.digests"
"""Metadata entry with the digests of the graph and of the other entries."""
_UNSEALED = (SEAL, "alphanet.verification")
LEVELS: dict[str, onnxruntime.GraphOptimizationLevel] = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""ONNX Runtime's graph optimisation levels, by name."""


def load_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model in a file. No other file is read.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: The file is not ONNX, is corrupt or truncated, or stores weights in other files.
    """
    return parse_proto(path, read_model(path))


def read_model(path: str | os.PathLike[str]) -> bytes:
    """The content of a model's file.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: It is not a regular file.
    """
    if not Path(path).is_file():
        raise UsageError(f"{str(path)!r} is not a file; pass an ONNX file that alphanet export wrote")
    with open_regular(path) as file:
        return file.read()


def parse_proto(path: str | os.PathLike[str], content: bytes) -> onnx.ModelProto:
    """The model in the content of a file, after the checks of `alphanet_export.graph_gate`; errors as `load_proto`."""
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # Protobuf's error type is in a package that is not imported here.
        raise AlphaNetError(f"{path} is not ONNX, or is corrupt or truncated ({error}); export it again") from error
    if not proto.graph.node or not proto.opset_import:
        raise AlphaNetError(f"{path} contains no ONNX graph; export it again")
    check_model(path, proto)
    return proto


def sealed(content: bytes) -> bytes:
    """A model with the digests of its graph and of its other metadata in its metadata, which `check_seal` compares."""
    proto = onnx.load_model_from_string(content)
    kept = [entry for entry in proto.metadata_props if entry.key != SEAL]
    digests = json.dumps({"graph": graph_sha256(proto), "metadata": _metadata_sha256(proto)}, sort_keys=True)
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=SEAL, value=digests)
    result: bytes = proto.SerializeToString(deterministic=True)
    return result


def check_seal(path: str | os.PathLike[str], proto: onnx.ModelProto) -> None:
    """Compares a model with the digests that it records. Files of older versions record none.

    Raises:
        ParityError: The graph, its weights or the metadata have changed since the export.
    """
    found = next((entry.value for entry in proto.metadata_props if entry.key == SEAL), None)
    if found is None:
        return
    try:
        recorded = json.loads(found)
        expected = {"graph": recorded["graph"], "metadata": recorded["metadata"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        expected = {}
    for part, digest in (("graph", graph_sha256(proto)), ("metadata", _metadata_sha256(proto))):
        if expected.get(part) != digest:
            what = "graph or its weights" if part == "graph" else "metadata"
            raise ParityError(
                f"the {what} of {path} changed after the export: the SHA-256 is not the one that the file records; do "
                "not use it: copy it again, or export it again"
            )


def _metadata_sha256(proto: onnx.ModelProto) -> str:
    """SHA-256 of the ``alphanet.*`` metadata, without the digests and the verification, which is added later."""
    entries = {e.key: e.value for e in proto.metadata_props if e.key.startswith("alphanet.") and e.key not in _UNSEALED}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def open_session(
    model: str | os.PathLike[str] | bytes,
    level: str = "all",
    threads: int = 0,
    *,
    spin: bool = False,
    sleep_between: bool = False,
    optimized: Path | None = None,
) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU. It is given the checked content of a file, never its path.

    Args:
        model: An ONNX file, or the content of one, which is not checked.
        level: A key of `LEVELS`.
        threads: Threads within an operator; 0 lets ONNX Runtime choose.
        spin: Let idle threads spin, as ONNX Runtime does by default. This is faster if the session runs alone, and
            slower if PyTorch or another session needs the cores too.
        sleep_between: Let those threads sleep as soon as a run ends, for sessions that take turns.
        optimized: Path to write the optimised graph to.

    Raises:
        UsageError: The file does not exist.
        ParityError: The file has changed since its export.
        AlphaNetError: It contains something that is not accepted, or ONNX Runtime cannot load it.
    """
    content = model if isinstance(model, bytes) else read_model(model)
    if not isinstance(model, bytes) and Path(model).suffix.lower() != ".ort":
        check_seal(model, parse_proto(model, content))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", str(int(sleep_between)))
    options.log_severity_level = 4  # Its errors are exceptions, and are not printed besides.
    if optimized:
        options.optimized_model_filepath = str(optimized)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its errors derive from Exception directly, one class per code.
        name = "the graph" if isinstance(model, bytes) else model
        reason = " ".join(str(error).split())[:500]
        raise AlphaNetError(f"ONNX Runtime {onnxruntime.__version__} cannot load {name}: {reason}") from error


def run_logits(session: onnxruntime.InferenceSession, images: ImageArray) -> FloatArray:
    """Logits ``(N, classes)`` of images, in parts if the batch size is fixed; of probabilities, their logarithms.

    Args:
        session: An exported file.
        images: ``(N, 3, S, S)`` float32; ``(N, H, W, 3)`` uint8 if the file includes its preprocessing.

    Raises:
        AlphaNetError: ONNX Runtime cannot run the file.
    """
    given, result = session.get_inputs()[0], session.get_outputs()[0]
    step = given.shape[0] if isinstance(given.shape[0], int) else len(images)
    chunks = (np.ascontiguousarray(images[i : i + step]) for i in range(0, len(images), step))
    try:
        outputs = np.concatenate([session.run(None, {given.name: chunk})[0] for chunk in chunks])
    except Exception as error:  # As in `open_session`.
        reason = " ".join(str(error).split())[:500]
        raise AlphaNetError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run the file: {reason}; export it again"
        ) from error
    return log_probabilities(outputs) if result.name == PROBABILITIES_NAME else outputs


def log_probabilities(probabilities: FloatArray) -> FloatArray:
    """Natural logarithms of probabilities, which are logits too: their softmax is the probabilities."""
    logarithms: FloatArray = np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))
    return logarithms


def graph_sha256(proto: onnx.ModelProto) -> str:
    """SHA-256 of a model without metadata and documentation strings: equal for equal networks."""
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
    """The graph of a model, and the graphs inside its nodes (the branches of an If, the body of a Loop)."""
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
    """Every tensor that a model stores: initialisers and constants."""
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


def check_pixel_input(path: str | os.PathLike[str]) -> None:
    """Checks that an ONNX file takes preprocessed pixels, as servers, the web page and int8 require.

    Raises:
        UsageError: The file does not exist, is not named ``*.onnx``, or contains the preprocessing in its graph.
        AlphaNetError: See `load_proto` and `input_shape`.
    """
    if Path(path).suffix.lower() != ".onnx":
        raise UsageError(f"{path} is not an ONNX file; pass one that alphanet export --format onnx wrote")
    if input_shape(path, load_proto(path))[1] is None:
        raise UsageError(f"{path} includes its preprocessing, but preprocessed pixels are sent to it here; pass a "
                         "file that was exported without --embed-preprocessing")  # fmt: skip


def input_shape(path: str | os.PathLike[str], proto: onnx.ModelProto) -> tuple[int | None, int | None]:
    """(Batch size, or None if dynamic; side in pixels) of the input ``(batch, 3, S, S)``.

    A file that includes its preprocessing has the input ``(1, H, W, 3)``, for which the side is None.

    Raises:
        AlphaNetError: The model does not have the inputs and outputs of an exported classifier.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in stored]
    outputs = [value.name for value in proto.graph.output]
    if [value.name for value in inputs] == [IMAGE_NAME] and outputs in ([OUTPUT_NAME], [PROBABILITIES_NAME]):
        return 1, None
    if [value.name for value in inputs] != [INPUT_NAME] or outputs != [OUTPUT_NAME]:
        raise AlphaNetError(
            f"{path} has the inputs {[v.name for v in inputs]} and the outputs {outputs}; pass a file that "
            f"alphanet export wrote, with the input {INPUT_NAME} and the output {OUTPUT_NAME}"
        )
    kind = inputs[0].type.tensor_type
    sides = [dim.dim_value for dim in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(sides) != 4 or sides[1] != 3 or not 0 < sides[2] == sides[3]:
        raise AlphaNetError(f"{path}: {INPUT_NAME} is not a float32 image batch (batch, 3, S, S) but {sides}")
    if sides[0] > 1:
        raise AlphaNetError(f"{path} takes only batches of {sides[0]}; export it for batch 1 or with --dynamic-batch")
    return sides[0] or None, sides[2]
