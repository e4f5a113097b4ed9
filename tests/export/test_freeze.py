from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from alphanet_export.freeze import fold_batch_norms, freeze
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.calibration import check_statistics
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY, IMAGENET_FAMILY

SMALL, LARGE = ALPHANET_TINY.smallest, ALPHANET_TINY.largest


def live(arch: Any = LARGE) -> AlphaNet:
    return fill_live(AlphaNet(arch, ALPHANET_TINY, 10)).eval()


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def test_folding_keeps_the_logits_and_leaves_no_batch_norm() -> None:
    net, images = live(), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = fold_batch_norms(net)
    with torch.inference_mode():
        assert relative(folded(images), net(images)) < 1e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_program_computes_the_net_and_the_net_is_left_alone() -> None:
    net = live(SMALL).train()
    frozen = freeze(net)
    assert net.training and not frozen.net.training
    assert not frozen.resizes and not frozen.dynamic_batch
    image = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert relative(frozen.program.module()(image), frozen.net(image)) < 1e-5
    assert not any("stack_trace" in node.meta for node in frozen.program.graph.nodes)


def test_dynamic_batch_with_a_resize_takes_any_number_of_images() -> None:
    frozen = freeze(live(SMALL), img_size=14, dynamic_batch=True)
    assert frozen.resizes
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            assert relative(frozen.program.module()(images), frozen.net(images)) < 1e-5


def test_calibration_sets_the_statistics_of_the_extracted_subnet() -> None:
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = None
    generator = torch.Generator().manual_seed(2)
    frozen = freeze(supernet, [torch.randn(8, 3, 12, 12, generator=generator) for _ in range(2)], arch=SMALL)
    assert frozen.net.arch == SMALL and not frozen.net.supernet
    assert isinstance(frozen.net.calibration, dict)
    assert (frozen.net.calibration["images"], frozen.net.calibration["batches"]) == (16, 2)
    assert supernet.calibration is None


@pytest.mark.parametrize("calibration", [None, "sliced"])
def test_statistics_that_are_not_set_or_sliced_are_refused(calibration: Any) -> None:
    net = live()
    net.calibration = calibration
    with pytest.raises(UsageError, match="--calib-data"):
        freeze(net)


@pytest.mark.parametrize("calibration", [None, "random", "sliced", "training"])
def test_slices_of_a_supernet_that_is_not_the_published_one_are_refused(calibration: Any) -> None:
    supernet = build_supernet(ALPHANET_TINY, 10)
    supernet.calibration = calibration
    for arch in (SMALL, LARGE):
        with pytest.raises(UsageError, match="--calib-data"):
            check_statistics(supernet, arch)


def test_known_statistics_are_accepted() -> None:
    net = live()
    for calibration in ("random", "training", "checkpoint", {"images": 1, "batches": 1, "digest": "00"}):
        net.calibration = calibration  # type: ignore[assignment]
        check_statistics(net)
    supernet = build_supernet(ALPHANET_TINY, 10)
    supernet.calibration = "checkpoint"
    check_statistics(supernet, SMALL)


def test_bad_requests_are_refused() -> None:
    net = live()
    with pytest.raises(ValueError, match="image size is 0"):
        freeze(net, img_size=0)
    supernet = build_supernet(ALPHANET_TINY, 10)
    supernet.calibration = "checkpoint"
    with pytest.raises(ValueError, match="pass the arch to freeze"):
        freeze(supernet)
    net.reset_classifier(0)
    with pytest.raises(UsageError, match="no classifier"):
        freeze(net)


@pytest.mark.parametrize(("size", "short_side"), [(192, 219), (224, 256), (256, 292), (288, 329)])
def test_preprocessing_describes_the_exported_input(size: int, short_side: int) -> None:
    member = IMAGENET_FAMILY[0]
    with torch.device("meta"):
        net = AlphaNet(member.arch)
    preprocessing = input_of(net, size)
    assert (preprocessing.input_size, preprocessing.resize_size) == (size, short_side)
    assert preprocessing.interpolation == "bicubic"
