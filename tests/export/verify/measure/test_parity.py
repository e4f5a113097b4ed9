from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from alphanet_export.onnx_model import FloatArray, ImageArray
from alphanet_export.verify.measure.parity import (
    LARGEST_TOLERANCE,
    TOLERANCE,
    Parity,
    allow_rounding,
    compare_logits,
    measure_consistency,
    measure_parity,
    synthetic_images,
    torch_logits,
)
from alphanet_zoo.errors import AlphaNetError, ParityError
from alphanet_zoo.nn.model import AlphaNet
from tests.export.exported import corrupted, tiny_net, tiny_onnx


@pytest.fixture(scope="module")
def net() -> AlphaNet:
    return tiny_net()


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_an_export_computes_what_its_net_computes(folder: Path, net: AlphaNet, name: str) -> None:
    parity = measure_parity(folder / f"{name}.onnx", net, synthetic_images(5, 12), synthetic=True)
    assert 0 < parity.max_relative_error < TOLERANCE
    assert parity.top1_agreement == 1.0
    assert (parity.images, parity.synthetic) == (5, True)
    assert [level.level for level in parity.levels] == ["basic", "all"]
    assert parity.check() is parity


def test_a_corrupt_inner_convolution_breaks_parity(folder: Path, net: AlphaNet) -> None:
    (folder / "corrupt.onnx").write_bytes(corrupted(tiny_onnx(), factor=1.1))
    parity = measure_parity(folder / "corrupt.onnx", net, synthetic_images(4, 12))
    assert all(level.max_relative_error > TOLERANCE for level in parity.levels)
    with pytest.raises(ParityError, match="does not compute what PyTorch computes"):
        parity.check()


def test_the_error_is_the_worst_images_share_of_its_largest_logit(folder: Path, net: AlphaNet) -> None:
    (folder / "scaled.onnx").write_bytes(corrupted(tiny_onnx()))
    images = synthetic_images(3, 12)
    parity = measure_parity(folder / "scaled.onnx", net, images)
    singles = [measure_parity(folder / "scaled.onnx", net, image[None]).max_relative_error for image in images]
    assert parity.max_relative_error == pytest.approx(max(singles), rel=1e-3)
    assert min(singles) < max(singles)
    last = parity.levels[-1]
    largest = net(images).abs().max().item()
    assert last.max_absolute_error <= last.max_relative_error * largest * (1 + 1e-6)


def test_a_logit_that_is_not_finite_breaks_parity(folder: Path, net: AlphaNet) -> None:
    (folder / "nan.onnx").write_bytes(corrupted(tiny_onnx(), factor=float("nan")))
    parity = measure_parity(folder / "nan.onnx", net, synthetic_images(2, 12))
    assert parity.max_relative_error == np.inf
    with pytest.raises(ParityError):
        parity.check()


def test_classes_that_are_tied_agree(folder: Path) -> None:
    # The bias makes two classes equal up to 1e-4 of 100; the file prefers the one that the net does not.
    net, bias = tiny_net(), torch.full((10,), -100.0)
    with torch.no_grad():
        net.classifier.weight[1] = net.classifier.weight[0]
        net.classifier.bias[:] = bias + torch.tensor([200.0, 200.0 - 1e-4] + 8 * [0.0])
    proto = onnx.load_model_from_string(tiny_onnx())
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        if values.shape == (10,):
            values = net.classifier.bias.detach().numpy()[[1, 0, *range(2, 10)]]
        elif values.shape[:1] == (10,):
            values[1] = values[0]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    onnx.save(proto, folder / "tied.onnx")
    parity = measure_parity(folder / "tied.onnx", net, synthetic_images(4, 12))
    assert [level.ties for level in parity.levels] == [4, 4]
    assert parity.top1_agreement == 1.0
    assert parity.check().holds


def test_another_network_disagrees_on_the_class(folder: Path, net: AlphaNet) -> None:
    parity = measure_parity(folder / "static.onnx", tiny_net(seed=1), synthetic_images(16, 12))
    assert parity.top1_agreement < 1.0


def test_batches_count_like_one_tensor(folder: Path, net: AlphaNet) -> None:
    images = synthetic_images(20, 12)
    whole = measure_parity(folder / "dynamic.onnx", net, images)
    parts = measure_parity(folder / "dynamic.onnx", net, iter(images.split(7)))
    assert whole.images == parts.images == 20
    assert parts.check().max_relative_error < TOLERANCE


def test_wrong_use_is_refused(folder: Path, net: AlphaNet) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        measure_parity(folder / "static.onnx", tiny_net().train(), synthetic_images(1, 12))
    with pytest.raises(ValueError, match="no images"):
        measure_parity(folder / "static.onnx", net, [])
    with pytest.raises(ParityError, match=r"\(1, 10\), and those of its reference \(1, 7\)"):
        measure_parity(folder / "static.onnx", tiny_net(7), synthetic_images(1, 12))
    with pytest.raises(AlphaNetError, match="cannot run"):
        measure_parity(folder / "static.onnx", net, synthetic_images(1, 16))


def test_consistency_compares_the_file_with_itself(folder: Path, net: AlphaNet) -> None:
    sound = measure_consistency(folder / "static.onnx", synthetic_images(3, 12), synthetic=True)
    assert sound.check().max_relative_error < TOLERANCE
    (folder / "other.onnx").write_bytes(corrupted(tiny_onnx()))
    assert measure_consistency(folder / "other.onnx", synthetic_images(3, 12)).holds  # It cannot know better.


def test_synthetic_images_are_seeded_smooth_and_normalised() -> None:
    images = synthetic_images(4, 48)
    assert images.shape == (4, 3, 48, 48) and images.dtype == torch.float32
    assert torch.equal(images, synthetic_images(4, 48))
    assert not torch.equal(images, synthetic_images(4, 48, seed=1))
    assert torch.allclose(images.mean(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(images.std(dim=(1, 2, 3)), torch.ones(4), atol=1e-5)
    step = (images[..., 1:] - images[..., :-1]).std()
    assert step < 0.5  # White noise has 1.41.


class Cancelling(torch.nn.Module):
    """A network whose float32 logits lose digits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1.5 * x.mean((2, 3)) + 300) - 300


def test_a_network_that_amplifies_rounding_has_a_larger_tolerance() -> None:
    """Four times PyTorch's own error, and at most 1e-4; a wrong file is still refused."""
    net, images = Cancelling().eval(), synthetic_images(8, 16)
    own = net(images).numpy()
    exact = net(images.double()).numpy()
    error = float((np.abs(own - exact).max(1) / np.abs(exact).max(1)).max())
    assert TOLERANCE < error < LARGEST_TOLERANCE / 2

    def compared(factor: float) -> Parity:
        def run(pixels: ImageArray) -> FloatArray:
            return (torch_logits(net)(pixels) * factor).astype(np.float32)

        return compare_logits({"all": run}, "PyTorch", torch_logits(net), images, True, TOLERANCE)

    raised = allow_rounding(compared(1 + error), net, images)
    assert not compared(1 + error).holds and raised.holds
    assert raised.tolerance == pytest.approx(min(4 * error, LARGEST_TOLERANCE))
    assert not allow_rounding(compared(1.01), net, images).holds
    assert allow_rounding(compared(1.0), net, images).tolerance == TOLERANCE
