from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from alphanet_export.writers import onnx_passes

HEADER = '<ir_version: 10, opset_import: ["" : 18], producer_name: "elsewhere", doc_string: "/home/somebody/net.py">'


def model_of(body: str) -> ir.Model:
    proto = parser.parse_model(f"{HEADER} {body}")
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: ir.Model, array: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": array})[0]
    return result


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_spatial_means_become_global_pools() -> None:
    for axes, keep in (("2, 3", 1), ("-1, -2", 1), ("2, 3", 0)):
        tail = "[2, 4, 1, 1]" if keep else "[2, 4]"
        model = model_of(
            f"g (float[2, 4, 5, 6] x) => (float{tail} y) <int64[2] a = {{{axes}}}> "
            f"{{ y = ReduceMean <keepdims = {keep}> (x, a) }}"
        )
        onnx_passes.pool_globally(model)
        assert operators(model) == ["GlobalAveragePool"] + ([] if keep else ["Flatten"])
        x = images(2, 4, 5, 6)
        np.testing.assert_allclose(run(model, x), x.mean((2, 3), keepdims=bool(keep)), rtol=1e-5, atol=1e-6)


def test_other_means_stay() -> None:
    model = model_of("g (float[2, 4, 5, 6] x) => (float[2, 1, 5, 1] y) <int64[2] a = {1, 3}> { y = ReduceMean (x, a) }")
    onnx_passes.pool_globally(model)
    assert operators(model) == ["ReduceMean"]


def test_reshape_of_a_pooled_map_becomes_flatten_and_others_stay() -> None:
    pooled = model_of("g (float[2, 4, 1, 1] x) => (float[2, 4] y) <int64[2] s = {2, 4}> { y = Reshape (x, s) }")
    whole = model_of("g (float[2, 4, 3, 1] x) => (float[2, 12] y) <int64[2] s = {2, 12}> { y = Reshape (x, s) }")
    for model in (pooled, whole):
        onnx_passes.flatten_maps(model)
    assert operators(pooled) == ["Flatten"]
    assert operators(whole) == ["Reshape"]
    assert run(pooled, images(2, 4, 1, 1)).shape == (2, 4)


def test_resize_names_its_two_axes_and_needs_no_shape() -> None:
    model = model_of(
        "g (float[N, 3, 4, 4] x) => (float[N, 3, 7, 7] y) <int64[2] side = {7, 7}> {"
        " front = Shape <end = 2> (x) sizes = Concat <axis = 0> (front, side)"
        ' y = Resize <mode = "cubic", cubic_coeff_a = -0.75, coordinate_transformation_mode = "half_pixel">'
        " (x, , , sizes) }"
    )
    x = images(3, 3, 4, 4)
    before = run(model, x)
    onnx_passes.resize_sides(model)
    onnx_passes.drop_no_ops(model)
    assert operators(model) == ["Resize"]
    np.testing.assert_array_equal(run(model, x), before)


@pytest.mark.parametrize(("batch", "transposed"), [(1, 1), (1, 0), (3, 1)])
def test_classifier_of_one_image_becomes_a_convolution(batch: int, transposed: int) -> None:
    proto = parser.parse_model(
        f"{HEADER} g (float[{batch}, 4, 1, 1] x) => (float[{batch}, 5] y) "
        f"{{ f = Flatten (x) y = Gemm <transB = {transposed}> (f, w, b) }}"
    )
    weight, bias = images(5, 4), images(5)
    tensors = {"w": weight if transposed else np.ascontiguousarray(weight.T), "b": bias}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    onnx_passes.classify_by_convolution(model)
    onnx_passes.drop_no_ops(model)
    assert operators(model) == (["Conv", "Flatten"] if batch == 1 else ["Flatten", "Gemm"])
    x = images(batch, 4, 1, 1)
    np.testing.assert_allclose(run(model, x), x[:, :, 0, 0] @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_no_ops_go_and_a_cast_that_casts_stays() -> None:
    model = model_of(
        "g (float[2, 3] x) => (double[2, 3] y) {"
        " a = Identity (x) b = Cast <to = 1> (a) c = Dropout (b) unused = Relu (c) y = Cast <to = 11> (c) }"
    )
    onnx_passes.drop_no_ops(model)
    assert operators(model) == ["Cast"]
    np.testing.assert_array_equal(run(model, images(2, 3)), images(2, 3).astype(np.float64))


def test_tidy_leaves_nothing_of_the_machine_and_names_nodes_by_number() -> None:
    model = model_of("g (float[2, 3] x) => (float[2, 3] y) { a = Relu (x) b = Relu (a) y = Sigmoid (b) }")
    for node in model.graph:
        node.metadata_props["stack"] = "/home/somebody/net.py"
        node.outputs[0].metadata_props["stack"] = "/home/somebody/net.py"
    onnx_passes.tidy(model)
    proto = ir.to_proto(model)
    assert b"/home" not in proto.SerializeToString()
    assert [node.name for node in proto.graph.node] == ["Relu_0", "Relu_1", "Sigmoid_0"]
    assert proto.producer_name == "alphanet-export"


@pytest.mark.parametrize(("first", "named"), [("s77", "batch"), ("1", 1)])
def test_batch_axis_is_named_where_it_is_not_fixed(first: str, named: object) -> None:
    model = model_of(f"g (float[{first}, 3] x) => (float[{first}, 3] y) {{ y = Relu (x) }}")
    onnx_passes.name_batch(model)
    for value in (*ir.to_proto(model).graph.input, *ir.to_proto(model).graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        assert (dim.dim_param or dim.dim_value) == named
