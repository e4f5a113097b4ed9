"""Puts the evaluation preprocessing into an ONNX graph: uint8 images of any size in, the network's input out.

The graph computes exactly what Pillow computes: an antialiased resize along the rows and then along the columns (of
some tall images in the opposite order), with weights of 22 fractional bits and rounding to 8 bits after each. ONNX's
operator ``Resize`` is not used: in ONNX Runtime, some pixels of each image then differ by one or two grey levels.

Only the pixels that the crop depends on are read, so time and memory do not depend on the image's longer side.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from alphanet_export.embedding import Embedding
from alphanet_export.onnx_model import IMAGE_NAME, INPUT_NAME, OUTPUT_NAME, PREPROCESSING_PREFIX, PROBABILITIES_NAME
from alphanet_zoo.data.preprocess import LONGEST_SIDE, Preprocessing
from alphanet_zoo.errors import UsageError

SUPPORTS = {"bilinear": 1.0, "bicubic": 2.0}
"""The interpolations that a graph can compute, and the support of each filter in output pixels."""
LARGEST_BLOCK = 16
"""Output pixels, at most, that one matrix product computes from one window of the image."""
FRACTION_BITS = 22
"""Pillow's fractional bits of a weight."""
HALF_BITS = FRACTION_BITS // 2
"""A weight is split into two parts, so that sums of products are whole numbers that float32 represents exactly."""

DType = npt.DTypeLike | None
"""An element type; None: that of the first input."""


