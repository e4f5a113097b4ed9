"""Writes a frozen network for OpenVINO: an ``.xml`` file with the graph and a ``.bin`` file with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphanet_export.embedding import Embedding
from alphanet_export.freeze import FrozenNet
from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME, PROBABILITIES_NAME
from alphanet_export.packages import require_package
from alphanet_export.quiet import quiet
from alphanet_export.writers.preprocessing_graph import check_embedding, preprocessing_model


def write_openvino(
    frozen: FrozenNet, path: Path, metadata: Mapping[str, str] | None = None, embedding: Embedding | None = None
) -> None:
    """Writes ``path``, an ``.xml`` file, and its weights beside it, in float32.

    If ``embedding`` is not None, the graph includes the preprocessing, see `embed_in_openvino`.

    The metadata is stored in the model's ``rt_info``, each ``alphanet.<key>`` as ``<alphanet><key value=...>``.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    require_package("openvino", "openvino")
    import openvino

    model = openvino_model(frozen)
    if embedding is not None:
        model = embed_in_openvino(model, embedding)
    for key, value in (metadata or {}).items():
        model.set_rt_info(value, key.split(".", 1))
    openvino.save_model(model, path, compress_to_fp16=False)


def embed_in_openvino(model: Any, embedding: Embedding) -> Any:
    """An ``openvino.Model`` with its preprocessing inside: uint8 ``(1, H, W, 3)`` to logits or probabilities.

    The preprocessing is converted from its ONNX graph. OpenVINO's ``PrePostProcessor`` resizes to a fixed size, without
    keeping the ratio of the sides; its Pillow filters take a hundred times as long if the size is dynamic. OpenVINO
    computes the weights in float32 instead of float64, so that single pixels differ by one grey level.
    """
    import openvino
    from openvino import opset13 as operators

    check_embedding(embedding)
    added = openvino.Core().read_model(preprocessing_model(embedding.preprocessing).SerializeToString())
    pixels = added.outputs[0].get_node().input_value(0)
    for user in model.inputs[0].get_target_inputs():
        user.replace_source_output(pixels)
    result = model.outputs[0].get_node().input_value(0)
    if embedding.probabilities:
        result = operators.softmax(result, 1).output(0)
        result.get_tensor().set_names({PROBABILITIES_NAME})
    combined = openvino.Model([operators.result(result)], added.get_parameters(), "alphanet")
    combined.validate_nodes_and_infer_types()
    return combined


def openvino_model(frozen: FrozenNet) -> Any:
    """The ``openvino.Model`` of a frozen network, with input ``pixel_values`` and output ``logits``.

    It is converted from the traced graph. The exported ONNX graph is optimised for ONNX Runtime, and its HardSigmoid
    would run in OpenVINO's slow reference code. The frontend is called directly, because
    ``openvino.convert_model`` reports its use over the network.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with quiet():
        decoder = TorchFXPythonDecoder.from_exported_program(frozen.program)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    size = frozen.preprocessing.input_size
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    model.outputs[0].get_tensor().set_names({OUTPUT_NAME})
    model.reshape(openvino.PartialShape([-1 if frozen.dynamic_batch else 1, 3, size, size]))
    model.set_friendly_name("alphanet")
    return model
