"""Whether an ONNX file stores exactly the weights of the network that it was exported from."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from alphanet_export.freeze import fold_batch_norms, freeze
from alphanet_export.metadata import ExportedModel
from alphanet_export.onnx_model import load_proto
from alphanet_export.writers.preprocessing_graph import embed_in_onnx
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.errors import ParityError
from alphanet_zoo.nn.family import Network

_LISTED = 4


@dataclass(frozen=True)
class WeightsMatch:
    """The tensors of a file compared with those of its reference, bit for bit.

    Parity on a few images does not find a changed bit that hardly changes the outputs; this comparison does.

    Args:
        tensors: Number of tensors that the file stores.
        differing: Names of those that the reference, exported again, does not have.
    """

    tensors: int
    differing: tuple[str, ...]

    def check(self) -> WeightsMatch:
        """Returns itself.

        Raises:
            ParityError: A tensor differs.
        """
        if self.differing:
            more = f" and {len(self.differing) - _LISTED} more" if len(self.differing) > _LISTED else ""
            raise ParityError(
                f"{len(self.differing)} of the {self.tensors} tensors in the file are not those of its reference: "
                f"{', '.join(self.differing[:_LISTED])}{more}; do not use it: export it again, and pass the weights it "
                "was exported from as reference"
            )
        return self


def compare_weights(model: ExportedModel, net: Network) -> WeightsMatch:
    """Compares the tensors of an ONNX file of ``alphanet export`` with those of its network.

    The tensors are those of the network with its batch norms folded. If the file has others, as for an input that is
    resized in the graph, the network is exported again in the same way and all tensors are compared with that file's.

    Args:
        model: A float32 ONNX file that ``alphanet export`` wrote.
        net: The static network in eval mode, with the statistics that it was exported with.
    """
    found = load_proto(model.path).graph.initializer
    folded = [tensor.detach().numpy() for tensor in fold_batch_norms(net).parameters()]
    differing = _differing(found, folded)
    if differing:
        size, again = model.preprocessing.input_size, copy.deepcopy(net)
        again.calibration = "random"  # Whatever their origin, the statistics are those to compare with.
        frozen = freeze(again, img_size=size, dynamic_batch=model.batch is None and not model.embedded)
        content = onnx_bytes(frozen, opset=model.opset or 18)
        if model.embedding is not None:
            content = embed_in_onnx(content, model.embedding)
        fresh = onnx.load_model_from_string(content).graph.initializer
        differing = _differing(found, map(numpy_helper.to_array, fresh))
    return WeightsMatch(len(found), differing)


def _differing(found: Iterable[onnx.TensorProto], expected: Iterable[np.ndarray]) -> tuple[str, ...]:
    """Names of the tensors whose bytes are not among the expected ones, and ``missing`` for expected ones left over."""
    left = Counter((array.dtype.str, array.tobytes()) for array in expected)
    differing = []
    for tensor in found:
        array = numpy_helper.to_array(tensor)
        key = (array.dtype.str, array.tobytes())
        if left[key]:
            left[key] -= 1
        else:
            differing.append(tensor.name)
    missing = left.total()
    return (*differing, *(["missing"] * missing if not differing else []))