class Value:
    """A value of the graph, on which operators add nodes. A number is a constant of the value's type."""

    def __init__(self, graph: Graph, name: str, dtype: npt.DTypeLike) -> None:
        """A value that a node of ``graph`` computes."""
        self.graph, self.name, self.dtype = graph, name, np.dtype(dtype)

    def __add__(self, other: Value | float) -> Value:
        """Adds."""
        return self.graph.node("Add", self, other)

    def __sub__(self, other: Value | float) -> Value:
        """Subtracts."""
        return self.graph.node("Sub", self, other)

    def __mul__(self, other: Value | float) -> Value:
        """Multiplies."""
        return self.graph.node("Mul", self, other)

    def __truediv__(self, other: Value | float) -> Value:
        """Divides; whole numbers are rounded towards zero."""
        return self.graph.node("Div", self, other)

    def cast(self, dtype: npt.DTypeLike) -> Value:
        """Converts; rounds towards zero."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.graph.node("Cast", self, dtype=dtype, to=kind)


class Graph:
    """Nodes and constants, in order.

    Attributes:
        nodes: The nodes.
        constants: The constants.
    """

    def __init__(self, constants: list[onnx.TensorProto] | None = None, counter: Iterator[int] | None = None) -> None:
        """An empty graph."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants = [] if constants is None else constants
        self._counter = itertools.count() if counter is None else counter

    def branch(self) -> Graph:
        """A graph for `choose`, which can use the values of this one."""
        return Graph(self.constants, self._counter)

    def choose(self, condition: Value, chosen: Value, other: Value) -> Value:
        """``chosen`` if a condition holds, else ``other``, two values of branches; only that branch runs."""
        branches = []
        for name, value in (("chosen", chosen), ("other", other)):
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            output = helper.make_tensor_value_info(value.name, kind, None)
            branches.append(helper.make_graph(value.graph.nodes, name, [], [output]))
        return self.node("If", condition, dtype=chosen.dtype, then_branch=branches[0], else_branch=branches[1])

    def node(
        self, operator: str, *inputs: Value | float, dtype: npt.DTypeLike | None = None, **attributes: Any
    ) -> Value:
        """Adds a node with one output. ``dtype`` is the output's type; None is that of the first input."""
        return self._add(operator, inputs, 1, dtype, attributes)[0]

    def where(self, condition: Value, chosen: Value, other: Value | float) -> Value:
        """``chosen`` if a condition holds, else ``other``."""
        other = other if isinstance(other, Value) else self.constant(other, chosen.dtype)
        return self.node("Where", condition, chosen, other, dtype=chosen.dtype)

    def split(self, value: Value, axis: int) -> tuple[Value, Value]:
        """The two halves of a value along an axis."""
        first, second = self._add("Split", (value,), 2, None, {"axis": axis, "num_outputs": 2})
        return first, second

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> Value:
        """A constant."""
        name = f"{PREPROCESSING_PREFIX}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.dtype(dtype)), name))
        return Value(self, name, dtype)

    def _add(
        self,
        operator: str,
        inputs: tuple[Value | float, ...],
        outputs: int,
        dtype: npt.DTypeLike | None,
        attributes: Any,
    ) -> list[Value]:
        """Adds a node; returns its outputs."""
        first = inputs[0]
        assert isinstance(first, Value)
        values = [first, *(v if isinstance(v, Value) else self.constant(v, first.dtype) for v in inputs[1:])]
        name = f"{PREPROCESSING_PREFIX}{operator}_{next(self._counter)}"
        names = [f"{name}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, [v.name for v in values], names, name=name, **attributes))
        return [Value(self, each, first.dtype if dtype is None else dtype) for each in names]


Pass = tuple[Value, Value]
"""Indices and weights along one axis, see `_taps`."""


def check_embedding(embedding: Embedding) -> None:
    """Checks that a graph can compute a preprocessing.

    Raises:
        UsageError: Its interpolation is not one of `SUPPORTS`.
    """
    interpolation = embedding.preprocessing.interpolation
    if interpolation not in SUPPORTS:
        raise UsageError(
            f"--embed-preprocessing supports {' and '.join(SUPPORTS)} interpolation, not {interpolation}; remove it"
        )


def embed_in_onnx(content: bytes, embedding: Embedding) -> bytes:
    """An exported ONNX file, float32 or int8, with its preprocessing inside.

    Args:
        content: A file with the input ``pixel_values`` for one image, and the output ``logits``.
        embedding: The preprocessing, and the output.

    Returns:
        A file with the input ``image``, uint8 ``(1, H, W, 3)``, and the output ``logits`` or ``probabilities``. The
        metadata is that of ``content``.

    Raises:
        UsageError: The interpolation is not supported.
    """
    check_embedding(embedding)
    model = onnx.load_model_from_string(content)
    (pixels,) = model.graph.input
    assert pixels.type.tensor_type.shape.dim[0].dim_value == 1
    model.graph.value_info.add().CopyFrom(pixels)
    pixels.CopyFrom(_image())
    added = preprocessing_graph(embedding.preprocessing)
    nodes = [*added.nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(added.constants)
    if embedding.probabilities:
        (logits,) = model.graph.output
        model.graph.value_info.add().CopyFrom(logits)
        logits.name = PROBABILITIES_NAME
        model.graph.node.append(helper.make_node("Softmax", [OUTPUT_NAME], [PROBABILITIES_NAME], "Softmax_0", axis=1))
    onnx.checker.check_model(model, full_check=True)
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def preprocessing_model(preprocessing: Preprocessing, opset: int = 18) -> onnx.ModelProto:
    """The preprocessing alone: uint8 ``image`` ``(1, H, W, 3)`` to float32 ``pixel_values`` ``(1, 3, S, S)``."""
    added, size = preprocessing_graph(preprocessing), preprocessing.input_size
    output = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [1, 3, size, size])
    graph = helper.make_graph(added.nodes, "preprocessing", [_image()], [output], added.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _image() -> onnx.ValueInfoProto:
    """The input of a model with preprocessing."""
    return helper.make_tensor_value_info(IMAGE_NAME, TensorProto.UINT8, [1, "height", "width", 3])


def preprocessing_graph(preprocessing: Preprocessing) -> Graph:
    """The nodes from `IMAGE_NAME` to `INPUT_NAME`.

    Source: Pillow's filters, https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters
    """
    graph, size = Graph(), preprocessing.input_size
    image = Value(graph, IMAGE_NAME, np.uint8)
    shape = graph.node("Shape", image, dtype=np.int64)
    height, width = (graph.node("Gather", shape, axis) for axis in (1, 2))
    short, long = graph.node("Min", height, width), graph.node("Max", height, width)
    new_long = long * preprocessing.resize_size / short
    new_short = graph.constant(preprocessing.resize_size, np.int64)
    upright = graph.node("LessOrEqual", width, height, dtype=bool)
    new_width = graph.where(upright, new_short, new_long)
    new_height = graph.where(upright, new_long, new_short)
    columns, across = _taps(graph, width, new_width, preprocessing)
    rows, down = _taps(graph, height, new_height, preprocessing)
    (left, right), (top, bottom) = _ends(columns), _ends(rows)
    axes = graph.constant([1, 2], np.int64)
    begin, end = (graph.node("Concat", *pair, axis=0) for pair in ((top, left), (bottom, right)))
    window = graph.node("Slice", image, begin, end, axes)
    channels = graph.constant([[[0, 1, 2]]], np.int64)
    columns = graph.node("Unsqueeze", (columns - left) * 3, graph.constant([2], np.int64)) + channels
    passes = ((columns, across), (rows - top, down))
    rows_first = _rows_first(graph.branch(), window, *passes, size)
    if columns_come_first():
        # Pillow's rule, found by its results; of very long images only the crop is resized, rows first.
        shrinks = graph.node("Max", (width - new_width) * 2, 0)
        tall = graph.node("Greater", height - new_height, shrinks, dtype=bool)
        short_enough = graph.node("LessOrEqual", long, short * LONGEST_SIDE, dtype=bool)
        condition = graph.node("And", tall, short_enough)
        crop = graph.choose(condition, _columns_first(graph.branch(), window, *passes, size), rows_first)
    else:
        graph.nodes.extend(rows_first.graph.nodes)
        crop = Value(graph, rows_first.name, rows_first.dtype)
    planes = graph.node("Transpose", crop, perm=[2, 0, 1])
    batch = graph.node("Unsqueeze", planes.cast(np.float32), graph.constant([0], np.int64))
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    scaled = batch * graph.constant(1 / (255 * std), np.float32) + graph.constant(-mean / std, np.float32)
    graph.nodes[-1].output[0] = INPUT_NAME
    assert scaled.dtype == np.float32
    return graph


def _rows_first(graph: Graph, window: Value, columns: Pass, rows: Pass, size: int) -> Value:
    """The crop ``(S, S, 3)`` of a window ``(1, h, w, 3)`` of the image, uint8; rows are resized before columns."""
    by_column = graph.node("Transpose", graph.node("Flatten", window, axis=2), perm=[1, 0])  # (w * 3, h)
    narrow = _resampled(graph, by_column, columns, [3 * size, -1])  # (S * 3, h)
    by_row = graph.node("Transpose", narrow, perm=[1, 0])  # (h, S * 3)
    return _resampled(graph, by_row, rows, [size, size, 3])


def _columns_first(graph: Graph, window: Value, columns: Pass, rows: Pass, size: int) -> Value:
    """As `_rows_first`; columns are resized before rows."""
    flat = _resampled(graph, graph.node("Flatten", window, axis=2), rows, [size, -1])  # (S, w * 3)
    by_column = graph.node("Transpose", flat, perm=[1, 0])  # (w * 3, S)
    narrow = _resampled(graph, by_column, columns, [3 * size, size])  # (S * 3, S)
    by_row = graph.node("Transpose", narrow, perm=[1, 0])  # (S, S * 3)
    return graph.node("Reshape", by_row, graph.constant([size, size, 3], np.int64))


@functools.cache
def columns_come_first() -> bool:
    """Whether this version of Pillow resizes the columns of tall images before the rows; Pillow 13 does."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 40, 3), np.uint8))
    columns_first = picture.resize((40, 100), Image.Resampling.BICUBIC).resize((20, 100), Image.Resampling.BICUBIC)
    return np.array_equal(np.asarray(picture.resize((20, 100), Image.Resampling.BICUBIC)), np.asarray(columns_first))


def _taps(graph: Graph, length: Value, resized: Value, preprocessing: Preprocessing) -> tuple[Value, Value]:
    """What the crop's pixels along one axis are weighted sums of.

    The crop's S pixels are divided into blocks of B; all pixels of a block are computed from the same K source pixels.
    All positions are relative to the centre of the image, so that they stay small in very long images.

    Args:
        graph: The graph to add to.
        length: Length of the image along the axis, int64.
        resized: Its length after the resize, int64.
        preprocessing: Size of the crop and interpolation.

    Returns:
        Indices ``(S / B, K)`` of source pixels, int64; and weights ``(S / B, 2 * B, K)`` of them, float32. The first B
        rows are the upper halves of the weights' bits, as multiples of 2^-11; the others the lower halves, in [0, 1).
    """
    size, support = preprocessing.input_size, SUPPORTS[preprocessing.interpolation]
    block = max(number for number in range(1, LARGEST_BLOCK + 1) if size % number == 0)
    old, new = length.cast(np.float64), resized.cast(np.float64)
    left = graph.node("Round", (new - size) * 0.5)  # Halves to even, as in Python.
    numbers = graph.constant(np.arange(size).reshape(-1, block, 1), np.float64)
    place = (numbers + left) * 2.0 + 1.0 - new  # Twice the distance from the centre, in pixels of the resized image.
    scale = old / new
    reach = graph.node("Max", scale, 1.0) * support
    centre = graph.node("Slice", place * scale * 0.5, *(graph.constant([n], np.int64) for n in (0, 1, 1)))
    first = graph.node("Floor", centre - reach + (old - 1.0) * 0.5)
    count = graph.node("Floor", scale * (block - 1.0) + reach * 2.0 + 3.0)
    source = first + graph.node("Range", graph.constant(0, np.float64), count, 1.0)
    offset = (source * 2.0 + 1.0 - old) * new - place * old  # A whole number, without rounding.
    weight = _filter(graph, graph.node("Abs", offset / (graph.node("Max", old, new) * 2.0)), support)
    inside = graph.node("Clip", source, 0.0, old - 1.0)
    weight = graph.where(graph.node("Equal", inside, source, dtype=bool), weight, 0.0)
    weight = weight / graph.node("ReduceSum", weight, graph.constant([2], np.int64), keepdims=1)
    fixed = weight * float(2**FRACTION_BITS)
    fixed = (fixed + graph.node("Sign", fixed) * 0.5).cast(np.int32).cast(np.float32) * 2.0**-HALF_BITS
    upper = graph.node("Floor", fixed)
    weights = graph.node("Concat", upper * 2.0**-HALF_BITS, fixed - upper, axis=1)
    return graph.node("Squeeze", inside.cast(np.int64), graph.constant([1], np.int64)), weights


def _filter(graph: Graph, distance: Value, support: float) -> Value:
    """The filter at distances of 0 or more, in output pixels: bilinear, or bicubic with a = -0.5."""
    if support == 1.0:
        return graph.node("Max", distance * -1.0 + 1.0, 0.0)
    near = (distance * 1.5 - 2.5) * distance * distance + 1.0
    far = (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
    far = graph.where(graph.node("Less", distance, 2.0, dtype=bool), far, 0.0)
    return graph.where(graph.node("Less", distance, 1.0, dtype=bool), near, far)


def _ends(indices: Value) -> tuple[Value, Value]:
    """The smallest index ``(1,)`` of ``(blocks, K)``, and the largest plus one."""
    flat = indices.graph.constant([-1], np.int64)
    first, last = (indices.graph.node(kind, indices, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
    return indices.graph.node("Reshape", first, flat), indices.graph.node("Reshape", last + 1, flat)


def _resampled(graph: Graph, source: Value, taps: Pass, shape: list[int]) -> Value:
    """Weighted sums of the slices of ``source`` along its first axis, rounded to uint8, in the given shape.

    Args:
        graph: The graph to add to.
        source: ``(L, N)`` uint8.
        taps: The slices that each block uses, ``(blocks, K)`` or ``(blocks, K, 3)``; and their weights, see `_taps`.
        shape: Shape of the result; its elements are in the order ``(S, N)``, or ``(S, 3, N)`` for indices with three
            dimensions.
    """
    indices, weights = taps
    pixels = graph.node("Gather", source, indices, axis=0).cast(np.float32)
    pixels = graph.node("Reshape", pixels, graph.constant([0, 0, -1], np.int64))
    upper, lower = graph.split(graph.node("MatMul", weights, pixels), axis=1)
    total = upper + (graph.node("Floor", lower) * 2.0**-HALF_BITS + 0.5)
    rounded = graph.node("Floor", graph.node("Clip", total, 0.0, 255.0)).cast(np.uint8)
    return graph.node("Reshape", rounded, graph.constant(shape, np.int64))
