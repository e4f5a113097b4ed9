"""The network: shapes, slices, extraction, modes and provenance."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import alphanet_zoo as az
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.layers import drop_path
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_CIFAR, ALPHANET_TINY
from alphanet_zoo.space.space import SearchSpace

SPACES = (ALPHANET_TINY, ALPHANET_CIFAR)


def images(n: int = 2, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def live_supernet(space: SearchSpace = ALPHANET_TINY, num_classes: int = 10) -> az.AlphaNet:
    return fill_live(az.build_supernet(space, num_classes))


@pytest.mark.parametrize("space", [*SPACES, ALPHANET], ids=lambda s: s.name)
def test_supernet_in_training_equals_its_extracted_subnets(space: SearchSpace) -> None:
    supernet = live_supernet(space).train()
    rng = np.random.default_rng(0)
    archs = [space.smallest, space.sample(rng)]
    for arch in archs if space is ALPHANET else [*archs, space.largest, space.sample(rng)]:
        x = images(3, arch.resolution)
        ours = supernet(x, arch)
        extracted = supernet.extract(arch)
        assert extracted.training and not extracted.supernet and extracted.arch == arch
        torch.testing.assert_close(extracted(x), ours, rtol=1e-4, atol=1e-4)


def test_every_entry_of_the_arch_matters() -> None:
    supernet = live_supernet().train()
    x = images(4, 24)
    smallest = ALPHANET_TINY.smallest
    baseline = supernet(x, smallest)
    for index, (entry, choices) in enumerate(ALPHANET_TINY.entries):
        if len(choices) > 1:
            scalars = list(smallest.scalars)
            scalars[index] = choices[-1]
            assert not torch.allclose(supernet(x, az.ArchSpec.from_scalars(scalars)), baseline), entry


def test_gradients_reach_the_slice_and_nothing_else() -> None:
    supernet = live_supernet().train()
    supernet(images(4), ALPHANET_TINY.smallest).square().sum().backward()
    classifier = supernet.classifier.weight.grad
    width = ALPHANET_TINY.smallest.width[-1]
    assert classifier is not None and classifier[:, :width].abs().sum() > 0 and classifier[:, width:].abs().sum() == 0
    assert supernet.blocks[0][1].conv_dw.weight.grad is None


def test_forward_by_hand() -> None:
    """A whole net of one stage, written out once more with plain functions."""
    space = ALPHANET_TINY
    net = fill_live(az.AlphaNet(space.smallest, space, 10)).eval()
    x = images(2, 12)
    w = net.state_dict()

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        stats = (w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"])
        return F.batch_norm(y, *stats, False, 0.0, 1e-5)

    y = F.silu(norm(F.conv2d(x, w["conv_stem.weight"], stride=space.stem_stride, padding=1), "bn1"))
    for s, stage in enumerate(space.stages):
        name, block = f"blocks.{s}.0", net.blocks[s][0].shape
        assert len(net.blocks[s]) == 1
        z = y
        if stage.expand_ratio != (1,):
            z = F.silu(norm(F.conv2d(z, w[f"{name}.conv_pw.weight"]), f"{name}.bn1"))
        z = F.conv2d(z, w[f"{name}.conv_dw.weight"], stride=stage.stride, padding=1, groups=z.shape[1])
        z = F.silu(norm(z, f"{name}.bn2"))
        if stage.se:
            g = F.relu(
                F.conv2d(z.mean((2, 3), True), w[f"{name}.se.conv_reduce.weight"], w[f"{name}.se.conv_reduce.bias"])
            )
            g = F.conv2d(g, w[f"{name}.se.conv_expand.weight"], w[f"{name}.se.conv_expand.bias"])
            z = z * (F.relu6(g + 3) / 6)
        z = norm(F.conv2d(z, w[f"{name}.conv_pwl.weight"]), f"{name}.bn3")
        if stage.stride == 2:
            y = F.avg_pool2d(y, 2, 2, y.shape[-1] % 2)
        if block.in_channels != block.out_channels:
            y = F.conv2d(y, w[f"{name}.shortcut.weight"])
        y = z + y
    y = F.silu(norm(F.conv2d(y, w["conv_final.weight"]), "bn2")).mean((2, 3), True)
    y = F.silu(F.conv2d(y, w["conv_head.weight"])).flatten(1)
    expected = F.linear(y, w["classifier.weight"], w["classifier.bias"])
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("resolution", [8, 12, 16, 31, (40, 20)])
def test_any_batch_and_image_size(size: int, resolution: int | tuple[int, int]) -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 7)).eval()
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    x = torch.randn(size, 3, height, width)
    assert net(x).shape == (size, 7)
    if (height, width) != (16, 16):
        resized = F.interpolate(x, (16, 16), mode="bicubic", align_corners=False, antialias=False)
        torch.testing.assert_close(net(x), net(resized))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 1, 16, 16), (2, 4, 16, 16), (2, 16, 16, 3)])
def test_what_are_no_colour_images_is_refused(shape: tuple[int, ...]) -> None:
    net = live_supernet()
    with pytest.raises(ValueError, match=r"images are floats of shape \(N, 3, H, W\), not torch.float32 of shape"):
        net(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"not torch.uint8"):
        net.forward_features(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), resize=False)


def test_features_and_head_are_the_forward() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 7)).eval()
    x = images()
    features = net.forward_features(x)
    assert features.shape == (2, net.num_features, 4, 4)
    assert torch.equal(net.forward_head(features), net(x))
    hidden = net.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, net.head_hidden_size)
    assert torch.equal(net.classifier(hidden), net(x))


def test_features_without_resize_keep_the_size() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 7)).eval()
    assert net.forward_features(torch.randn(1, 3, 33, 50), resize=False).shape == (1, net.num_features, 9, 13)


def test_reset_classifier() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 7)).eval()
    hidden = net.forward_head(net.forward_features(images()), pre_logits=True)
    net.reset_classifier(3)
    assert net.num_classes == 3 and net(images()).shape == (2, 3) and net.get_classifier() is net.classifier
    net.reset_classifier(0)
    assert torch.equal(net(images()), hidden)
    for bad in (-1, 2.5, True):
        with pytest.raises(ValueError, match="num_classes"):
            net.reset_classifier(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only 'avg'"):
        net.reset_classifier(3, global_pool="max")


def test_eval_runs_at_the_own_arch_only() -> None:
    supernet = live_supernet().eval()
    assert supernet(images(), ALPHANET_TINY.largest).shape == (2, 10)
    with pytest.raises(ValueError, match="extract the subnet and calibrate it first"):
        supernet(images(), ALPHANET_TINY.smallest)


def test_what_it_does_not_contain_is_refused() -> None:
    static = live_supernet().extract(ALPHANET_TINY.smallest).train()
    assert static.contains(ALPHANET_TINY.smallest) and not static.contains(ALPHANET_TINY.largest)
    with pytest.raises(ValueError, match="does not contain"):
        static(images(), ALPHANET_TINY.largest)
    with pytest.raises(ValueError, match="does not contain"):
        static.extract(ALPHANET_TINY.largest)
    with pytest.raises(ValueError, match="the space alphanet_tiny has 3"):
        static.extract(ALPHANET.smallest)
    # the largest net without the supernet's shortcuts lacks what an arch with other widths needs
    plain = az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10).train()
    narrow = az.ArchSpec.from_dict({**ALPHANET_TINY.largest.to_dict(), "width": [8, 16, 24, 32, 128]})
    assert not plain.contains(narrow) and live_supernet().contains(narrow)
    with pytest.raises(ValueError, match="build_supernet"):
        plain(images(), narrow)


def test_a_supernet_keeps_no_statistics_and_a_static_net_does() -> None:
    supernet = live_supernet().train()
    before = copy.deepcopy(supernet.state_dict())
    for arch in (None, ALPHANET_TINY.smallest):
        supernet(images(4), arch)
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())
    static = supernet.extract(ALPHANET_TINY.largest).train()
    static(images(4))
    assert not torch.equal(static.bn1.running_mean, before["bn1.running_mean"])
    assert static.bn1.num_batches_tracked == 1 and static.calibration == "training"


def test_fresh_supernet_has_neutral_statistics() -> None:
    supernet = az.build_supernet(ALPHANET_TINY, 10).train()
    supernet(images(4))
    for layer in supernet.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean.eq(0).all() and layer.running_var.eq(1).all() and layer.eps == 1e-5


def test_last_norm_of_every_block_starts_at_zero_and_nothing_else() -> None:
    net = az.build_supernet(ALPHANET_TINY, 10)
    zeros = {n for n, p in net.named_parameters() if n.endswith("weight") and p.eq(0).all()}
    assert zeros == {n for n, _ in net.named_parameters() if n.endswith("bn3.weight")}


def test_statistics_that_are_not_set_warn_once() -> None:
    net = az.AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)
    assert net.calibration is None
    net.train()(images(4, 16), ALPHANET_TINY.smallest)
    fresh = az.build_supernet(ALPHANET_TINY, 10).extract(ALPHANET_TINY.smallest).eval()
    assert fresh.calibration is None
    with pytest.warns(UserWarning, match="not set, so outputs are meaningless"):
        fresh(images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh(images())


def test_provenance_travels() -> None:
    supernet = live_supernet()
    supernet.calibration = "checkpoint"
    assert supernet.extract(ALPHANET_TINY.smallest).calibration == "sliced"
    assert supernet.extract(ALPHANET_TINY.largest).calibration == "checkpoint"
    calibrated = az.calibrate(supernet.extract(ALPHANET_TINY.largest), [images(4)])
    assert calibrated.extract(calibrated.arch).calibration == calibrated.calibration
    shallow = az.ArchSpec.from_dict({**calibrated.arch.to_dict(), "depth": [1, 1, 1]})
    assert calibrated.extract(shallow).calibration == "sliced"
    assert copy.deepcopy(calibrated).calibration == calibrated.calibration


def test_extract_copies() -> None:
    supernet = live_supernet()
    static = supernet.extract(ALPHANET_TINY.largest)
    with torch.no_grad():
        for value in static.state_dict().values():
            value.zero_()
    assert all(p.abs().sum() > 0 for p in supernet.parameters())
    assert static.training
    assert supernet.eval().extract(ALPHANET_TINY.smallest).training is False


def test_extraction_draws_nothing() -> None:
    supernet = live_supernet()
    state = torch.get_rng_state()
    supernet.extract(ALPHANET_TINY.smallest)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_and_drop_connect_only_at_the_own_arch_in_training() -> None:
    supernet = live_supernet().train()
    x, other = images(4), ALPHANET_TINY.smallest
    plain_other = supernet(x, other)
    supernet.drop_rate = supernet.drop_path_rate = 0.5
    torch.manual_seed(0)
    first, second = supernet(x), supernet(x)
    assert not torch.equal(first, second)
    assert torch.equal(supernet(x, other), plain_other)
    supernet.eval()
    assert torch.equal(supernet(x), supernet(x))


def test_drop_connect_drops_where_the_spec_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def record(x: torch.Tensor, rate: float) -> torch.Tensor:
        rates.append(rate)
        return x

    monkeypatch.setattr("alphanet_zoo.nn.layers.drop_path", record)
    supernet = az.build_supernet(ALPHANET, 10).train()
    supernet.drop_path_rate = 0.2
    supernet(images(2, 32))
    # mb6 has blocks 27..34, the first of stride 2; mb7 has 35, whose channels change, and 36
    assert rates == pytest.approx([0.2 * i / 37 for i in (28, 29, 30, 31, 32, 33, 34, 36)])


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(4000, 2, 1, 1), 0.25)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(dropped[:, 0], dropped[:, 1])


def test_static_net_traces_without_a_slice() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).eval()
    program = torch.export.export(net, (images(1, 12),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in operators if "slice" in name or "narrow" in name or "upsample" in name]


def test_channels_last_and_bfloat16_autocast() -> None:
    net = fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10)).eval()
    expected = net(images())
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images().to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(net(images())).all()


def test_config_round_trip() -> None:
    net = az.calibrate(live_supernet().extract(ALPHANET_TINY.smallest), [images(4)])
    net.pretrained_cfg |= {"label_names": ("a", "b"), "license": "apache-2.0"}
    again = az.AlphaNet.from_config(net.config())
    assert (again.arch, again.space, again.num_classes, again.supernet) == (net.arch, net.space, 10, False)
    assert again.calibration == net.calibration and again.pretrained_cfg == net.pretrained_cfg
    supernet = az.AlphaNet.from_config(az.build_supernet(ALPHANET_TINY, 10).config())
    assert supernet.supernet and supernet.contains(ALPHANET_TINY.smallest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "resnet"}, "model_type"),
        ({"calibration": "guess"}, "calibration is 'guess'"),
        ({"arch": {"resolution": 5}}, "arch keys missing"),
        ({"space": {"name": "x"}}, "not a search space"),
        ({"num_classes": -3}, "num_classes is -3"),
    ],
)
def test_bad_configs_are_refused(change: dict[str, object], message: str) -> None:
    config = az.build_supernet(ALPHANET_TINY, 10).config()
    with pytest.raises(ValueError, match=message):
        az.AlphaNet.from_config({**config, **change})
    with pytest.raises(ValueError, match="lacks arch"):
        az.AlphaNet.from_config({key: value for key, value in config.items() if key != "arch"})


def test_bad_construction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width\[1\] is 99; the space alphanet_tiny has the choices 8 16"):
        wrong = az.ArchSpec.from_dict({**ALPHANET_TINY.largest.to_dict(), "width": [16, 99, 24, 32, 128]})
        az.AlphaNet(wrong, ALPHANET_TINY)
    with pytest.raises(ValueError, match="drop_rate is 1.0"):
        az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, drop_rate=1.0)
