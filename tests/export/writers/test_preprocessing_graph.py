"""Preprocessing inside the graph, compared with the package's own, which uses Pillow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from alphanet_export.build import Source
from alphanet_export.embedding import Embedding
from alphanet_export.freeze import freeze
from alphanet_export.metadata import describe
from alphanet_export.onnx_model import open_session
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_export.writers.preprocessing_graph import embed_in_onnx, preprocessing_model
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import UsageError
from tests.export.exported import tiny_net, tiny_onnx

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = [
    (1, 1),
    (1, 7),
    (2, 3),
    (24, 24),
    (27, 27),
    (27, 31),
    (30, 27),
    (23, 25),
    (37, 50),
    (50, 37),
    (61, 480),
    (320, 44),
    (90, 44),
    (27, 20),
    (20, 9),
]
"""Heights and widths, with a ratio of at most 8, so that the package resizes the whole image. Of some tall images,
Pillow resizes the columns first."""
EXTREME = [(1, 9), (1, 3000), (3000, 1), (17, 400), (400, 40), (2, 70_000)]


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """A random uint8 image ``(3, H, W)`` with flat areas, edges and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, -(-height // 4), -(-width // 4)), np.uint8).repeat(4, 1).repeat(4, 2)
    noise = rng.integers(0, 256, (3, height, width), np.uint8)
    chosen = rng.random((1, height, width)) < 0.5
    return torch.from_numpy(np.where(chosen, noise, coarse[:, :height, :width]))


def computed(session: onnxruntime.InferenceSession, image: Tensor) -> np.ndarray:
    """What a graph computes from an image ``(3, H, W)``."""
    result: np.ndarray = session.run(None, {"image": image.permute(1, 2, 0)[None].contiguous().numpy()})[0]
    return result


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "short"), [(24, 27), (7, 7), (12, 14)])
def test_every_pixel_is_pillows(interpolation: str, size: int, short: int) -> None:
    preprocessing = Preprocessing(size, short, interpolation, MEAN, STD)
    session = open_session(preprocessing_model(preprocessing).SerializeToString())
    for seed, (height, width) in enumerate(SHAPES):
        image = photograph(height, width, seed)
        np.testing.assert_allclose(computed(session, image)[0], preprocessing(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_very_long_images_differ_by_a_grey_level_at_most(interpolation: str) -> None:
    preprocessing = Preprocessing(24, 27, interpolation, (0.0,) * 3, (1 / 255,) * 3)
    session = open_session(preprocessing_model(preprocessing).SerializeToString())
    for height, width in EXTREME:
        image = photograph(height, width)
        difference = np.abs(computed(session, image)[0] - preprocessing(image).numpy()).round()
        assert difference.max() <= 1 and (difference > 0).mean() < 0.02, (height, width)


def test_large_photographs_are_pillows_too() -> None:
    preprocessing = Preprocessing(224, 256, "bicubic", MEAN, STD)
    session = open_session(preprocessing_model(preprocessing).SerializeToString())
    for height, width in ((375, 500), (1200, 900), (256, 260)):
        image = photograph(height, width)
        np.testing.assert_allclose(computed(session, image)[0], preprocessing(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("opset", "probabilities"), [(18, False), (24, True)])
def test_a_file_takes_any_image(opset: int, probabilities: bool, tmp_path: Path) -> None:
    net = tiny_net()
    frozen = freeze(net, img_size=14)
    embedding = Embedding(frozen.preprocessing, probabilities)
    plain = onnx_bytes(frozen, describe(frozen, Source(net), embedding), opset=opset)
    path = tmp_path / "net.onnx"
    path.write_bytes(embed_in_onnx(plain, embedding))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (given,), (result,) = model.graph.input, model.graph.output
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in given.type.tensor_type.shape.dim] == [1, "height", "width", 3]
    assert (given.name, result.name) == ("image", "probabilities" if probabilities else "logits")
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    session = open_session(path)
    with open_runtime(path, threads=1) as runtime:
        assert runtime.embedded and runtime.input_size is None and runtime.batch == 1
        for height, width in ((1, 1), (30, 41)):
            image = photograph(height, width)
            with torch.inference_mode():
                expected = net(frozen.preprocessing(image)[None])
            found = computed(session, image)
            np.testing.assert_allclose(found, expected.softmax(1) if probabilities else expected, rtol=1e-5, atol=1e-6)
            images = image.permute(1, 2, 0)[None].numpy()
            log = expected.log_softmax(1) if probabilities else expected
            np.testing.assert_allclose(runtime.infer(images), log, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match=r"takes uint8 RGB images of shape \(N, H, W, 3\), not float32"):
            runtime.infer(np.zeros((1, 3, 14, 14), np.float32))


def test_int8_files_and_their_metadata_are_kept() -> None:
    content = tiny_onnx()
    before = onnx.load_model_from_string(content)
    after = onnx.load_model_from_string(embed_in_onnx(content, Embedding(freeze(tiny_net()).preprocessing)))
    assert after.metadata_props == before.metadata_props and after.opset_import == before.opset_import
    assert list(after.graph.node)[-len(before.graph.node) :] == list(before.graph.node)


def test_other_interpolations_are_refused() -> None:
    preprocessing = dataclasses.replace(freeze(tiny_net()).preprocessing, interpolation="lanczos")
    with pytest.raises(UsageError, match="supports bilinear and bicubic interpolation, not lanczos"):
        embed_in_onnx(tiny_onnx(), Embedding(preprocessing))
