"""Small exported files for the tests, made as ``alphanet export`` makes them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

from alphanet_export.build import Source
from alphanet_export.freeze import freeze
from alphanet_export.metadata import describe
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY


def tiny_net(num_classes: int = 10, seed: int = 0) -> AlphaNet:
    """A static net of the smallest arch with live weights, in eval mode."""
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, num_classes), seed)
    net.pretrained_cfg["label_names"] = tuple(str(index) for index in range(num_classes))
    net.calibration = "training"
    return net.eval()


@functools.cache
def tiny_onnx(num_classes: int = 10, dynamic_batch: bool = False) -> bytes:
    """The exported `tiny_net`."""
    frozen = freeze(tiny_net(num_classes), dynamic_batch=dynamic_batch)
    return onnx_bytes(frozen, describe(frozen, Source(frozen.net, "tiny")))


def corrupted(content: bytes, factor: float = 1.5) -> bytes:
    """The same model with one output channel of a convolution amid the network scaled."""
    proto = onnx.load_model_from_string(content)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    name = convolutions[len(convolutions) // 2].input[1]
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(weight).copy()
    values[0] *= factor
    weight.CopyFrom(numpy_helper.from_array(values, name))
    return proto.SerializeToString()


def write_images(folder: Path, classes: int = 10, each: int = 3, seed: int = 0) -> Path:
    """Coloured noise, one folder a class named by its number."""
    rng = np.random.default_rng(seed)
    for index in range(classes):
        (folder / str(index)).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (14, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(index) / f"{number}.png")
    return folder


def with_broken_fusion(content: bytes) -> bytes:
    """The same model, its first sigmoid clipped at 1 (which changes nothing): ONNX Runtime cannot fuse that SiLU."""
    proto = onnx.load_model_from_string(content)
    nodes = list(proto.graph.node)
    place = next(index for index, node in enumerate(nodes) if node.op_type == "Sigmoid")
    sigmoid = nodes[place]
    clip = onnx.helper.make_node("Min", ["sigmoid", "one"], [sigmoid.output[0]], name="Min_0")
    sigmoid.output[0] = "sigmoid"
    one = onnx.helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.ones((), np.float32)))
    proto.graph.node.insert(place + 1, clip)
    proto.graph.node.insert(place, one)
    return proto.SerializeToString()
