from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alphanet_export.build import Source, open_source, tensors_sha256
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.metadata import describe, facts, label_names, top1_text
from alphanet_zoo import __version__
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, IMAGENET_FAMILY
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.convert import load_upstream
from alphanet_zoo.zoo.pins import PUBLISHED_CFG
from alphanet_zoo.zoo.registry import create_model


@pytest.fixture(scope="module")
def tiny() -> FrozenNet:
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 3)).eval()
    net.pretrained_cfg["label_names"] = ("null", "één", "zwei")
    return freeze(net)


def a4(size: int) -> FrozenNet:
    """The metadata's view of A4 at an input size; it has no graph, which metadata does not read."""
    with torch.device("meta"):
        net = AlphaNet(IMAGENET_FAMILY[4].arch).eval()
    net.calibration = "checkpoint"
    net.pretrained_cfg |= PUBLISHED_CFG["imagenet"]
    return FrozenNet(net, None, input_of(net, size), False)  # type: ignore[arg-type]


def a4_source(frozen: FrozenNet, weights: str = "a4.safetensors") -> Source:
    return Source(frozen.net, "alphanet_a4", weights, "00", published_top1=80.01)


def test_entries_are_json_and_say_what_the_file_is(tiny: FrozenNet) -> None:
    entries = {key: json.loads(text) for key, text in describe(tiny, Source(tiny.net, "tiny", "random")).items()}
    arch = ALPHANET_TINY.smallest
    tools = entries.pop("alphanet.tools")
    assert SearchSpace.from_dict(entries.pop("alphanet.space")) == ALPHANET_TINY
    assert entries == {
        "alphanet.name": "tiny",
        "alphanet.arch": arch.to_dict(),
        "alphanet.num_classes": 3,
        "alphanet.macs": count_macs(arch, ALPHANET_TINY, 3),
        "alphanet.params": count_params(arch, ALPHANET_TINY, 3),
        "alphanet.preprocessing": {
            "input_size": 12,
            "resize_size": 13,
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "alphanet.labels": ["null", "één", "zwei"],
        "alphanet.weights": "random",
        "alphanet.weights_sha256": tensors_sha256(tiny.net),
        "alphanet.calibration": "random",
        "alphanet.published_top1": None,
    }
    assert tools["alphanet_zoo"] == __version__ and tools["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"onnx", "onnxscript", "onnxruntime", "python"} < set(tools)


def test_published_accuracy_only_for_the_published_input_and_real_weights() -> None:
    published, own = a4(224), a4(256)
    assert facts(published, a4_source(published))["published_top1"] == 80.01
    assert facts(published, a4_source(published))["preprocessing"]["resize_size"] == 256
    assert facts(own, a4_source(own))["published_top1"] is None
    assert facts(own, a4_source(own))["preprocessing"]["resize_size"] == 292
    assert facts(published, a4_source(published, "random"))["published_top1"] is None


def test_the_accuracy_of_included_weights_belongs_to_their_evaluation() -> None:
    source = open_source("alphanet_c10_xs")
    measured, enlarged = freeze(source.net), freeze(source.net, img_size=32)
    top1 = facts(measured, source)["published_top1"]
    assert top1 == source.net.top1 and top1 > 85 and facts(enlarged, source)["published_top1"] is None
    assert top1_text(source.net.space, top1) == f"top-1 {top1:.2f} % on the CIFAR-10 test images, measured in PyTorch"
    assert top1_text(ALPHANET, 80.01) == "ImageNet top-1 80.01 % (the authors' figure, not measured here)"
    assert top1_text(ALPHANET, None) is None


def test_labels_belong_to_the_classifier(upstream_checkpoint: Path) -> None:
    net = load_upstream(upstream_checkpoint).extract(IMAGENET_FAMILY[0].arch)
    labels = label_names(net)
    assert labels is not None and (len(labels), labels[0], labels[-1]) == (1000, "tench", "toilet tissue")
    net.reset_classifier(1000)
    assert label_names(net) is None
    assert label_names(a4(256).net) is None


def test_labels_are_not_derived_from_the_number_of_classes() -> None:
    trained = create_model("alphanet_a0", num_classes=1000).train()
    trained(torch.randn(2, 3, 32, 32))
    assert label_names(trained.eval()) is None
    assert label_names(create_model("alphanet_a0", weights="random")) is None
    with torch.device("meta"):
        assert label_names(AlphaNet(IMAGENET_FAMILY[0].arch, num_classes=10)) is None
        assert label_names(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 1000)) is None


def test_digest_of_tensors_sees_every_value(tiny: FrozenNet) -> None:
    before = tensors_sha256(tiny.net)
    other = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 3))
    assert tensors_sha256(other) == before
    with torch.no_grad():
        other.get_buffer("bn1.running_mean")[0] += 1e-6
    assert tensors_sha256(other) != before
